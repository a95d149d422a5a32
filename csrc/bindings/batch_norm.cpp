// Batch norm. Hyper-parameters and the channel axis are checked in Python (reference/batch_norm.py).
#include <algorithm>
#include <optional>

#include "dropout.h"

namespace fusedstep {
namespace {

// Memory as (outer, channels, inner): C-contiguous or channels-last arrays, the other axes in logical order.
ChannelShape channel_shape(const Array& x, int axis) {
  const std::vector<int> order = memory_order(x);
  ChannelShape s{1, x.shape[axis], 1};
  bool in_order = true, inside = std::find(order.begin(), order.end(), axis) == order.end();
  int before = -1;
  for (int a : order) {
    if (a == axis) {
      inside = true;
      continue;
    }
    in_order &= a > before;
    before = a;
    (inside ? s.inner : s.outer) *= x.shape[a];
  }
  if (x.size != 0 && !(in_order && is_dense(x))) {
    throw py::value_error(x.label() + " is neither C-contiguous nor channels-last in memory (strides " +
                          strides_text(x) + "); pass numpy.ascontiguousarray(" + x.place() + ")");
  }
  return s;
}

Array take_vector(Arrays& arrays, py::handle object, const char* name, const Array& x, std::int64_t channels,
                  bool writable = false) {
  Array vector = arrays.take_optional(object, name);
  if (!object.is_none()) check_vector(vector, x, channels, "channels", writable);
  return vector;
}

// The batch's moments, in the type that x computes in.
Array take_moments(Arrays& arrays, py::handle object, const char* name, const Array& x, std::int64_t channels) {
  Array vector = arrays.take(object, name);
  const bool half = x.dtype == Dtype::kFloat16 || x.dtype == Dtype::kBfloat16;
  if (half && vector.dtype != Dtype::kFloat32) {
    throw py::type_error(vector.label() + " has dtype " + dtype_name(vector.dtype) + " but " + x.label() + " has " +
                         dtype_name(x.dtype) + "; it must be float32");
  }
  check_vector(vector, x, channels, "channels");
  return vector;
}

template <class T>
launch::ChannelVector<T> channel_vector(const Array& vector, const Array& x) {
  return {vector.data, vector.dtype == x.dtype};
}

void check_like(const Array& array, const Array& x) {
  check_same_dtype(array, x);
  check_same_shape(array, x);
  check_same_layout(array, x);
}

// With dropout the index is logical: fused only where memory order is logical order.
bool fuses(const Array& x, const std::optional<launch::Dropout>& dropout) { return dropout && is_c_contiguous(x); }

void batch_norm(py::handle x_, py::handle weight_, py::handle bias_, py::handle running_mean_, py::handle running_var_,
                py::handle mean_, py::handle var_, py::handle out_, int axis, py::handle fraction, double eps,
                bool relu, bool unbiased, py::handle dropout_) {
  const bool training = !fraction.is_none();
  Arrays arrays;
  const Array x = arrays.take(x_, "x");
  const ChannelShape shape = channel_shape(x, axis);
  const Array weight = take_vector(arrays, weight_, "weight", x, shape.channels);
  const Array bias = take_vector(arrays, bias_, "bias", x, shape.channels);
  const Array running_mean = take_vector(arrays, running_mean_, "running_mean", x, shape.channels, training);
  const Array running_var = take_vector(arrays, running_var_, "running_var", x, shape.channels, training);
  if (running_mean_.is_none() != running_var_.is_none()) {
    throw py::value_error("[BatchNorm] 'running_mean' and 'running_var' must be given together");
  }
  if (!training && running_mean_.is_none()) {
    throw py::value_error("[BatchNorm] 'running_mean' and 'running_var' must be given when 'training' is False");
  }
  const Array mean = take_moments(arrays, mean_, "saved.mean", x, shape.channels);
  const Array var = take_moments(arrays, var_, "saved.var", x, shape.channels);
  const Array out = arrays.take(out_, "out");
  check_same_dtype(out, x);
  check_writable(out);
  check_same_shape(out, x);
  check_same_layout(out, x);
  if (training && x.size == 0) {
    throw py::value_error(x.label() + " is empty (shape " + shape_text(x.shape) + "): there are no batch statistics");
  }
  if (training && shape.count() == 1) {
    throw py::value_error(x.label() + " has one value a channel (shape " + shape_text(x.shape) +
                          "): there is no variance in training");
  }
  const Array* source = !training && same_memory(x, out) ? nullptr : &x;
  const Array *stat1 = &running_mean, *stat2 = &running_var;
  if (training) {
    check_overlap({&out, &mean, &var, stat1, stat2}, {source, &weight, &bias});
  } else {
    check_overlap({&out, &mean, &var}, {source, &weight, &bias, stat1, stat2});
  }
  const std::optional<launch::Dropout> dropout = optional_dropout(arrays, dropout_);
  arrays.check_apart({&out});
  const launch::Context context = arrays.context();
  if (dropout) check_offset(*dropout, context);
  const double new_fraction = training ? fraction.cast<double>() : 0.0;
  by_dtype(x, [&](auto zero) {
    using T = decltype(zero);
    const launch::BatchNorm<T> call{shape,
                                    channel_vector<T>(weight, x),
                                    channel_vector<T>(bias, x),
                                    channel_vector<T>(running_mean, x),
                                    channel_vector<T>(running_var, x),
                                    mean.as<Arithmetic<T>>(),
                                    var.as<Arithmetic<T>>(),
                                    eps,
                                    relu,
                                    training,
                                    new_fraction,
                                    unbiased,
                                    fuses(x, dropout) ? &*dropout : nullptr};
    const py::gil_scoped_release unlocked;
    const launch::Scope scope(context);
    launch::batch_norm<T>(context, call, x.as<const T>(), out.as<T>());
    if (dropout && call.dropout == nullptr) {
      launch::dropout_strided<T>(context, out.as<const T>(), out.strides.data(), out.as<T>(), out.strides.data(),
                                 out.shape.data(), out.ndim(), *dropout, false);
    }
  });
}

void batch_norm_backward(py::handle dy_, py::handle x_, py::handle mean_, py::handle var_, py::handle weight_,
                         py::handle bias_, py::handle dx_, py::handle dweight_, py::handle dbias_, int axis, double eps,
                         bool relu, bool training, py::handle dropout_) {
  Arrays arrays;
  const Array x = arrays.take(x_, "x");
  const ChannelShape shape = channel_shape(x, axis);
  const Array mean = take_moments(arrays, mean_, "saved.mean", x, shape.channels);
  const Array var = take_moments(arrays, var_, "saved.var", x, shape.channels);
  const Array weight = take_vector(arrays, weight_, "saved.weight", x, shape.channels);
  const Array bias = take_vector(arrays, bias_, "saved.bias", x, shape.channels);
  const Array dy = arrays.take(dy_, "dy");
  check_like(dy, x);
  const Array dx = arrays.take(dx_, "dx");
  check_same_dtype(dx, x);
  check_writable(dx);
  check_same_shape(dx, x);
  check_same_layout(dx, x);
  const Array dweight = take_vector(arrays, dweight_, "dweight", x, shape.channels, true);
  const Array dbias = take_vector(arrays, dbias_, "dbias", x, shape.channels, true);
  check_overlap({&dx, &dweight, &dbias}, {same_memory(dx, dy) ? nullptr : &dy, &x, &mean, &var, &weight, &bias});
  const std::optional<launch::Dropout> dropout = optional_dropout(arrays, dropout_);
  arrays.check_apart({&dx, &dweight, &dbias});
  const launch::Context context = arrays.context();
  if (dropout) check_offset(*dropout, context);
  by_dtype(x, [&](auto zero) {
    using T = decltype(zero);
    launch::BatchNorm<T> call{};
    call.shape = shape;
    call.weight = channel_vector<T>(weight, x);
    call.bias = channel_vector<T>(bias, x);
    call.mean = mean.as<Arithmetic<T>>();
    call.var = var.as<Arithmetic<T>>();
    call.eps = eps;
    call.relu = relu;
    call.training = training;
    call.dropout = fuses(x, dropout) ? &*dropout : nullptr;
    const py::gil_scoped_release unlocked;
    const launch::Scope scope(context);
    const T* source = dy.as<const T>();
    if (dropout && call.dropout == nullptr) {
      launch::dropout_strided<T>(context, source, dy.strides.data(), dx.as<T>(), dx.strides.data(), dx.shape.data(),
                                 dx.ndim(), *dropout, false);
      source = dx.as<const T>();
    }
    launch::batch_norm_backward<T>(context, call, source, x.as<const T>(), dx.as<T>(), channel_vector<T>(dweight, x),
                                   channel_vector<T>(dbias, x));
  });
}

}  // namespace

void bind_batch_norm(py::module_& m) {
  m.def("is_capturing", [](py::handle x) {
    Arrays arrays;
    arrays.take(x, "x");
    return launch::is_capturing(arrays.context());
  });
  m.def("batch_norm", &batch_norm);
  m.def("batch_norm_backward", &batch_norm_backward);
}

}  // namespace fusedstep
