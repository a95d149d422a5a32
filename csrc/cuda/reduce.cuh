// Sums in the tree of reference/reduction.py: a warp adds a leaf, lane j the values j, j + 32, ...; leaves are merged
// pairwise. No atomics on floats: every run gives the same bits, and they are the CPU's.
#pragma once

#include <cstdint>

#include "../kernels.h"
#include "launch.cuh"

namespace fusedstep::cuda {

static_assert(kLanes == kWarp, "a lane of the tree is a lane of a warp");
constexpr int kLaneValues = kLeaf / kLanes;  // values of a leaf that a lane adds

// The sum of a leaf from its lanes' sums; in lane 0.
template <class A>
__device__ __forceinline__ A fold_lanes(A sum) {
#pragma unroll
  for (int half = kLanes / 2; half > 0; half /= 2) sum += __shfl_down_sync(kAllLanes, sum, half);
  return sum;
}

// The whole block merges `nodes` neighbours into node 0, level by level, as for_merges in cpu/tree.h does.
template <class F>
__device__ __forceinline__ void merge_nodes(std::int64_t nodes, const F& merge) {
  __syncthreads();
  for (std::int64_t span = 1; span < nodes; span *= 2) {
    for (std::int64_t left = 2 * span * threadIdx.x; left + span < nodes; left += 2 * span * blockDim.x) {
      merge(left, left + span, span);
    }
    __syncthreads();
  }
}

// Threads of a block that merges so many nodes: one for each merge of the first level, in whole warps.
inline dim3 merge_threads(std::int64_t nodes) {
  const std::int64_t warps = ceil_div(nodes, 2 * kWarp);
  return dim3(static_cast<unsigned>(kWarp * (warps < 1 ? 1 : warps > kThreads / kWarp ? kThreads / kWarp : warps)));
}

// Nodes that are few are merged in shared memory.
constexpr int kStaged = 256;

template <class A>
__device__ __forceinline__ A* stage(A* nodes, std::int64_t count, A* shared) {
  if (count > kStaged) return nodes;
  for (std::int64_t i = threadIdx.x; i < count; i += blockDim.x) shared[i] = nodes[i];
  return shared;
}

template <class A>
__device__ __forceinline__ void sum_nodes(A* nodes, std::int64_t count) {
  merge_nodes(count, [&](std::int64_t left, std::int64_t right, std::int64_t) { nodes[left] += nodes[right]; });
}

// The block's sum of n doubles, in the first of ceil(n / 512) `leaves`.
__device__ __forceinline__ void sum_values(const double* values, std::int64_t n, double* leaves) {
  const std::int64_t warps = blockDim.x / kWarp, count = leaf_count(n);
  for (std::int64_t leaf = threadIdx.x / kWarp; leaf < count; leaf += warps) {
    double sum = 0;
    for (int k = 0; k < kLaneValues; ++k) {
      const std::int64_t i = leaf * kLeaf + k * kLanes + lane_index();
      if (i < n) sum += values[i];
    }
    sum = fold_lanes(sum);
    if (lane_index() == 0) leaves[leaf] = sum;
  }
  sum_nodes(leaves, count);
}

}  // namespace fusedstep::cuda
