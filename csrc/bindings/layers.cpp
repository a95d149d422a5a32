// Bias with activation, and losses. Names of activations, weights and dtypes of labels are checked in Python.

#include "../cpu/launch.h"
#include "arrays.h"

namespace fusedstep {
namespace {

Activation activation_of(const std::string& name) {
  const char* names[kActivationCount] = {"identity", "relu", "leaky_relu", "tanh", "sigmoid", "gelu"};
  for (int i = 0; i < kActivationCount; ++i) {
    if (name == names[i]) return static_cast<Activation>(i);
  }
  throw py::value_error("unknown activation '" + name + "'");
}

// `out` like `x`, both C-contiguous; it may be x itself.
void check_out(const Array& out, const Array& x) {
  check_same_dtype(out, x);
  check_writable(out);
  check_same_shape(out, x);
  check_overlap({&out}, {same_memory(out, x) ? nullptr : &x});
  check_c_contiguous(x);
  check_c_contiguous(out);
}

std::int64_t columns_of(const Array& x) {
  if (x.ndim() == 0) throw py::value_error(x.label() + " must have at least one axis");
  return x.shape.back();
}

// Rows of `columns` values.
std::int64_t rows_of(const Array& x, std::int64_t columns) { return columns ? x.size / columns : 0; }

void bias_activation(py::handle x_, py::handle bias_, py::handle out_, const std::string& activation, double slope) {
  const Array x = import_array(x_, "x"), out = import_array(out_, "out");
  check_out(out, x);
  const std::int64_t columns = columns_of(x);
  Array bias;
  if (!bias_.is_none()) {
    bias = import_array(bias_, "bias");
    check_vector(bias, x, columns, "values in its last axis");
    check_overlap({&out}, {&bias});
  }
  const Activation kind = activation_of(activation);
  by_dtype(x, [&](auto zero) {
    using T = decltype(zero);
    const py::gil_scoped_release unlocked;
    cpu::bias_activation<T>(kind, x.as<const T>(), bias.as<const T>(), out.as<T>(), rows_of(x, columns), columns,
                            slope);
  });
}

void bias_activation_backward(py::handle dy_, py::handle saved_, py::handle dx_, py::handle dbias_,
                              const std::string& activation, double slope) {
  const Activation kind = activation_of(activation);
  const Array dy = import_array(dy_, "dy");
  const bool reads_saved = kind != kIdentity;
  const Array saved = reads_saved ? import_array(saved_, "saved") : dy;
  if (reads_saved) {
    check_same_dtype(saved, dy);
    check_same_shape(saved, dy);
    check_c_contiguous(saved);
  }
  const Array dx = import_array(dx_, "dx");
  check_out(dx, dy);
  const std::int64_t columns = columns_of(dy);
  Array dbias;
  if (!dbias_.is_none()) {
    dbias = import_array(dbias_, "dbias");
    check_vector(dbias, dy, columns, "values in its last axis", true);
  }
  check_overlap({&dx, &dbias}, {reads_saved ? &saved : nullptr});
  check_overlap({&dbias}, {&dy});
  by_dtype(dy, [&](auto zero) {
    using T = decltype(zero);
    const py::gil_scoped_release unlocked;
    cpu::bias_activation_backward<T>(kind, dy.as<const T>(), saved.as<const T>(), dx.as<T>(), dbias.as<T>(),
                                     rows_of(dy, columns), columns, slope);
  });
}

void check_batch(const Array& x) {
  if (x.size == 0) {
    throw py::value_error(x.label() + " is empty (shape " + shape_text(x.shape) +
                          "): there is no mean over no element");
  }
}

Array imported_weights(py::handle weights) { return weights.is_none() ? Array{} : import_array(weights, "weights"); }

double softmax_cross_entropy(py::handle logits_, py::handle labels_, py::handle weights_, double total,
                             py::handle out_) {
  const Array logits = import_array(logits_, "logits"), out = import_array(out_, "out");
  check_batch(logits);
  check_out(out, logits);
  const Array labels = import_array(labels_, "labels", Accept::kAny), weights = imported_weights(weights_);
  const std::int64_t rows = logits.shape[0], classes = logits.shape[1];
  check_overlap({&out}, {&labels, &weights});
  const auto* label = labels.as<const std::int64_t>();
  for (std::int64_t i = 0; i < rows; ++i) {
    if (label[i] >= 0 && label[i] < classes) continue;
    throw py::value_error("'labels' must be in [0, " + std::to_string(classes) + ") but labels[" + std::to_string(i) +
                          "] is " + std::to_string(label[i]));
  }
  return by_dtype(logits, [&](auto zero) {
    using T = decltype(zero);
    const py::gil_scoped_release unlocked;
    return cpu::softmax_cross_entropy<T>(logits.as<const T>(), label, weights.as<const double>(), total, out.as<T>(),
                                         rows, classes);
  });
}

void check_probabilities(const Array& target) {
  const bool inside = by_dtype(target, [&](auto zero) {
    const auto* values = target.as<const decltype(zero)>();
    bool all = true;
    for (std::int64_t i = 0; i < target.size; ++i) all &= values[i] >= 0 && values[i] <= 1;
    return all;
  });
  if (!inside) throw py::value_error("'target' must hold values in [0, 1]");
}

double pairwise_loss(cpu::Pairwise loss, const char* name, py::handle x_, py::handle target_, py::handle weights_,
                     double total, py::handle out_) {
  const Array x = import_array(x_, name), out = import_array(out_, "out");
  check_batch(x);
  check_out(out, x);
  columns_of(x);
  const Array target = import_array(target_, "target"), weights = imported_weights(weights_);
  check_same_dtype(target, x);
  check_same_shape(target, x);
  check_c_contiguous(target);
  check_overlap({&out}, {&target, &weights});
  if (loss == cpu::Pairwise::kSigmoidCrossEntropy) check_probabilities(target);
  return by_dtype(x, [&](auto zero) {
    using T = decltype(zero);
    const py::gil_scoped_release unlocked;
    return cpu::pairwise_loss<T>(loss, x.as<const T>(), target.as<const T>(), weights.as<const double>(), total,
                                 out.as<T>(), x.shape[0], x.size / x.shape[0]);
  });
}

}  // namespace

void bind_layers(py::module_& m) {
  m.def("bias_activation", &bias_activation);
  m.def("bias_activation_backward", &bias_activation_backward);
  m.def("softmax_cross_entropy", &softmax_cross_entropy);
  m.def("sigmoid_cross_entropy", [](py::handle x, py::handle target, py::handle weights, double total, py::handle out) {
    return pairwise_loss(cpu::Pairwise::kSigmoidCrossEntropy, "logits", x, target, weights, total, out);
  });
  m.def("mean_squared_error", [](py::handle x, py::handle target, py::handle weights, double total, py::handle out) {
    return pairwise_loss(cpu::Pairwise::kMeanSquaredError, "output", x, target, weights, total, out);
  });
}

}  // namespace fusedstep
