// Batch norm forward: the moments in one read, merged in a tree that the shape fixes, then the values in another.
#include "../math/activations.h"
#include "batch_norm.cuh"
#include "random.cuh"

namespace fusedstep {
namespace cuda {
namespace {

// Mean of x - first value, and sum of squared deviations, of the leaves of a channel's planes: the values stay in
// registers between the two.
template <class Index, class T>
__global__ void __launch_bounds__(kThreads) plane_moments(const T* x, ChannelShape s, PlaneSteps<Index> steps,
                                                          Nodes nodes, Arithmetic<T>* means, Arithmetic<T>* squares) {
  using A = Arithmetic<T>;
  __shared__ A mean_nodes[kPlaneLeaves], square_nodes[kPlaneLeaves];
  const std::int64_t channel = blockIdx.x / nodes.per_channel, node = blockIdx.x % nodes.per_channel;
  const std::int64_t count = s.count(), first_leaf = node * kPlaneLeaves;
  const std::int64_t warp = threadIdx.x / kWarp, begin = (first_leaf + warp) * kLeaf;
  const A first = widen(x[channel * s.inner]);
  if (begin < count) {
    const std::int64_t left = count - begin < kLeaf ? count - begin : kLeaf;
    T inputs[kLaneValues] = {};
    for_lane_values(steps, channel, begin, left, [&](int k, Index at) { inputs[k] = x[at]; });
    A values[kLaneValues], sum = 0;
#pragma unroll
    for (int k = 0; k < kLaneValues; ++k) {
      values[k] = widen(inputs[k]) - first;
      if (k * kLanes + lane_index() < left) sum += values[k];
    }
    const A mean = __shfl_sync(kAllLanes, fold_lanes(sum) / static_cast<A>(left), 0);
    A square_sum = 0;
#pragma unroll
    for (int k = 0; k < kLaneValues; ++k) {
      const A d = values[k] - mean;
      if (k * kLanes + lane_index() < left) square_sum += d * d;
    }
    square_sum = fold_lanes(square_sum);
    if (lane_index() == 0) {
      mean_nodes[warp] = mean;
      square_nodes[warp] = square_sum;
    }
  }
  const std::int64_t leaves = leaf_count(count) - first_leaf;
  merge_nodes(
      leaves < kPlaneLeaves ? leaves : kPlaneLeaves, [&](std::int64_t left, std::int64_t right, std::int64_t span) {
        const std::int64_t right_begin = (first_leaf + right) * kLeaf;
        const std::int64_t right_count = count - right_begin < span * kLeaf ? count - right_begin : span * kLeaf;
        merge_moments(span * kLeaf, mean_nodes[left], square_nodes[left], right_count, mean_nodes[right],
                      square_nodes[right]);
      });
  if (threadIdx.x == 0) {
    means[blockIdx.x] = mean_nodes[0];
    squares[blockIdx.x] = square_nodes[0];
  }
}

// The same for a leaf of rows. Two blocks a multiprocessor, so that one loads while the other adds.
template <class T>
__global__ void __launch_bounds__(kThreads, sizeof(Arithmetic<T>) == 4 ? 2 : 1)
    row_moments(const T* x, ChannelShape s, Nodes nodes, Arithmetic<T>* means, Arithmetic<T>* squares) {
  using A = Arithmetic<T>;
  const RowBlock at(s.channels);
  const std::int64_t rows = s.count(), leaf_rows = rows - at.node * kLeaf < kLeaf ? rows - at.node * kLeaf : kLeaf;
  const A first = widen(x[at.clamped]);
  T inputs[kLaneValues][kOwnLanes];
#pragma unroll
  for (int k = 0; k < kLaneValues; ++k) {
#pragma unroll
    for (int own = 0; own < kOwnLanes; ++own) inputs[k][own] = x[at.index(k, own, rows, s.channels)];
  }
  A values[kLaneValues][kOwnLanes], sums[kOwnLanes] = {}, square_sums[kOwnLanes] = {};
#pragma unroll
  for (int k = 0; k < kLaneValues; ++k) {
#pragma unroll
    for (int own = 0; own < kOwnLanes; ++own) {
      values[k][own] = widen(inputs[k][own]) - first;
      if (at.row(k, own) < rows) sums[own] += values[k][own];
    }
  }
  const A mean = fold_rows(sums) / static_cast<A>(leaf_rows);
#pragma unroll
  for (int k = 0; k < kLaneValues; ++k) {
#pragma unroll
    for (int own = 0; own < kOwnLanes; ++own) {
      const A d = values[k][own] - mean;
      if (at.row(k, own) < rows) square_sums[own] += d * d;
    }
  }
  const A square_sum = fold_rows(square_sums);
  if (at.writes()) {
    means[at.channel * nodes.per_channel + at.node] = mean;
    squares[at.channel * nodes.per_channel + at.node] = square_sum;
  }
}

template <class Index, class T>
void run_plane_moments(const Context& context, const ChannelShape& s, const T* x, const Nodes& nodes,
                       Arithmetic<T>* means, Arithmetic<T>* squares) {
  run(plane_moments<Index, T>, "batch norm, moments of planes", node_blocks(s, nodes), node_threads(s), context, x, s,
      PlaneSteps<Index>(s), nodes, means, squares);
}

// A block a channel: merges its nodes, then what follows from its moments.
template <class T>
__global__ void __launch_bounds__(kThreads)
    finish_channels(const T* x, BatchNorm<T> call, Nodes nodes, Arithmetic<T>* means, Arithmetic<T>* squares,
                    ChannelArrays<Arithmetic<T>> channels) {
  const std::int64_t c = blockIdx.x, values = nodes.leaves * kLeaf, count = call.shape.count();
  using A = Arithmetic<T>;
  __shared__ A staged_means[kStaged], staged_squares[kStaged];
  A* mean = stage(means + c * nodes.per_channel, nodes.per_channel, staged_means);
  A* square = stage(squares + c * nodes.per_channel, nodes.per_channel, staged_squares);
  merge_nodes(nodes.per_channel, [&](std::int64_t left, std::int64_t right, std::int64_t span) {
    const std::int64_t rest = count - right * values;
    merge_moments(span * values, mean[left], square[left], rest < span * values ? rest : span * values, mean[right],
                  square[right]);
  });
  if (threadIdx.x != 0) return;
  finish_moments(call, c, widen(x[c * call.shape.inner]), mean[0], square[0]);
  channels.set(c, channel_of(call, c));
}

// In evaluation: a thread a channel.
template <class T>
__global__ void __launch_bounds__(kThreads) load_running(BatchNorm<T> call, ChannelArrays<Arithmetic<T>> channels) {
  const std::int64_t c = global_thread();
  if (c >= call.shape.channels) return;
  call.mean[c] = call.running_mean.get(c);
  call.var[c] = call.running_var.get(c);
  channels.set(c, channel_of(call, c));
}

template <int V, bool Rows, class T>
__global__ void __launch_bounds__(kThreads)
    normalize(const T* x, T* y, std::int64_t n, ChannelIndex channel_index, ChannelArrays<Arithmetic<T>> channels,
              bool rectifies, bool drops, Dropping<Arithmetic<T>> d) {
  using A = Arithmetic<T>;
  using Values = ChannelValues<V, Rows, A>;
  const std::int64_t begin = Tile<V, T>::begin();
  if (begin >= n) return;
  Tile<V, T> tile;
  tile.load_from(x, begin, n);
#pragma unroll
  for (int r = 0; r < tile.rounds; ++r) {
    const std::int64_t i = tile.index(begin, r);
    const std::int64_t c = i < n ? channel_index.template of<Rows>(i) : 0;
    const Values mean(channels.mean, c), invstd(channels.invstd, c), weight(channels.weight, c), bias(channels.bias, c);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      T& value = tile.packs[r].values[j];
      value = narrow<T>(normalized_value(rectifies, widen(value), mean[j], invstd[j], weight[j], bias[j]));
    }
    if (!drops) tile.store_round(y, begin, n, r);
  }
  if (drops) {
    const TileBits<V> bits(d, begin);
#pragma unroll
    for (int r = 0; r < tile.rounds; ++r) {
      drop_round<false>(tile, r, bits, d);
      tile.store_round(y, begin, n, r);
    }
  }
}

template <int V, bool Rows, class T>
void run_normalize(const Context& context, const BatchNorm<T>& call, const T* x, T* y,
                   const ChannelArrays<Arithmetic<T>>& channels) {
  const std::int64_t n = call.shape.size();
  const bool drops = call.dropout != nullptr;
  const auto d = drops ? dropping<Arithmetic<T>>(*call.dropout) : Dropping<Arithmetic<T>>{};
  run(normalize<V, Rows, T>, "batch norm, normalize", tile_blocks(n, V), dim3(kThreads), context, x, y, n,
      ChannelIndex(call.shape), channels, call.relu, drops, d);
}

}  // namespace
}  // namespace cuda

namespace launch {

using namespace cuda;

template <class T>
void batch_norm(const Context& context, const BatchNorm<T>& call, const T* x, T* y) {
  using A = Arithmetic<T>;
  const ChannelShape s = call.shape;
  Scratch scratch(context);
  const auto channels = take_channels<A>(scratch, s.channels, false);
  if (call.training) {
    const Nodes nodes = nodes_of(s);
    A *means = scratch.take<A>(2 * nodes.per_channel * s.channels), *squares = means + nodes.per_channel * s.channels;
    if (s.inner == 1) {
      run(row_moments<T>, "batch norm, moments of rows", node_blocks(s, nodes), node_threads(s), context, x, s, nodes,
          means, squares);
    } else {
      const auto moments = fits_int32(s) ? run_plane_moments<std::int32_t, T> : run_plane_moments<std::int64_t, T>;
      moments(context, s, x, nodes, means, squares);
    }
    run(finish_channels<T>, "batch norm, finish moments", s.channels, merge_threads(nodes.per_channel), context, x,
        call, nodes, means, squares, channels);
  } else {
    run(load_running<T>, "batch norm, running statistics", ceil_div(s.channels, kThreads), dim3(kThreads), context,
        call, channels);
  }
  constexpr int V = kVector<T>;
  const bool vectors = fits_vectors<T>(s) && is_aligned(x) && is_aligned(y);
  const auto normalized = s.inner == 1 ? (vectors ? run_normalize<V, true, T> : run_normalize<1, true, T>)
                                       : (vectors ? run_normalize<V, false, T> : run_normalize<1, false, T>);
  normalized(context, call, x, y, channels);
}

#define FUSEDSTEP_INSTANTIATE(T) template void batch_norm<T>(const Context&, const BatchNorm<T>&, const T*, T*);
FUSEDSTEP_TYPES(FUSEDSTEP_INSTANTIATE)

}  // namespace launch
}  // namespace fusedstep
