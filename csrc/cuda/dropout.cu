// Dropout, its gradient and its mask.
#include <algorithm>

#include "../math/activations.h"
#include "random.cuh"

namespace fusedstep {
namespace cuda {
namespace {

template <int V, bool Relu, class T>
__global__ void __launch_bounds__(kThreads)
    dropout_kernel(const T* x, T* y, std::int64_t n, Dropping<Arithmetic<T>> d) {
  const std::int64_t begin = Tile<V, T>::begin();
  if (begin >= n) return;
  Tile<V, T> tile;
  tile.load_from(x, begin, n);
  const TileBits<V> bits(d, begin);
#pragma unroll
  for (int r = 0; r < tile.rounds; ++r) {
    drop_round<Relu>(tile, r, bits, d);
    tile.store_round(y, begin, n, r);
  }
}

constexpr int kMaxAxes = 64;

struct Axes {
  std::int64_t shape[kMaxAxes], x_strides[kMaxAxes], y_strides[kMaxAxes];
  int count;
};

// A thread for eight values in logical order.
template <bool Relu, class T>
__global__ void __launch_bounds__(kThreads)
    strided_kernel(const T* x, T* y, std::int64_t n, const __grid_constant__ Axes axes, Dropping<Arithmetic<T>> d) {
  const std::int64_t block = global_thread();
  if (block * kLanesPerBlock >= n) return;
  std::uint64_t low, high;
  philox(static_cast<std::uint64_t>(block), read(d.offset), d.seed, low, high);
  for (int k = 0; k < kLanesPerBlock && block * kLanesPerBlock + k < n; ++k) {
    std::int64_t rest = block * kLanesPerBlock + k, from = 0, to = 0;
    for (int axis = axes.count - 1; axis >= 0; --axis) {
      const std::int64_t place = rest % axes.shape[axis];
      from += place * axes.x_strides[axis];
      to += place * axes.y_strides[axis];
      rest /= axes.shape[axis];
    }
    const Arithmetic<T> value = widen(x[from]), z = Relu ? relu(value) : value;
    y[to] = narrow<T>(dropout_value(z, lane_bits(low, high, k), d.threshold, d.scale));
  }
}

template <int V, class T>
__global__ void __launch_bounds__(kThreads)
    relu_backward_kernel(const T* dy, const T* y, T* dx, std::int64_t n, Arithmetic<T> scale) {
  const std::int64_t begin = Tile<V, T>::begin();
  if (begin >= n) return;
  Tile<V, T> tile, outputs;
  tile.load_from(dy, begin, n);
  outputs.load_from(y, begin, n);
#pragma unroll
  for (int r = 0; r < tile.rounds; ++r) {
#pragma unroll
    for (int j = 0; j < V; ++j) {
      T& value = tile.packs[r].values[j];
      value = narrow<T>(relu_gradient(widen(value) * scale, widen(outputs.packs[r].values[j])));
    }
    tile.store_round(dx, begin, n, r);
  }
}

// A thread for a byte of the packed mask, or for eight bools.
__global__ void __launch_bounds__(kThreads)
    mask_kernel(unsigned char* keep, std::int64_t n, bool packed, Dropping<float> d) {
  const std::int64_t block = global_thread();
  if (block * kLanesPerBlock >= n) return;
  std::uint64_t low, high;
  philox(static_cast<std::uint64_t>(block), read(d.offset), d.seed, low, high);
  unsigned byte = 0;
  for (int k = 0; k < kLanesPerBlock && block * kLanesPerBlock + k < n; ++k) {
    const bool kept = lane_bits(low, high, k) >= d.threshold;
    if (!packed) keep[block * kLanesPerBlock + k] = kept;
    byte |= static_cast<unsigned>(kept) << k;
  }
  if (packed) keep[block] = static_cast<unsigned char>(byte);
}

}  // namespace
}  // namespace cuda

namespace launch {

using namespace cuda;

template <class T>
void dropout(const Context& context, const T* x, T* y, std::int64_t n, const Dropout& dropout, bool relu) {
  const auto d = dropping<Arithmetic<T>>(dropout);
  constexpr int V = kVector<T>;
  const bool aligned = is_aligned(x) && is_aligned(y);
  const auto kernel = aligned ? (relu ? dropout_kernel<V, true, T> : dropout_kernel<V, false, T>)
                              : (relu ? dropout_kernel<1, true, T> : dropout_kernel<1, false, T>);
  run(kernel, "dropout", tile_blocks(n, aligned ? V : 1), dim3(kThreads), context, x, y, n, d);
}

template <class T>
void dropout_strided(const Context& context, const T* x, const std::int64_t* x_strides, T* y,
                     const std::int64_t* y_strides, const std::int64_t* shape, int ndim, const Dropout& dropout,
                     bool relu) {
  if (ndim > kMaxAxes) throw std::invalid_argument("dropout: more than 64 axes");
  Axes axes{};
  axes.count = ndim;
  std::copy_n(shape, ndim, axes.shape);
  std::copy_n(x_strides, ndim, axes.x_strides);
  std::copy_n(y_strides, ndim, axes.y_strides);
  std::int64_t n = 1;
  for (int axis = 0; axis < ndim; ++axis) n *= shape[axis];
  run(relu ? strided_kernel<true, T> : strided_kernel<false, T>, "dropout, strided",
      ceil_div(ceil_div(n, kLanesPerBlock), kThreads), dim3(kThreads), context, x, y, n, axes,
      dropping<Arithmetic<T>>(dropout));
}

template <class T>
void dropout_relu_backward(const Context& context, const T* dy, const T* y, T* dx, std::int64_t n, double p) {
  const auto scale = static_cast<Arithmetic<T>>(dropout_scale(dropout_threshold(p)));
  const bool aligned = is_aligned(dy) && is_aligned(y) && is_aligned(dx);
  constexpr int V = kVector<T>;
  run(aligned ? relu_backward_kernel<V, T> : relu_backward_kernel<1, T>, "dropout and ReLU backward",
      tile_blocks(n, aligned ? V : 1), dim3(kThreads), context, dy, y, dx, n, scale);
}

void dropout_mask(const Context& context, unsigned char* keep, std::int64_t n, const Dropout& dropout, bool packed) {
  run(mask_kernel, "dropout mask", ceil_div(ceil_div(n, kLanesPerBlock), kThreads), dim3(kThreads), context, keep, n,
      packed, dropping<float>(dropout));
}

FUSEDSTEP_TYPES(FUSEDSTEP_INSTANTIATE_DROPOUT)

}  // namespace launch
}  // namespace fusedstep
