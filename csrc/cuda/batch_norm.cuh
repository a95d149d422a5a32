// What the kernels of batch norm share. Channels are either planes, runs of one channel in memory, or, where `inner` is
// 1, rows of neighbouring channels.
#pragma once

#include <cstdint>

#include "../math/batch_norm.h"
#include "elementwise.cuh"
#include "reduce.cuh"

namespace fusedstep::cuda {

using launch::BatchNorm;
using launch::ChannelVector;

constexpr int kPlaneLeaves = kThreads / kWarp;  // leaves of a channel that a block adds, a warp each

// How a lane goes from a value of a channel to its next one, kLanes further on; Index holds what memory indices need.
template <class Index>
struct PlaneSteps {
  Divider by_inner;
  Index inner, channels, outer_step, inside_step;

  explicit PlaneSteps(const ChannelShape& s)
      : by_inner(s.inner, s.size()),
        inner(static_cast<Index>(s.inner)),
        channels(static_cast<Index>(s.channels)),
        outer_step(static_cast<Index>(s.inner ? kLanes / s.inner * s.inner * s.channels : 0)),
        inside_step(static_cast<Index>(s.inner ? kLanes % s.inner : 0)) {}
};

// A lane's last steps may go beyond the end by a leaf.
inline bool fits_int32(const ChannelShape& s) {
  return s.size() + kLeaf * s.channels * s.inner < std::int64_t{1} << 31;
}

// f(k, memory index) for the values k * kLanes + lane of a leaf, those below `left`; `begin` is the leaf's first value.
template <class Index, class F>
__device__ __forceinline__ void for_lane_values(const PlaneSteps<Index>& steps, std::int64_t channel,
                                                std::int64_t begin, std::int64_t left, const F& f) {
  const std::int64_t first = begin + lane_index(), outer = steps.by_inner.divide(first);
  auto inside = static_cast<Index>(first - outer * steps.inner);
  const Index skip = steps.channels * steps.inner;
  auto plane = static_cast<Index>(outer * skip + channel * steps.inner);
#pragma unroll
  for (int k = 0; k < kLaneValues; ++k) {
    if (k * kLanes + lane_index() < left) f(k, plane + inside);
    inside += steps.inside_step;
    plane += steps.outer_step;
    if (inside >= steps.inner) {
      inside -= steps.inner;
      plane += skip;
    }
  }
}

// Nodes of a tree stand side by side for each channel; each is of `leaves` leaves.
struct Nodes {
  std::int64_t per_channel, leaves;
};

inline Nodes nodes_of(const ChannelShape& s) {
  const std::int64_t leaves = s.inner == 1 ? 1 : kPlaneLeaves;
  return {ceil_div(leaf_count(s.count()), leaves), leaves};
}

// A block of rows adds a leaf of this many channels; each thread has four of the lanes: y, 8 + y, 16 + y, 24 + y.
constexpr int kRowChannels = 32, kRowThreads = kThreads / kRowChannels, kOwnLanes = kLanes / kRowThreads;
static_assert(kOwnLanes == 4, "fold_rows folds four lanes by hand");

inline std::int64_t node_blocks(const ChannelShape& s, const Nodes& nodes) {
  return nodes.per_channel * (s.inner == 1 ? ceil_div(s.channels, kRowChannels) : s.channels);
}

inline dim3 node_threads(const ChannelShape& s) {
  return s.inner == 1 ? dim3(kRowChannels, kRowThreads) : dim3(kThreads);
}

// Where a thread of a block of rows stands.
struct RowBlock {
  std::int64_t channel, node;
  bool inside;           // whether there is such a channel
  std::int64_t clamped;  // a channel that there is

  __device__ __forceinline__ explicit RowBlock(std::int64_t channels) {
    const std::int64_t blocks = (channels + kRowChannels - 1) / kRowChannels;
    node = blockIdx.x / blocks;
    channel = blockIdx.x % blocks * kRowChannels + threadIdx.x;
    inside = channel < channels;
    clamped = inside ? channel : 0;
  }
  // The row of value k of the thread's lane number `own`.
  __device__ __forceinline__ std::int64_t row(int k, int own) const {
    return node * kLeaf + k * kLanes + own * kRowThreads + threadIdx.y;
  }
  // The memory index of that row's value; of some row's past the end. Without a condition, all loads are under way
  // before the first is waited for.
  __device__ __forceinline__ std::int64_t index(int k, int own, std::int64_t rows, std::int64_t channels) const {
    const std::int64_t r = row(k, own);
    return (r < rows ? r : rows - 1) * channels + clamped;
  }
  // Whether this thread writes the channel's node.
  __device__ __forceinline__ bool writes() const { return inside && threadIdx.y == 0; }
};

// The leaf's sum from its lanes' sums, halved as everywhere: for all threads of a channel. All threads of the block
// take part.
template <class A>
__device__ __forceinline__ A fold_rows(const A (&own)[kOwnLanes]) {
  __shared__ A lanes[kRowThreads][kRowChannels];
  __syncthreads();
  lanes[threadIdx.y][threadIdx.x] = (own[0] + own[2]) + (own[1] + own[3]);
  __syncthreads();
  A sums[kRowThreads];
#pragma unroll
  for (int i = 0; i < kRowThreads; ++i) sums[i] = lanes[i][threadIdx.x];
#pragma unroll
  for (int half = kRowThreads / 2; half > 0; half /= 2) {
#pragma unroll
    for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
  }
  return sums[0];
}

// What normalizes a channel.
template <class A>
struct Channel {
  A mean, invstd, weight, bias;
};

template <class T>
__device__ __forceinline__ Channel<Arithmetic<T>> channel_of(const BatchNorm<T>& call, std::int64_t c) {
  using A = Arithmetic<T>;
  return {call.mean[c], inverse_std(call.var[c], static_cast<A>(call.eps)), call.weight ? call.weight.get(c) : A(1),
          call.bias ? call.bias.get(c) : A(0)};
}

// Vectors of one value a channel, for the passes over all values.
template <class A>
struct ChannelArrays {
  A *mean, *invstd, *weight, *bias;
  A *scale, *mean_t, *mean_t_xhat;  // backward

  __device__ __forceinline__ void set(std::int64_t c, const Channel<A>& channel) const {
    mean[c] = channel.mean;
    invstd[c] = channel.invstd;
    weight[c] = channel.weight;
    bias[c] = channel.bias;
  }
};

// The values of such a vector for the channels of a vector of V values: of V channels in rows, of one in planes.
template <int V, bool Rows, class A>
struct ChannelValues {
  Pack<A, Rows ? V : 1> pack;

  __device__ __forceinline__ ChannelValues(const A* vector, std::int64_t c) : pack(load<Rows ? V : 1>(vector + c)) {}
  __device__ __forceinline__ A operator[](int j) const { return pack.values[Rows ? j : 0]; }
};

template <class A>
ChannelArrays<A> take_channels(Scratch& scratch, std::int64_t channels, bool backward) {
  A* all = scratch.take<A>(channels * (backward ? 7 : 4));
  const auto at = [&](int k) { return all + k * channels; };
  if (!backward) return {at(0), at(1), at(2), at(3), nullptr, nullptr, nullptr};
  return {at(0), at(1), at(2), at(3), at(4), at(5), at(6)};
}

// The channel of a memory index.
class ChannelIndex {
 public:
  explicit ChannelIndex(const ChannelShape& s) : inner_(s.inner, s.size()), channels_(s.channels, s.size()) {}
  template <bool Rows>
  __device__ __forceinline__ std::int64_t of(std::int64_t i) const {
    return channels_.remainder(Rows ? i : inner_.divide(i));
  }

 private:
  Divider inner_, channels_;
};

// Whether vectors of V values stay within a plane, or within a row.
template <class T>
bool fits_vectors(const ChannelShape& s) {
  return (s.inner == 1 ? s.channels : s.inner) % kVector<T> == 0;
}

// Whether there is a ReLU is looked up by each thread, the same way in all: kernels with and without would be twice the
// code.
template <class A>
__device__ __forceinline__ A normalized_value(bool relu, A x, A mean, A invstd, A weight, A bias) {
  return relu ? batch_norm_value<true>(x, mean, invstd, weight, bias)
              : batch_norm_value<false>(x, mean, invstd, weight, bias);
}
template <class A>
__device__ __forceinline__ A masked(bool relu, A dy, A xhat, A weight, A bias) {
  return relu ? batch_norm_masked<true>(dy, xhat, weight, bias) : batch_norm_masked<false>(dy, xhat, weight, bias);
}

}  // namespace fusedstep::cuda
