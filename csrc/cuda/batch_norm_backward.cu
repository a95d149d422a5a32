// Batch norm backward: the two sums of each channel in one read, then the gradient by the input in another.
#include "../math/activations.h"
#include "batch_norm.cuh"

namespace fusedstep {
namespace cuda {
namespace {

// Sums of t, the gradient behind the ReLU, and of t * xhat over the leaves of a channel's planes.
template <class Index, class T>
__global__ void __launch_bounds__(kThreads)
    plane_sums(const T* dy, const T* x, BatchNorm<T> call, PlaneSteps<Index> steps, Nodes nodes, Arithmetic<T>* sums_t,
               Arithmetic<T>* sums_t_xhat) {
  using A = Arithmetic<T>;
  __shared__ A t_nodes[kPlaneLeaves], product_nodes[kPlaneLeaves];
  const ChannelShape& s = call.shape;
  const std::int64_t c = blockIdx.x / nodes.per_channel, node = blockIdx.x % nodes.per_channel;
  const std::int64_t count = s.count(), first_leaf = node * kPlaneLeaves;
  const std::int64_t warp = threadIdx.x / kWarp, begin = (first_leaf + warp) * kLeaf;
  if (begin < count) {
    const std::int64_t left = count - begin < kLeaf ? count - begin : kLeaf;
    const Channel<A> channel = channel_of(call, c);
    T gradients[kLaneValues] = {}, inputs[kLaneValues] = {};
    for_lane_values(steps, c, begin, left, [&](int k, Index at) {
      gradients[k] = dy[at];
      inputs[k] = x[at];
    });
    A sum_t = 0, sum_product = 0;
#pragma unroll
    for (int k = 0; k < kLaneValues; ++k) {
      if (k * kLanes + lane_index() >= left) continue;
      const A xhat = normalized(widen(inputs[k]), channel.mean, channel.invstd);
      const A t = masked(call.relu, widen(gradients[k]), xhat, channel.weight, channel.bias);
      sum_t += t;
      sum_product += t * xhat;
    }
    sum_t = fold_lanes(sum_t);
    sum_product = fold_lanes(sum_product);
    if (lane_index() == 0) {
      t_nodes[warp] = sum_t;
      product_nodes[warp] = sum_product;
    }
  }
  const std::int64_t leaves = leaf_count(count) - first_leaf;
  merge_nodes(leaves < kPlaneLeaves ? leaves : kPlaneLeaves, [&](std::int64_t left, std::int64_t right, std::int64_t) {
    t_nodes[left] += t_nodes[right];
    product_nodes[left] += product_nodes[right];
  });
  if (threadIdx.x == 0) {
    sums_t[blockIdx.x] = t_nodes[0];
    sums_t_xhat[blockIdx.x] = product_nodes[0];
  }
}

// The same for a leaf of rows.
template <class T>
__global__ void __launch_bounds__(kThreads) row_sums(const T* dy, const T* x, BatchNorm<T> call, Nodes nodes,
                                                     Arithmetic<T>* sums_t, Arithmetic<T>* sums_t_xhat) {
  using A = Arithmetic<T>;
  const std::int64_t channels = call.shape.channels, rows = call.shape.count();
  const RowBlock at(channels);
  const Channel<A> channel = channel_of(call, at.clamped);
  A ts[kOwnLanes] = {}, products[kOwnLanes] = {};
  constexpr int group = 4;  // rounds whose loads are under way together
  for (int begin = 0; begin < kLaneValues; begin += group) {
    T gradients[group][kOwnLanes], inputs[group][kOwnLanes];
#pragma unroll
    for (int k = 0; k < group; ++k) {
#pragma unroll
      for (int own = 0; own < kOwnLanes; ++own) {
        const std::int64_t i = at.index(begin + k, own, rows, channels);
        gradients[k][own] = dy[i];
        inputs[k][own] = x[i];
      }
    }
#pragma unroll
    for (int k = 0; k < group; ++k) {
#pragma unroll
      for (int own = 0; own < kOwnLanes; ++own) {
        if (at.row(begin + k, own) >= rows) continue;
        const A xhat = normalized(widen(inputs[k][own]), channel.mean, channel.invstd);
        const A t = masked(call.relu, widen(gradients[k][own]), xhat, channel.weight, channel.bias);
        ts[own] += t;
        products[own] += t * xhat;
      }
    }
  }
  const A sum_t = fold_rows(ts), sum_product = fold_rows(products);
  if (at.writes()) {
    sums_t[at.channel * nodes.per_channel + at.node] = sum_t;
    sums_t_xhat[at.channel * nodes.per_channel + at.node] = sum_product;
  }
}

template <class Index, class T>
void run_plane_sums(const Context& context, const BatchNorm<T>& call, const T* dy, const T* x, const Nodes& nodes,
                    Arithmetic<T>* sums_t, Arithmetic<T>* sums_t_xhat) {
  const ChannelShape& s = call.shape;
  run(plane_sums<Index, T>, "batch norm backward, sums of planes", node_blocks(s, nodes), node_threads(s), context, dy,
      x, call, PlaneSteps<Index>(s), nodes, sums_t, sums_t_xhat);
}

// A block a channel: merges its nodes, then what follows from its sums.
template <class T>
__global__ void __launch_bounds__(kThreads)
    finish_sums(BatchNorm<T> call, Nodes nodes, Arithmetic<T>* sums_t, Arithmetic<T>* sums_t_xhat,
                ChannelArrays<Arithmetic<T>> channels, ChannelVector<T> dweight, ChannelVector<T> dbias) {
  using A = Arithmetic<T>;
  const std::int64_t c = blockIdx.x;
  __shared__ A staged_ts[kStaged], staged_products[kStaged];
  A* ts = stage(sums_t + c * nodes.per_channel, nodes.per_channel, staged_ts);
  A* products = stage(sums_t_xhat + c * nodes.per_channel, nodes.per_channel, staged_products);
  merge_nodes(nodes.per_channel, [&](std::int64_t left, std::int64_t right, std::int64_t) {
    ts[left] += ts[right];
    products[left] += products[right];
  });
  if (threadIdx.x != 0) return;
  const A n = static_cast<A>(call.shape.count());
  const A sum_t = nodes.per_channel ? ts[0] : A(0), sum_t_xhat = nodes.per_channel ? products[0] : A(0);
  const Channel<A> channel = channel_of(call, c);
  dbias.set(c, sum_t);
  dweight.set(c, sum_t_xhat);
  channels.set(c, channel);
  channels.scale[c] = channel.weight * channel.invstd;
  channels.mean_t[c] = sum_t / n;
  channels.mean_t_xhat[c] = sum_t_xhat / n;
}

template <int V, bool Rows, class T>
__global__ void __launch_bounds__(kThreads)
    input_gradient(const T* dy, const T* x, T* dx, std::int64_t n, bool rectifies, bool training,
                   ChannelIndex channel_index, ChannelArrays<Arithmetic<T>> channels) {
  using A = Arithmetic<T>;
  using Values = ChannelValues<V, Rows, A>;
  const std::int64_t begin = Tile<V, T>::begin();
  if (begin >= n) return;
  Tile<V, T> tile, inputs;
  tile.load_from(dy, begin, n);
  inputs.load_from(x, begin, n);
#pragma unroll
  for (int r = 0; r < tile.rounds; ++r) {
    const std::int64_t i = tile.index(begin, r);
    const std::int64_t c = i < n ? channel_index.template of<Rows>(i) : 0;
    const Values mean(channels.mean, c), invstd(channels.invstd, c), weight(channels.weight, c), bias(channels.bias, c);
    const Values scale(channels.scale, c), mean_t(channels.mean_t, c), mean_t_xhat(channels.mean_t_xhat, c);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      T& value = tile.packs[r].values[j];
      const A xhat = normalized(widen(inputs.packs[r].values[j]), mean[j], invstd[j]);
      const A t = masked(rectifies, widen(value), xhat, weight[j], bias[j]);
      value =
          narrow<T>(training ? batch_norm_input_gradient(t, xhat, scale[j], mean_t[j], mean_t_xhat[j]) : scale[j] * t);
    }
    tile.store_round(dx, begin, n, r);
  }
}

template <int V, bool Rows, class T>
void run_input_gradient(const Context& context, const BatchNorm<T>& call, const T* dy, const T* x, T* dx,
                        const ChannelArrays<Arithmetic<T>>& channels) {
  const std::int64_t n = call.shape.size();
  run(input_gradient<V, Rows, T>, "batch norm backward, input gradient", tile_blocks(n, V), dim3(kThreads), context, dy,
      x, dx, n, call.relu, call.training, ChannelIndex(call.shape), channels);
}

}  // namespace
}  // namespace cuda

namespace launch {

using namespace cuda;

template <class T>
void batch_norm_backward(const Context& context, const BatchNorm<T>& call, const T* dy, const T* x, T* dx,
                         ChannelVector<T> dweight, ChannelVector<T> dbias) {
  using A = Arithmetic<T>;
  const ChannelShape s = call.shape;
  Scratch scratch(context);
  const Nodes nodes = nodes_of(s);
  A* sums_t = scratch.take<A>(2 * nodes.per_channel * s.channels);
  A* sums_t_xhat = sums_t + nodes.per_channel * s.channels;
  const auto channels = take_channels<A>(scratch, s.channels, true);
  if (call.dropout != nullptr) {
    dropout(context, dy, dx, s.size(), *call.dropout, false);
    dy = dx;
  }
  if (s.inner == 1) {
    run(row_sums<T>, "batch norm backward, sums of rows", node_blocks(s, nodes), node_threads(s), context, dy, x, call,
        nodes, sums_t, sums_t_xhat);
  } else {
    const auto sums = fits_int32(s) ? run_plane_sums<std::int32_t, T> : run_plane_sums<std::int64_t, T>;
    sums(context, call, dy, x, nodes, sums_t, sums_t_xhat);
  }
  run(finish_sums<T>, "batch norm backward, finish sums", s.channels, merge_threads(nodes.per_channel), context, call,
      nodes, sums_t, sums_t_xhat, channels, dweight, dbias);
  constexpr int V = kVector<T>;
  const bool vectors = fits_vectors<T>(s) && is_aligned(dy) && is_aligned(x) && is_aligned(dx);
  const auto gradient = s.inner == 1 ? (vectors ? run_input_gradient<V, true, T> : run_input_gradient<1, true, T>)
                                     : (vectors ? run_input_gradient<V, false, T> : run_input_gradient<1, false, T>);
  gradient(context, call, dy, x, dx, channels);
}

#define FUSEDSTEP_INSTANTIATE(T)                                                                                      \
  template void batch_norm_backward<T>(const Context&, const BatchNorm<T>&, const T*, const T*, T*, ChannelVector<T>, \
                                       ChannelVector<T>);
FUSEDSTEP_TYPES(FUSEDSTEP_INSTANTIATE)

}  // namespace launch
}  // namespace fusedstep
