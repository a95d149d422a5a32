// Launchers of dropout.
#include <algorithm>

#include "../launch.h"
#include "../math/philox.h"
#include "dispatch.h"
#include "parallel.h"
#include "stream.h"

namespace fusedstep::launch {

using namespace cpu;

namespace {

constexpr std::int64_t kPiece = 16384;  // values a task; a multiple of 8

// How much longer a value takes than its bytes alone would, for the cut-off of threads.
constexpr std::int64_t kRandomWork = 4;

DropoutKey key_of(const Dropout& d) { return {d.seed, d.offset.value, dropout_threshold(d.p)}; }

template <class T>
Arithmetic<T> scale_of(double p) {
  return static_cast<Arithmetic<T>>(dropout_scale(dropout_threshold(p)));
}

template <class T>
std::int64_t bytes_of(std::int64_t arrays, std::int64_t n) {
  return arrays * n * static_cast<std::int64_t>(sizeof(T));
}

}  // namespace

template <class T>
void dropout(const Context&, const T* x, T* y, std::int64_t n, const Dropout& dropout, bool relu) {
  const DropoutKey key = key_of(dropout);
  const Arithmetic<T> scale = scale_of<T>(dropout.p);
  const bool streamed = x != y && is_streamed(y, bytes_of<T>(1, n));
  const ValueKernels<T>& k = kernels().values<T>();
  const auto range = streamed ? k.dropout_streamed[relu] : k.dropout[relu];
  parallel_ranges(n, streamed ? kStreamPiece : kPiece, kRandomWork * bytes_of<T>(2, n),
                  [&](std::int64_t begin, std::int64_t end) { range(x, y, begin, end, key, scale); });
}

template <class T>
void dropout_strided(const Context&, const T* x, const std::int64_t* x_strides, T* y, const std::int64_t* y_strides,
                     const std::int64_t* shape, int ndim, const Dropout& dropout, bool relu) {
  const auto row_kernel = kernels().values<T>().dropout_strided[relu];
  const DropoutKey key = key_of(dropout);
  const Arithmetic<T> scale = scale_of<T>(dropout.p);
  const int last = ndim - 1;
  const std::int64_t columns = ndim ? shape[last] : 1;
  std::int64_t rows = 1;
  for (int axis = 0; axis < last; ++axis) rows *= shape[axis];
  if (columns == 0) return;
  parallel_ranges(rows, std::max<std::int64_t>(1, kPiece / columns), kRandomWork * bytes_of<T>(2, rows * columns),
                  [&](std::int64_t begin, std::int64_t end) {
                    for (std::int64_t row = begin; row < end; ++row) {
                      std::int64_t x_at = 0, y_at = 0, rest = row;
                      for (int axis = last - 1; axis >= 0; --axis) {
                        x_at += rest % shape[axis] * x_strides[axis];
                        y_at += rest % shape[axis] * y_strides[axis];
                        rest /= shape[axis];
                      }
                      row_kernel(x + x_at, ndim ? x_strides[last] : 1, y + y_at, ndim ? y_strides[last] : 1,
                                 row * columns, columns, key, scale);
                    }
                  });
}

template <class T>
void dropout_relu_backward(const Context&, const T* dy, const T* y, T* dx, std::int64_t n, double p) {
  const auto range = kernels().values<T>().dropout_relu_backward;
  const Arithmetic<T> scale = scale_of<T>(p);
  parallel_ranges(n, kPiece, bytes_of<T>(3, n), [&](std::int64_t begin, std::int64_t end) {
    range(dy + begin, y + begin, dx + begin, end - begin, scale);
  });
}

void dropout_mask(const Context&, unsigned char* keep, std::int64_t n, const Dropout& dropout, bool packed) {
  const Kernels& k = kernels();
  const DropoutKey key = key_of(dropout);
  parallel_ranges(n, kPiece, 8 * kRandomWork * n, [&](std::int64_t begin, std::int64_t end) {
    if (!packed) return k.dropout_keep(keep + begin, begin, end, key);
    unsigned char bools[kPiece + 8] = {};
    k.dropout_keep(bools, begin, end, key);
    for (std::int64_t i = begin; i < end; i += 8) {
      unsigned byte = 0;
      for (int bit = 0; bit < 8; ++bit) byte |= static_cast<unsigned>(bools[i - begin + bit]) << bit;
      keep[i / 8] = static_cast<unsigned char>(byte);
    }
  });
}

FUSEDSTEP_TYPES(FUSEDSTEP_INSTANTIATE_DROPOUT)

}  // namespace fusedstep::launch
