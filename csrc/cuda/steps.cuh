// Optimizer steps over a list of arrays in one launch, or a few: a table of arrays in the kernel's parameters, cut into
// chunks, a block each. Instantiated in steps_*.cu, a file for each type of parameters.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../math/optimizers.h"
#include "elementwise.cuh"
#include "launch.cuh"
#include "trust.cuh"

namespace fusedstep::cuda {

using launch::Step;
using launch::StepArrays;

// What a launch may carry is 32,764 bytes; a second, short table serves the usual step over flat arenas.
constexpr int kLongTable = 480, kShortTable = 12;

template <class P>
constexpr std::int64_t kChunk = std::int64_t{4} * kThreads * kVector<P>;

template <class P, class S, int N>
struct StepTable {
  StepArrays<P, S> arrays[N];
  std::uint32_t first_block[N];
  std::int8_t head[N];  // values before the first vector; -1: the arrays do not reach alignment together
  std::int32_t count;
};

template <class A>
struct StepValues {
  StepScalars<A> scalars;
  const StepScalars<A>* folded;  // in place of `scalars` where they are made on the device
  bool folded_each;              // one for each array
  const std::int32_t* skip;
  bool l2;
  A ema_decay, ema_gain;
};

template <class A>
__global__ void fold_scalars(StepOptions options, Scalar lr, Counter step, Scalar multiplier, StepScalars<A>* folded) {
  *folded = fold<A>(options, read(lr), read(step), read(multiplier));
}

// V values of all arrays from index i on.
template <class Rule, int V, class P, class S, class A>
__device__ __forceinline__ void step_vector(const StepArrays<P, S>& a, std::int64_t i, const StepScalars<A>& s,
                                            const StepValues<A>& v) {
  Pack<P, V> p = load<V>(a.p + i), g = load<V>(a.g + i);
  Pack<S, V> states[3], ema;
#pragma unroll
  for (int k = 0; k < Rule::states; ++k) states[k] = load<V>(a.states[k] + i);
  if (a.ema != nullptr) ema = load<V>(a.ema + i);
#pragma unroll
  for (int j = 0; j < V; ++j) {
    A value = widen(p.values[j]), x{}, y{}, z{};
    if constexpr (Rule::states > 0) x = widen(states[0].values[j]);
    if constexpr (Rule::states > 1) y = widen(states[1].values[j]);
    if constexpr (Rule::states > 2) z = widen(states[2].values[j]);
    const A grad = widen(g.values[j]);
    const A gradient = v.l2 ? prepare<true>(value, grad, s) : prepare<false>(value, grad, s);
    Rule::update(value, gradient, x, y, z, s);
    p.values[j] = narrow<P>(value);
    if constexpr (Rule::states > 0) states[0].values[j] = narrow<S>(x);
    if constexpr (Rule::states > 1) states[1].values[j] = narrow<S>(y);
    if constexpr (Rule::states > 2) states[2].values[j] = narrow<S>(z);
    if (a.ema != nullptr) {
      ema.values[j] = narrow<S>(average(widen(ema.values[j]), widen(p.values[j]), v.ema_decay, v.ema_gain));
    }
  }
  store<V>(a.p + i, p);
#pragma unroll
  for (int k = 0; k < Rule::states; ++k) store<V>(a.states[k] + i, states[k]);
  if (a.ema != nullptr) store<V>(a.ema + i, ema);
}

template <class Rule, class P, class S, class A, int N>
__global__ void __launch_bounds__(kThreads)
    step_kernel(const __grid_constant__ StepTable<P, S, N> table, const __grid_constant__ StepValues<A> values) {
  if (values.skip != nullptr && *values.skip != 0) return;
  const int array = array_of_block(table);
  const StepArrays<P, S> a = table.arrays[array];
  const StepScalars<A> s = values.folded != nullptr ? values.folded[values.folded_each ? array : 0] : values.scalars;
  const std::int64_t chunk = blockIdx.x - table.first_block[array];
  const int head = table.head[array];
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t begin = chunk * kChunk<P> + (head > 0 ? head : 0);
  const std::int64_t end = begin + kChunk<P> < a.n ? begin + kChunk<P> : a.n;
  // Values from `rest` on, and the array's first ones, take no vectors; in one loop, as the step is long code.
  std::int64_t rest = begin;
  if (head >= 0 && begin < end) {
    constexpr int V = kVector<P>;
    rest = end - (end - begin) % V;
    for (std::int64_t i = begin + thread * V; i < rest; i += kThreads * V) step_vector<Rule, V>(a, i, s, values);
  }
  const int after = rest < end ? static_cast<int>(end - rest) : 0, before = chunk == 0 && head > 0 ? head : 0;
  for (int k = thread; k < after + before; k += kThreads) {
    step_vector<Rule, 1>(a, k < after ? rest + k : k - after, s, values);
  }
}

template <class P, class S>
int head_of(const StepArrays<P, S>& a, int states) {
  const auto over = reinterpret_cast<std::uintptr_t>(a.p) % kVectorBytes;
  const auto head = static_cast<std::int64_t>((kVectorBytes - over) % kVectorBytes / sizeof(P));
  if (head > a.n) return -1;
  bool aligned = is_aligned(a.p + head) && is_aligned(a.g + head) && (a.ema == nullptr || is_aligned(a.ema + head));
  for (int k = 0; k < states; ++k) aligned = aligned && is_aligned(a.states[k] + head);
  return aligned ? static_cast<int>(head) : -1;
}

template <class Rule, int N, class P, class S, class A>
void run_steps(const char* name, const Context& context, const std::vector<StepArrays<P, S>>& arrays,
               StepValues<A> values) {
  for (std::size_t next = 0; next < arrays.size();) {
    StepTable<P, S, N> table{};
    std::int64_t chunks = 0;
    for (; next < arrays.size() && table.count < N; ++next) {
      const StepArrays<P, S>& a = arrays[next];
      if (a.n == 0) continue;
      const int head = head_of(a, Rule::states);
      table.arrays[table.count] = a;
      table.head[table.count] = static_cast<std::int8_t>(head);
      table.first_block[table.count++] = static_cast<std::uint32_t>(chunks);
      chunks += std::max<std::int64_t>(1, ceil_div(a.n - std::max(head, 0), kChunk<P>));
    }
    run(step_kernel<Rule, P, S, A, N>, name, chunks, dim3(kThreads), context, table, values);
    if (values.folded_each) values.folded += table.count;
  }
}

template <class Rule, class P, class S, class A>
void run_rule(const char* name, const Context& context, const std::vector<StepArrays<P, S>>& arrays,
              const StepValues<A>& values) {
  static_assert(sizeof(StepTable<P, S, kLongTable>) + sizeof(StepValues<A>) <= 32764, "more than a launch may carry");
  if (arrays.size() <= kShortTable) {
    run_steps<Rule, kShortTable>(name, context, arrays, values);
  } else {
    run_steps<Rule, kLongTable>(name, context, arrays, values);
  }
}

template <class P, class S>
void step(const Context& context, const Step& call, const std::vector<StepArrays<P, S>>& arrays) {
  using A = Arithmetic<P>;
  Scratch scratch(context);
  StepValues<A> values{};
  const bool adapts = call.options.trust.adapts;
  if (!adapts && call.lr.data == nullptr && call.step.data == nullptr && call.multiplier.data == nullptr) {
    values.scalars = fold<A>(call.options, call.lr.value, call.step.value, call.multiplier.value);
  } else {
    auto* folded = scratch.take<StepScalars<A>>(1);
    run(fold_scalars<A>, "fold_scalars", 1, dim3(1), context, call.options, call.lr, call.step, call.multiplier,
        folded);
    values.folded = folded;
  }
  values.skip = call.skip;
  values.l2 = call.options.l2();
  values.ema_decay = static_cast<A>(call.ema_decay);
  values.ema_gain = static_cast<A>(1 - call.ema_decay);
  if (adapts) {
    auto* each = scratch.take<StepScalars<A>>(static_cast<std::int64_t>(arrays.size()));
    const bool few = arrays.size() <= kShortTable;
    switch (call.rule) {
#define FUSEDSTEP_CASE(rule)                                                                     \
  case k##rule:                                                                                  \
    few ? run_trust<rule, kShortTable>(context, call.options.trust, arrays, values.folded, each) \
        : run_trust<rule, kLongTable>(context, call.options.trust, arrays, values.folded, each); \
    break;
      FUSEDSTEP_TRUST_RULES(FUSEDSTEP_CASE)
#undef FUSEDSTEP_CASE
      default:
        throw std::logic_error("a rule without a direction has no trust ratio");
    }
    values.folded = each;
    values.folded_each = true;
  }
  switch (call.rule) {
#define FUSEDSTEP_CASE(rule) \
  case k##rule:              \
    return run_rule<rule>(#rule " step", context, arrays, values);
    FUSEDSTEP_RULES(FUSEDSTEP_CASE)
#undef FUSEDSTEP_CASE
    case kRuleCount:
      break;
  }
}

}  // namespace fusedstep::cuda

#define FUSEDSTEP_LAUNCH_STEPS(P, S)                                                                       \
  template <>                                                                                              \
  void step<P, S>(const Context& context, const Step& call, const std::vector<StepArrays<P, S>>& arrays) { \
    cuda::step(context, call, arrays);                                                                     \
  }
