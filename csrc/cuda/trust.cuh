// The factor of each array that LARS and LAMB multiply its update by: norms in the tree of the CPU, on the device.
#pragma once

#include <algorithm>
#include <vector>

#include "../math/optimizers.h"
#include "reduce.cuh"

namespace fusedstep::cuda {

using launch::StepArrays;

constexpr int kTrustLeaves = 64;  // a block's; a power of two: it sums a subtree
constexpr std::int64_t kTrustValues = std::int64_t{kTrustLeaves} * kLeaf;

template <class P, class S, int N>
struct TrustTable {
  StepArrays<P, S> arrays[N];
  std::uint32_t first_block[N + 1];  // also of the array's nodes
  std::int32_t count;
};

// Two nodes for each block: the sums of squares of its parameters and of their directions.
template <class Rule, class P, class S, class A, int N>
__global__ void __launch_bounds__(kThreads)
    trust_squares(const __grid_constant__ TrustTable<P, S, N> table, const StepScalars<A>* scalars, double* nodes) {
  __shared__ double parameters[kTrustLeaves], directions[kTrustLeaves];
  const int array = array_of_block(table);
  const StepArrays<P, S> a = table.arrays[array];
  const StepScalars<A> s = *scalars;
  const std::int64_t begin = std::int64_t{blockIdx.x - table.first_block[array]} * kTrustValues;
  const std::int64_t leaves = leaf_count(a.n - begin < kTrustValues ? a.n - begin : kTrustValues);
  for (std::int64_t leaf = threadIdx.x / kWarp; leaf < leaves; leaf += kThreads / kWarp) {
    double p_sum = 0, d_sum = 0;
    for (int k = 0; k < kLaneValues; ++k) {
      const std::int64_t i = begin + leaf * kLeaf + k * kLanes + lane_index();
      if (i >= a.n) break;
      A value = widen(a.p[i]), x = widen(a.states[0][i]), y{};
      if constexpr (Rule::states > 1) y = widen(a.states[1][i]);
      const A gradient = prepare<false>(value, static_cast<A>(widen(a.g[i])), s);
      const double p = value, d = Rule::direction(value, gradient, x, y, s);
      p_sum += p * p;
      d_sum += d * d;
    }
    p_sum = fold_lanes(p_sum);
    d_sum = fold_lanes(d_sum);
    if (lane_index() == 0) parameters[leaf] = p_sum, directions[leaf] = d_sum;
  }
  sum_nodes(parameters, leaves);
  sum_nodes(directions, leaves);
  if (threadIdx.x == 0) {
    nodes[blockIdx.x] = parameters[0];
    nodes[gridDim.x + blockIdx.x] = directions[0];
  }
}

// A block for each array: its scalars.
template <class P, class S, class A, int N>
__global__ void __launch_bounds__(kThreads)
    trust_of_squares(const __grid_constant__ TrustTable<P, S, N> table, Trust trust, const StepScalars<A>* scalars,
                     double* nodes, StepScalars<A>* each) {
  const int array = static_cast<int>(blockIdx.x);
  const std::int64_t first = table.first_block[array], count = table.first_block[array + 1] - first;
  double* const parameters = nodes + first;
  double* const directions = nodes + table.first_block[table.count] + first;
  sum_nodes(parameters, count);
  sum_nodes(directions, count);
  if (threadIdx.x != 0) return;
  each[array] = *scalars;
  each[array].trust = static_cast<A>(trust_ratio(trust, parameters[0], directions[0]));
}

// `each`: one for every array that is not empty.
template <class Rule, int N, class P, class S, class A>
void run_trust(const Context& context, const Trust& trust, const std::vector<StepArrays<P, S>>& arrays,
               const StepScalars<A>* scalars, StepScalars<A>* each) {
  Scratch scratch(context);
  for (std::size_t next = 0; next < arrays.size();) {
    TrustTable<P, S, N> table{};
    std::int64_t blocks = 0;
    for (; next < arrays.size() && table.count < N; ++next) {
      if (arrays[next].n == 0) continue;
      table.arrays[table.count] = arrays[next];
      table.first_block[table.count++] = static_cast<std::uint32_t>(blocks);
      blocks += ceil_div(arrays[next].n, kTrustValues);
    }
    table.first_block[table.count] = static_cast<std::uint32_t>(blocks);
    auto* nodes = scratch.take<double>(2 * blocks);
    run(trust_squares<Rule, P, S, A, N>, "squares of parameters and directions", blocks, dim3(kThreads), context, table,
        scalars, nodes);
    run(trust_of_squares<P, S, A, N>, "trust ratios", table.count, dim3(kThreads), context, table, trust, scalars,
        nodes, each);
    each += table.count;
  }
}

}  // namespace fusedstep::cuda
