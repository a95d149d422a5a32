// Bias and activation in one pass, and back.
#include "../math/activations.h"
#include "batch_norm.cuh"

namespace fusedstep {
namespace cuda {
namespace {

// bias may be null; else vectors stay within a row.
template <class F, int V, class T>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(const T* x, const T* bias, T* y, std::int64_t n, Divider columns, T slope) {
  const std::int64_t begin = Tile<V, T>::begin();
  if (begin >= n) return;
  Tile<V, T> tile;
  tile.load_from(x, begin, n);
#pragma unroll
  for (int r = 0; r < tile.rounds; ++r) {
    const std::int64_t i = tile.index(begin, r);
    const std::int64_t column = bias != nullptr && i < n ? columns.remainder(i) : 0;
#pragma unroll
    for (int j = 0; j < V; ++j) {
      T& value = tile.packs[r].values[j];
      value = F::value(bias != nullptr ? value + bias[column + j] : value, slope);
    }
    tile.store_round(y, begin, n, r);
  }
}

template <class F, int V, class T>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(const T* dy, const T* saved, T* dx, std::int64_t n, T slope) {
  const std::int64_t begin = Tile<V, T>::begin();
  if (begin >= n) return;
  Tile<V, T> tile, outputs;
  tile.load_from(dy, begin, n);
  outputs.load_from(saved, begin, n);
#pragma unroll
  for (int r = 0; r < tile.rounds; ++r) {
#pragma unroll
    for (int j = 0; j < V; ++j) {
      T& value = tile.packs[r].values[j];
      value = F::gradient(value, outputs.packs[r].values[j], slope);
    }
    tile.store_round(dx, begin, n, r);
  }
}

// The gradient on a leaf of rows, and its sums for the bias.
template <class F, class T>
__global__ void __launch_bounds__(kThreads) backward_rows(const T* dy, const T* saved, T* dx, std::int64_t rows,
                                                          std::int64_t columns, T slope, Nodes nodes, T* sums) {
  const RowBlock at(columns);
  T own_sums[kOwnLanes] = {};
  constexpr int group = 4;  // rounds whose loads are under way together
  for (int begin = 0; begin < kLaneValues; begin += group) {
    T gradients[group][kOwnLanes], outputs[group][kOwnLanes];
#pragma unroll
    for (int k = 0; k < group; ++k) {
#pragma unroll
      for (int own = 0; own < kOwnLanes; ++own) {
        // No other thread's values are read: dx may be dy.
        const bool there = at.inside && at.row(begin + k, own) < rows;
        const std::int64_t i = at.row(begin + k, own) * columns + at.channel;
        gradients[k][own] = there ? dy[i] : T(0);
        outputs[k][own] = there ? saved[i] : T(0);
      }
    }
#pragma unroll
    for (int k = 0; k < group; ++k) {
#pragma unroll
      for (int own = 0; own < kOwnLanes; ++own) {
        if (!at.inside || at.row(begin + k, own) >= rows) continue;
        const T gradient = F::gradient(gradients[k][own], outputs[k][own], slope);
        dx[at.row(begin + k, own) * columns + at.channel] = gradient;
        own_sums[own] += gradient;
      }
    }
  }
  const T sum = fold_rows(own_sums);
  if (at.writes()) sums[at.channel * nodes.per_channel + at.node] = sum;
}

// A block a column.
template <class T>
__global__ void __launch_bounds__(kThreads) finish_bias(T* sums, Nodes nodes, T* dbias) {
  T* own = sums + blockIdx.x * nodes.per_channel;
  sum_nodes(own, nodes.per_channel);
  if (threadIdx.x == 0) dbias[blockIdx.x] = nodes.per_channel ? own[0] : T(0);
}

template <class F, class T>
void forward(const Context& context, const T* x, const T* bias, T* y, std::int64_t rows, std::int64_t columns,
             T slope) {
  const std::int64_t n = rows * columns;
  constexpr int V = kVector<T>;
  const bool vectors = is_aligned(x) && is_aligned(y) && (bias == nullptr || columns % V == 0);
  run(vectors ? forward_kernel<F, V, T> : forward_kernel<F, 1, T>, "bias and activation",
      tile_blocks(n, vectors ? V : 1), dim3(kThreads), context, x, bias, y, n, Divider(columns, n), slope);
}

template <class F, class T>
void backward(const Context& context, const T* dy, const T* saved, T* dx, T* dbias, std::int64_t rows,
              std::int64_t columns, T slope) {
  if (dbias == nullptr) {
    constexpr int V = kVector<T>;
    const bool vectors = is_aligned(dy) && is_aligned(saved) && is_aligned(dx);
    run(vectors ? backward_kernel<F, V, T> : backward_kernel<F, 1, T>, "activation backward",
        tile_blocks(rows * columns, vectors ? V : 1), dim3(kThreads), context, dy, saved, dx, rows * columns, slope);
    return;
  }
  const ChannelShape shape{rows, columns, 1};
  const Nodes nodes = nodes_of(shape);
  Scratch scratch(context);
  T* sums = scratch.take<T>(nodes.per_channel * columns);
  run(backward_rows<F, T>, "activation backward, rows", node_blocks(shape, nodes), node_threads(shape), context, dy,
      saved, dx, rows, columns, slope, nodes, sums);
  run(finish_bias<T>, "activation backward, bias", columns, merge_threads(nodes.per_channel), context, sums, nodes,
      dbias);
}

}  // namespace
}  // namespace cuda

namespace launch {

template <class T>
void bias_activation(const Context& context, Activation activation, const T* x, const T* bias, T* y, std::int64_t rows,
                     std::int64_t columns, double slope) {
  switch (activation) {
#define FUSEDSTEP_CASE(F) \
  case k##F:              \
    return cuda::forward<F>(context, x, bias, y, rows, columns, static_cast<T>(slope));
    FUSEDSTEP_ACTIVATIONS(FUSEDSTEP_CASE)
#undef FUSEDSTEP_CASE
    case kActivationCount:
      break;
  }
}

template <class T>
void bias_activation_backward(const Context& context, Activation activation, const T* dy, const T* saved, T* dx,
                              T* dbias, std::int64_t rows, std::int64_t columns, double slope) {
  switch (activation) {
#define FUSEDSTEP_CASE(F) \
  case k##F:              \
    return cuda::backward<F>(context, dy, saved, dx, dbias, rows, columns, static_cast<T>(slope));
    FUSEDSTEP_ACTIVATIONS(FUSEDSTEP_CASE)
#undef FUSEDSTEP_CASE
    case kActivationCount:
      break;
  }
}

FUSEDSTEP_INSTANTIATE_LAYERS(float)
FUSEDSTEP_INSTANTIATE_LAYERS(double)

}  // namespace launch
}  // namespace fusedstep
