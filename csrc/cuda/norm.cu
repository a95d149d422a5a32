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
// Arrays that a launch carries; a second, short table serves the usual step over flat arenas.
constexpr int kLongTable = 1000, kShortTable = 12;

template <class T, int N>
struct SpanTable {
  const T* data[N];
  std::int64_t n[N];
  std::uint32_t first_block[N + 1];  // also of the array's nodes
  std::int32_t count;
};

// A node for each block: the sum of squares of its leaves.
template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    sum_squares(const __grid_constant__ SpanTable<T, N> table, double* nodes, std::int32_t* nonfinite) {
  __shared__ double leaves[kBlockLeaves];
  const int array = array_of_block(table);
  const T* x = table.data[array];
  const std::int64_t n = table.n[array];
  const std::int64_t begin = std::int64_t{blockIdx.x - table.first_block[array]} * kBlockValues;
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
      if (nonfinite != nullptr) bad = bad || !(std::fabs(values[k]) < kInfinity);
      sum += values[k] * values[k];
    }
    sum = fold_lanes(sum);
    if (lane_index() == 0) leaves[leaf] = sum;
  }
  if (nonfinite != nullptr && __any_sync(kAllLanes, bad) && lane_index() == 0) atomicOr(nonfinite, 1);
  sum_nodes(leaves, block_leaves);
  if (threadIdx.x == 0) nodes[blockIdx.x] = leaves[0];
}

// The sum of an array's nodes, by the whole block; in thread 0.
template <class T, int N>
__device__ __forceinline__ double merged(const SpanTable<T, N>& table, int array, double* nodes) {
  __shared__ double staged[kStaged];
  const std::int64_t first = table.first_block[array], count = table.first_block[array + 1] - table.first_block[array];
  __syncthreads();
  double* own = stage(nodes + first, count, staged);
  sum_nodes(own, count);
  return count ? own[0] : 0.0;
}

__device__ __forceinline__ void write_root(double total, Result norm) {
  const double root = std::sqrt(total);
  if (norm.is_double) {
    *static_cast<double*>(norm.data) = root;
  } else {
    *static_cast<float*>(norm.data) = static_cast<float>(root);
  }
}

// All in one block: few arrays, added in the order of the list.
template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    root_of_squares(const __grid_constant__ SpanTable<T, N> table, double* nodes, Result norm) {
  double total = 0;
  for (int array = 0; array < table.count; ++array) total = total + merged(table, array, nodes);
  if (threadIdx.x == 0) write_root(total, norm);
}

// Many arrays: a block each, then the sum over all of them.
template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    merge_squares(const __grid_constant__ SpanTable<T, N> table, double* nodes, double* sums) {
  const double sum = merged(table, static_cast<int>(blockIdx.x), nodes);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

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
  if (threadIdx.x == 0) write_root(total, norm);
}

__global__ void count_prepared(PrepareStep call) { count_step(call, read(call.grad_multiplier)); }

// As many of the arrays from `next` on as a table holds; moves `next` on.
template <int N, class T>
SpanTable<T, N> fill_table(const std::vector<Span<T>>& arrays, std::size_t& next) {
  SpanTable<T, N> table{};
  std::int64_t blocks = 0;
  for (; next < arrays.size() && table.count < N; ++next) {
    table.data[table.count] = arrays[next].data;
    table.n[table.count] = arrays[next].n;
    table.first_block[table.count++] = static_cast<std::uint32_t>(blocks);
    blocks += ceil_div(arrays[next].n, kBlockValues);
  }
  table.first_block[table.count] = static_cast<std::uint32_t>(blocks);
  return table;
}

template <class T>
void norm_of_few(const Context& context, const std::vector<Span<T>>& arrays, Result norm, std::int32_t* nonfinite) {
  std::size_t next = 0;
  const auto table = fill_table<kShortTable>(arrays, next);
  const std::int64_t blocks = table.first_block[table.count];
  Scratch scratch(context);
  auto* nodes = scratch.take<double>(blocks);
  run(sum_squares<T, kShortTable>, "sum of squares", blocks, dim3(kThreads), context, table, nodes, nonfinite);
  run(root_of_squares<T, kShortTable>, "root of squares", 1, dim3(kThreads), context, table, nodes, norm);
}

template <class T>
void norm_of_many(const Context& context, const std::vector<Span<T>>& arrays, Result norm, std::int32_t* nonfinite) {
  static_assert(sizeof(SpanTable<T, kLongTable>) + 64 <= 32764, "more than a launch may carry");
  const auto count = static_cast<std::int64_t>(arrays.size());
  Scratch scratch(context);
  auto* sums = scratch.take<double>(count);
  for (std::size_t next = 0; next < arrays.size();) {
    const std::size_t first = next;
    const auto table = fill_table<kLongTable>(arrays, next);
    const std::int64_t blocks = table.first_block[table.count];
    auto* nodes = scratch.take<double>(blocks);
    run(sum_squares<T, kLongTable>, "sum of squares", blocks, dim3(kThreads), context, table, nodes, nonfinite);
    run(merge_squares<T, kLongTable>, "merge of squares", table.count, dim3(kThreads), context, table, nodes,
        sums + first);
  }
  run(root_of_sum, "root of sum", 1, dim3(kThreads), context, sums, count, norm);
}

}  // namespace
}  // namespace cuda

namespace launch {

using namespace cuda;

template <class T>
void global_norm(const Context& context, const std::vector<Span<T>>& arrays, Result norm, std::int32_t* nonfinite) {
  if (nonfinite != nullptr) {
    check(cudaMemsetAsync(nonfinite, 0, sizeof *nonfinite, stream_of(context)), "cudaMemsetAsync");
  }
  const auto found = arrays.size() <= kShortTable ? norm_of_few<T> : norm_of_many<T>;
  found(context, arrays, norm, nonfinite);
}

void prepare_step(const Context& context, const PrepareStep& call) {
  run(count_prepared, "prepare_step", 1, dim3(1), context, call);
}

FUSEDSTEP_TYPES(FUSEDSTEP_INSTANTIATE_NORM)

}  // namespace launch
}  // namespace fusedstep
