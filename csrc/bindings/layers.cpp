// Bias with activation, and losses. Names of activations, weights and dtypes of labels are checked in Python.
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
  Arrays arrays;
  const Array x = arrays.take(x_, "x", Accept::kFloats), out = arrays.take(out_, "out", Accept::kFloats);
  check_out(out, x);
  const std::int64_t columns = columns_of(x);
  const Array bias = arrays.take_optional(bias_, "bias", Accept::kFloats);
  if (!bias_.is_none()) {
    check_vector(bias, x, columns, "values in its last axis");
    check_overlap({&out}, {&bias});
  }
  const Activation kind = activation_of(activation);
  const launch::Context context = arrays.context();
  by_float(x, [&](auto zero) {
    using T = decltype(zero);
    const py::gil_scoped_release unlocked;
    const launch::Scope scope(context);
    launch::bias_activation<T>(context, kind, x.as<const T>(), bias.as<const T>(), out.as<T>(), rows_of(x, columns),
                               columns, slope);
  });
}

void bias_activation_backward(py::handle dy_, py::handle saved_, py::handle dx_, py::handle dbias_,
                              const std::string& activation, double slope) {
  const Activation kind = activation_of(activation);
  Arrays arrays;
  const Array dy = arrays.take(dy_, "dy", Accept::kFloats);
  const bool reads_saved = kind != kIdentity;
  const Array saved = reads_saved ? arrays.take(saved_, "saved", Accept::kFloats) : dy;
  if (reads_saved) {
    check_same_dtype(saved, dy);
    check_same_shape(saved, dy);
    check_c_contiguous(saved);
  }
  const Array dx = arrays.take(dx_, "dx", Accept::kFloats);
  check_out(dx, dy);
  const std::int64_t columns = columns_of(dy);
  const Array dbias = arrays.take_optional(dbias_, "dbias", Accept::kFloats);
  if (!dbias_.is_none()) check_vector(dbias, dy, columns, "values in its last axis", true);
  check_overlap({&dx, &dbias}, {reads_saved ? &saved : nullptr});
  check_overlap({&dbias}, {&dy});
  const launch::Context context = arrays.context();
  by_float(dy, [&](auto zero) {
    using T = decltype(zero);
    const py::gil_scoped_release unlocked;
    const launch::Scope scope(context);
    launch::bias_activation_backward<T>(context, kind, dy.as<const T>(), saved.as<const T>(), dx.as<T>(), dbias.as<T>(),
                                        rows_of(dy, columns), columns, slope);
  });
}

void check_batch(const Array& x) {
  if (x.size == 0) {
    throw py::value_error(x.label() + " is empty (shape " + shape_text(x.shape) +
                          "): there is no mean over no element");
  }
}

// The host's float64, checked in Python; on the device they are float64 too, and not looked at.
Array take_weights(Arrays& arrays, py::handle weights_, std::int64_t rows) {
  if (weights_.is_none()) return {};
  const Array weights = arrays.take_of(weights_, "weights", Dtype::kFloat64);
  if (weights.shape != std::vector<std::int64_t>{rows}) {
    throw py::value_error("'weights' has shape " + shape_text(weights.shape) + " but there are " +
                          std::to_string(rows) + " samples");
  }
  check_c_contiguous(weights);
  return weights;
}

// int64 of shape (rows,), which Python sees to for the host's.
Array take_labels(Arrays& arrays, py::handle labels_, const Array& logits) {
  const Array labels = arrays.take_of(labels_, "labels", Dtype::kInt64);
  if (labels.shape != std::vector<std::int64_t>{logits.shape[0]}) {
    throw py::value_error("'labels' has shape " + shape_text(labels.shape) + " but 'logits' has shape " +
                          shape_text(logits.shape));
  }
  check_c_contiguous(labels);
  return labels;
}

// The device's are not looked at, as that would wait.
void check_label_range(const Array& labels, std::int64_t classes) {
  if (launch::kOnDevice) return;
  const auto* label = labels.as<const std::int64_t>();
  for (std::int64_t i = 0; i < labels.size; ++i) {
    if (label[i] >= 0 && label[i] < classes) continue;
    throw py::value_error("'labels' must be in [0, " + std::to_string(classes) + ") but labels[" + std::to_string(i) +
                          "] is " + std::to_string(label[i]));
  }
}

// Calls f(pointer) with where the loss goes: on the device to `value_`, a 0-d float64 array, else it is returned.
template <class F>
double with_value(Arrays& arrays, py::handle value_, const F& f) {
  double value = 0;
  if (!launch::kOnDevice) {
    f(&value);
    return value;
  }
  const Array target = arrays.take_scalar(value_, "value", Dtype::kFloat64, true);
  f(target.as<double>());
  return value;
}

double softmax_cross_entropy(py::handle logits_, py::handle labels_, py::handle weights_, double total, py::handle out_,
                             py::handle value_) {
  Arrays arrays;
  const Array logits = arrays.take(logits_, "logits", Accept::kFloats);
  const std::int64_t rows = logits.shape[0], classes = logits.shape[1];
  const Array labels = take_labels(arrays, labels_, logits), weights = take_weights(arrays, weights_, rows);
  const Array out = arrays.take(out_, "out", Accept::kFloats);
  check_batch(logits);
  check_out(out, logits);
  check_overlap({&out}, {&labels, &weights});
  check_label_range(labels, classes);
  return with_value(arrays, value_, [&](double* value) {
    const launch::Context context = arrays.context();
    by_float(logits, [&](auto zero) {
      using T = decltype(zero);
      const py::gil_scoped_release unlocked;
      const launch::Scope scope(context);
      launch::softmax_cross_entropy<T>(context, logits.as<const T>(), labels.as<const std::int64_t>(),
                                       {weights.as<const double>(), total}, out.as<T>(), value, rows, classes);
    });
  });
}

void check_probabilities(const Array& target) {
  const bool inside = by_float(target, [&](auto zero) {
    const auto* values = target.as<const decltype(zero)>();
    bool all = true;
    for (std::int64_t i = 0; i < target.size; ++i) all &= values[i] >= 0 && values[i] <= 1;
    return all;
  });
  if (!inside) throw py::value_error("'target' must hold values in [0, 1]");
}

double pairwise_loss(launch::Pairwise loss, const char* name, py::handle x_, py::handle target_, py::handle weights_,
                     double total, py::handle out_, py::handle value_) {
  Arrays arrays;
  const Array x = arrays.take(x_, name, Accept::kFloats), out = arrays.take(out_, "out", Accept::kFloats);
  check_batch(x);
  check_out(out, x);
  columns_of(x);
  const Array target = arrays.take(target_, "target", Accept::kFloats);
  const Array weights = take_weights(arrays, weights_, x.shape[0]);
  check_same_dtype(target, x);
  check_same_shape(target, x);
  check_c_contiguous(target);
  check_overlap({&out}, {&target, &weights});
  if (!launch::kOnDevice && loss == launch::Pairwise::kSigmoidCrossEntropy) check_probabilities(target);
  return with_value(arrays, value_, [&](double* value) {
    const launch::Context context = arrays.context();
    by_float(x, [&](auto zero) {
      using T = decltype(zero);
      const py::gil_scoped_release unlocked;
      const launch::Scope scope(context);
      launch::pairwise_loss<T>(context, loss, x.as<const T>(), target.as<const T>(),
                               {weights.as<const double>(), total}, out.as<T>(), value, x.shape[0],
                               x.size / x.shape[0]);
    });
  });
}

}  // namespace

void bind_layers(py::module_& m) {
  m.def("bias_activation", &bias_activation);
  m.def("bias_activation_backward", &bias_activation_backward);
  m.def("softmax_cross_entropy", &softmax_cross_entropy);
  m.def("sigmoid_cross_entropy",
        [](py::handle x, py::handle target, py::handle weights, double total, py::handle out, py::handle value) {
          return pairwise_loss(launch::Pairwise::kSigmoidCrossEntropy, "logits", x, target, weights, total, out, value);
        });
  m.def("mean_squared_error",
        [](py::handle x, py::handle target, py::handle weights, double total, py::handle out, py::handle value) {
          return pairwise_loss(launch::Pairwise::kMeanSquaredError, "output", x, target, weights, total, out, value);
        });
}

}  // namespace fusedstep
