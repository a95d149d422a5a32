// Dropout. p, seed and offset are checked in Python (reference/scalars.py).
#include "dropout.h"

#include <pybind11/stl.h>

#include <stdexcept>

namespace fusedstep {

std::optional<launch::Dropout> optional_dropout(Arrays& arrays, py::handle object) {
  if (object.is_none()) return std::nullopt;
  const auto t = object.cast<py::tuple>();
  return launch::Dropout{t[0].cast<double>(), t[1].cast<std::uint64_t>(), arrays.counter(t[2], "offset")};
}

void check_offset(const launch::Dropout& dropout, const launch::Context& context) {
  if (dropout.offset.data != nullptr || !launch::is_capturing(context)) return;
  throw std::runtime_error(
      "[Dropout] 'offset' is a number, and the graph that is being captured would repeat its mask: "
      "pass a 0-d int64 array on the device, and advance it in the graph");
}

namespace {

// `out` like `x`, which it may be.
void check_out(const Array& out, const Array& x) {
  check_same_dtype(out, x);
  check_writable(out);
  check_same_shape(out, x);
  check_overlap({&out}, {same_memory(out, x) ? nullptr : &x});
}

void apply(py::handle x_, const char* name, py::handle out_, double p, std::uint64_t seed, py::handle offset,
           bool relu) {
  Arrays arrays;
  const Array x = arrays.take(x_, name), out = arrays.take(out_, "out");
  check_out(out, x);
  check_distinct(out);
  const launch::Dropout dropout{p, seed, arrays.counter(offset, "offset")};
  arrays.check_apart({&out});
  const launch::Context context = arrays.context();
  check_offset(dropout, context);
  if (out.size == 0) return;
  by_dtype(x, [&](auto zero) {
    using T = decltype(zero);
    const py::gil_scoped_release unlocked;
    const launch::Scope scope(context);
    if (is_c_contiguous(x) && is_c_contiguous(out)) {
      launch::dropout<T>(context, x.as<const T>(), out.as<T>(), x.size, dropout, relu);
    } else {
      launch::dropout_strided<T>(context, x.as<const T>(), x.strides.data(), out.as<T>(), out.strides.data(),
                                 x.shape.data(), x.ndim(), dropout, relu);
    }
  });
}

void dropout_relu_backward(py::handle dy_, py::handle y_, py::handle out_, double p) {
  Arrays arrays;
  const Array dy = arrays.take(dy_, "dy"), y = arrays.take(y_, "y"), out = arrays.take(out_, "out");
  check_same_dtype(y, dy);
  check_same_shape(y, dy);
  check_out(out, dy);
  check_dense(dy);
  check_same_layout(y, dy);
  check_same_layout(out, dy);
  check_overlap({&out}, {&y});
  const launch::Context context = arrays.context();
  by_dtype(dy, [&](auto zero) {
    using T = decltype(zero);
    const py::gil_scoped_release unlocked;
    const launch::Scope scope(context);
    launch::dropout_relu_backward<T>(context, dy.as<const T>(), y.as<const T>(), out.as<T>(), dy.size, p);
  });
}

void dropout_mask(py::handle mask_, const std::vector<std::int64_t>& shape, double p, std::uint64_t seed,
                  py::handle offset, bool packed) {
  Arrays arrays;
  const Array mask = arrays.take_of(mask_, "out", packed ? Dtype::kUint8 : Dtype::kBool);
  check_writable(mask);
  std::int64_t n = 1;
  for (std::int64_t size : shape) n *= size;
  const std::vector<std::int64_t> expected = packed ? std::vector<std::int64_t>{(n + 7) / 8} : shape;
  if (mask.shape != expected) {
    throw py::value_error("'out' has shape " + shape_text(mask.shape) + " but the mask has shape " +
                          shape_text(expected));
  }
  check_c_contiguous(mask);
  const launch::Dropout dropout{p, seed, arrays.counter(offset, "offset")};
  arrays.check_apart({&mask});
  const launch::Context context = arrays.context();
  check_offset(dropout, context);
  const py::gil_scoped_release unlocked;
  const launch::Scope scope(context);
  launch::dropout_mask(context, mask.as<unsigned char>(), n, dropout, packed);
}

}  // namespace

void bind_dropout(py::module_& m) {
  m.def("dropout", [](py::handle x, py::handle out, double p, std::uint64_t seed, py::handle offset, bool relu) {
    apply(x, "x", out, p, seed, offset, relu);
  });
  m.def("dropout_backward", [](py::handle dy, py::handle out, double p, std::uint64_t seed, py::handle offset) {
    apply(dy, "dy", out, p, seed, offset, false);
  });
  m.def("dropout_relu_backward", &dropout_relu_backward);
  m.def("dropout_mask", &dropout_mask);
}

}  // namespace fusedstep
