// The global norm of a list of arrays, and what a step makes of it.
#include <cmath>

#include "reduce.cuh"

namespace fusedstep {
namespace cuda {
namespace {

using launch::PrepareStep;
using launch::Result;
using launch::Span;

constexpr int kWarps = kThreads / kWarp;
constexpr int kWarpLeaves = 8;
constexpr int kBlockLeaves = kWarps * kWarpLeaves;  // a power of two: a block sums a subtree
constexpr std::int64_t kBlockValues = std::int64_t{kBlockLeaves} * kLeaf;
constexpr int kTable = 1000;

template <class T>
struct SpanTable {
  const T* data[kTable];
  std::int64_t n[kTable];
  std::int64_t first_block[kTable + 1];  // also of the array's nodes
  std::int32_t count;
};

// A node for each block: the sum of squares of its leaves.
template <class T>
__global__ void __launch_bounds__(kThreads)
    sum_squares(const __grid_constant__ SpanTable<T> table, double* nodes, std::int32_t* nonfinite) {
  __shared__ double leaves[kBlockLeaves];
  int low = 0, high = table.count - 1;  // the last array that begins at this block or before
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (table.first_block[middle] <= static_cast<std::int64_t>(blockIdx.x)) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  const T* x = table.data[low];
  const std::int64_t n = table.n[low];
  const std::int64_t begin = (blockIdx.x - table.first_block[low]) * kBlockValues;
  const std::int64_t block_leaves = leaf_count(n - begin < kBlockValues ? n - begin : kBlockValues);
  bool bad = false;
  for (std::int64_t leaf = threadIdx.x / kWarp; leaf < block_leaves; leaf += kWarps) {
    double values[kLaneValues];
#pragma unroll
    for (int k = 0; k < kLaneValues; ++k) {
      const std::int64_t i = begin + leaf * kLeaf + k * kLanes + lane_index();
      values[k] = i < n ? static_cast<double>(widen(x[i])) : 0.0;
    }
    double sum = 0;
#pragma unroll
    for (int k = 0; k < kLaneValues; ++k) {
      bad = bad || !(std::fabs(values[k]) < kInfinity);
      sum += values[k] * values[k];
    }
    sum = fold_lanes(sum);
    if (lane_index() == 0) leaves[leaf] = sum;
  }
  if (nonfinite != nullptr && __any_sync(kAllLanes, bad) && lane_index() == 0) atomicOr(nonfinite, 1);
  sum_nodes(leaves, block_leaves);
  if (threadIdx.x == 0) nodes[blockIdx.x] = leaves[0];
}

// A block an array: its nodes become its sum.
template <class T>
__global__ void __launch_bounds__(kThreads)
    merge_squares(const __grid_constant__ SpanTable<T> table, double* nodes, double* sums) {
  const std::int64_t first = table.first_block[blockIdx.x];
  const std::int64_t count = table.first_block[blockIdx.x + 1] - first;
  sum_nodes(nodes + first, count);
  if (threadIdx.x == 0) sums[blockIdx.x] = count ? nodes[first] : 0.0;
}

// Arrays are added in the order of the list.
__global__ void __launch_bounds__(kThreads) root_of_sum(const double* sums, std::int64_t count, Result norm) {
  __shared__ double staged[kThreads];
  double total = 0;
  for (std::int64_t begin = 0; begin < count; begin += kThreads) {
    const std::int64_t left = count - begin < kThreads ? count - begin : kThreads;
    if (threadIdx.x < left) staged[threadIdx.x] = sums[begin + threadIdx.x];
    __syncthreads();
    if (threadIdx.x == 0) {
      for (std::int64_t i = 0; i < left; ++i) total = total + staged[i];
    }
    __syncthreads();
  }
  if (threadIdx.x != 0) return;
  const double root = std::sqrt(total);
  if (norm.is_double) {
    *static_cast<double*>(norm.data) = root;
  } else {
    *static_cast<float*>(norm.data) = static_cast<float>(root);
  }
}

__global__ void count_prepared(PrepareStep call) { count_step(call, read(call.grad_multiplier)); }

}  // namespace
}  // namespace cuda

namespace launch {

using namespace cuda;

template <class T>
void global_norm(const Context& context, const std::vector<Span<T>>& arrays, Result norm, std::int32_t* nonfinite) {
  static_assert(sizeof(SpanTable<T>) + 64 <= 32764, "more than a launch may carry");
  if (nonfinite != nullptr) {
    check(cudaMemsetAsync(nonfinite, 0, sizeof *nonfinite, stream_of(context)), "cudaMemsetAsync");
  }
  Scratch scratch(context);
  auto* sums = scratch.take<double>(static_cast<std::int64_t>(arrays.size()));
  for (std::size_t done = 0; done < arrays.size();) {
    SpanTable<T> table{};
    std::int64_t blocks = 0;
    const std::size_t first = done;
    for (; done < arrays.size() && table.count < kTable; ++done) {
      table.data[table.count] = arrays[done].data;
      table.n[table.count] = arrays[done].n;
      table.first_block[table.count++] = blocks;
      blocks += ceil_div(arrays[done].n, kBlockValues);
    }
    table.first_block[table.count] = blocks;
    auto* nodes = scratch.take<double>(blocks);
    run(sum_squares<T>, "sum_squares", blocks, dim3(kThreads), context, table, nodes, nonfinite);
    run(merge_squares<T>, "merge_squares", table.count, dim3(kThreads), context, table, nodes, sums + first);
  }
  run(root_of_sum, "root_of_sum", 1, dim3(kThreads), context, sums, static_cast<std::int64_t>(arrays.size()), norm);
}

void prepare_step(const Context& context, const PrepareStep& call) {
  run(count_prepared, "prepare_step", 1, dim3(1), context, call);
}

FUSEDSTEP_TYPES(FUSEDSTEP_INSTANTIATE_NORM)

}  // namespace launch
}  // namespace fusedstep
