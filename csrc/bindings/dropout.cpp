// Dropout. p, seed and offset are checked in Python (reference/scalars.py).
#include "dropout.h"

#include "arrays.h"

namespace fusedstep {
namespace {

// `out` like `x`, which it may be.
void check_out(const Array& out, const Array& x) {
  check_same_dtype(out, x);
  check_writable(out);
  check_same_shape(out, x);
  check_overlap({&out}, {same_memory(out, x) ? nullptr : &x});
}

void apply(py::handle x_, const char* name, py::handle out_, const cpu::Dropout& dropout, bool relu) {
  const Array x = import_array(x_, name), out = import_array(out_, "out");
  check_out(out, x);
  check_distinct(out);
  if (out.size == 0) return;
  by_dtype(x, [&](auto zero) {
    using T = decltype(zero);
    const py::gil_scoped_release unlocked;
    if (is_c_contiguous(x) && is_c_contiguous(out)) {
      cpu::dropout<T>(x.as<const T>(), out.as<T>(), x.size, dropout, relu);
    } else {
      cpu::dropout_strided<T>(x.as<const T>(), x.strides.data(), out.as<T>(), out.strides.data(), x.shape.data(),
                              x.ndim(), dropout, relu);
    }
  });
}

void dropout_relu_backward(py::handle dy_, py::handle y_, py::handle out_, double p) {
  const Array dy = import_array(dy_, "dy"), y = import_array(y_, "y"), out = import_array(out_, "out");
  check_same_dtype(y, dy);
  check_same_shape(y, dy);
  check_out(out, dy);
  check_dense(dy);
  check_same_layout(y, dy);
  check_same_layout(out, dy);
  check_overlap({&out}, {&y});
  by_dtype(dy, [&](auto zero) {
    using T = decltype(zero);
    const py::gil_scoped_release unlocked;
    cpu::dropout_relu_backward<T>(dy.as<const T>(), y.as<const T>(), out.as<T>(), dy.size, p);
  });
}

}  // namespace

void bind_dropout(py::module_& m) {
  m.def("dropout", [](py::handle x, py::handle out, double p, std::uint64_t seed, std::uint64_t offset, bool relu) {
    apply(x, "x", out, {p, seed, offset}, relu);
  });
  m.def("dropout_backward", [](py::handle dy, py::handle out, double p, std::uint64_t seed, std::uint64_t offset) {
    apply(dy, "dy", out, {p, seed, offset}, false);
  });
  m.def("dropout_relu_backward", &dropout_relu_backward);
  m.def("dropout_mask",
        [](py::handle mask_, std::int64_t n, double p, std::uint64_t seed, std::uint64_t offset, bool packed) {
          const Array mask = import_array(mask_, "mask", Accept::kAny);
          const py::gil_scoped_release unlocked;
          cpu::dropout_mask(mask.as<unsigned char>(), n, {p, seed, offset}, packed);
        });
}

}  // namespace fusedstep
