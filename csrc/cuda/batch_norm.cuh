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
constexpr int kRowChannels = 32;                // a block of rows has this many channels, and kLanes lanes each

// A leaf's values of a channel, lane by lane: walks the planes of one channel.
class PlaneWalk {
 public:
  __device__ __forceinline__ PlaneWalk(const ChannelShape& s, const Divider& by_inner, std::int64_t channel,
                                       std::int64_t index)
      : inner_(s.inner), skip_(s.channels * s.inner) {
    const std::int64_t outer = by_inner.divide(index);
    inside_ = index - outer * inner_;
    plane_ = outer * skip_ + channel * inner_;
  }
  __device__ __forceinline__ std::int64_t at() const { return plane_ + inside_; }
  __device__ __forceinline__ void advance() {
    inside_ += kLanes;
    while (inside_ >= inner_) {
      inside_ -= inner_;
      plane_ += skip_;
    }
  }

 private:
  std::int64_t inner_, skip_, inside_, plane_;
};

// Nodes of a tree stand side by side for each channel; each is of `leaves` leaves.
struct Nodes {
  std::int64_t per_channel, leaves;
};

inline Nodes nodes_of(const ChannelShape& s) {
  const std::int64_t leaves = s.inner == 1 ? 1 : kPlaneLeaves;
  return {ceil_div(leaf_count(s.count()), leaves), leaves};
}

inline std::int64_t node_blocks(const ChannelShape& s, const Nodes& nodes) {
  return nodes.per_channel * (s.inner == 1 ? ceil_div(s.channels, kRowChannels) : s.channels);
}

inline dim3 node_threads(const ChannelShape& s) { return s.inner == 1 ? dim3(kRowChannels, kLanes) : dim3(kThreads); }

// Where a block of rows stands.
struct RowBlock {
  std::int64_t channel, node, row;  // of this thread; `row` is its first
  bool inside;                      // whether there is such a channel
  __device__ __forceinline__ explicit RowBlock(std::int64_t channels) {
    const std::int64_t blocks = (channels + kRowChannels - 1) / kRowChannels;
    node = blockIdx.x / blocks;
    channel = blockIdx.x % blocks * kRowChannels + threadIdx.x;
    row = node * kLeaf + threadIdx.y;
    inside = channel < channels;
  }
};

// Turns a block of rows, so that each warp holds the lanes of one channel, and adds them: thread (0, y) gets the sum of
// the block's channel y. All threads take part.
template <class A>
__device__ __forceinline__ A fold_rows(A lane_sum) {
  __shared__ A turned[kLanes][kRowChannels + 1];
  __syncthreads();
  turned[threadIdx.y][threadIdx.x] = lane_sum;
  __syncthreads();
  return fold_lanes(turned[threadIdx.x][threadIdx.y]);
}

// From thread (0, y)'s value of channel y to all threads of that channel.
template <class A>
__device__ __forceinline__ A share_channels(A value) {
  __shared__ A shared[kRowChannels];
  __syncthreads();
  if (threadIdx.x == 0) shared[threadIdx.y] = value;
  __syncthreads();
  return shared[threadIdx.x];
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

}  // namespace fusedstep::cuda
