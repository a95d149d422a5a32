// Range functions: value by value, `omp simd` loops or whole registers. Compiled once per instruction set.
#pragma once

#include <cstdint>

#include "../math/activations.h"
#include "../math/half.h"
#include "../math/optimizers.h"
#include "line.h"
#include "register.h"

namespace fusedstep {
namespace {

// `__restrict` pointers and the scalars by value: captured by reference, the loop is not vectorized.
template <class Rule, bool L2, class P, class S, class A>
FUSEDSTEP_HD void step_span(P* __restrict p, const P* __restrict g, S* __restrict s0, S* __restrict s1,
                            S* __restrict s2, std::int64_t n, const StepScalars<A> s) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    A value = widen(p[i]), a{}, b{}, c{};
    if constexpr (Rule::states > 0) a = widen(s0[i]);
    if constexpr (Rule::states > 1) b = widen(s1[i]);
    if constexpr (Rule::states > 2) c = widen(s2[i]);
    const A gradient = prepare<L2>(value, widen(g[i]), s);
    Rule::update(value, gradient, a, b, c, s);
    p[i] = narrow<P>(value);
    if constexpr (Rule::states > 0) s0[i] = narrow<S>(a);
    if constexpr (Rule::states > 1) s1[i] = narrow<S>(b);
    if constexpr (Rule::states > 2) s2[i] = narrow<S>(c);
  }
}

// One line of a step, by parameter and state type: here the way for all types ...
template <class P, class S>
struct Line {
  using Scalars = StepScalars<Arithmetic<P>>;
  FUSEDSTEP_HD static const Scalars& prepared(const Scalars& s) { return s; }
  template <class Rule, bool L2>
  FUSEDSTEP_HD static void step(P* p, const P* g, S* s0, S* s1, S* s2, const Scalars& s) {
    step_span<Rule, L2>(p, g, s0, s1, s2, kLine<P>, s);
  }
};

#if defined(FUSEDSTEP_REGISTER)
// ... and here one register of float32.
template <>
struct Line<float, float> {
  using Scalars = StepScalars<Register>;
  static_assert(kLine<float> == kFloats);
  FUSEDSTEP_HD static Scalars prepared(const StepScalars<float>& s) { return spread(s); }
  template <class Rule, bool L2>
  FUSEDSTEP_HD static void step(float* p, const float* g, float* s0, float* s1, float* s2, const Scalars& s) {
    Register value = load_register(p), a{}, b{}, c{};
    if constexpr (Rule::states > 0) a = load_register(s0);
    if constexpr (Rule::states > 1) b = load_register(s1);
    if constexpr (Rule::states > 2) c = load_register(s2);
    const Register gradient = prepare<L2>(value, load_register(g), s);
    Rule::update(value, gradient, a, b, c, s);
    store_register(p, value);
    if constexpr (Rule::states > 0) store_register(s0, a);
    if constexpr (Rule::states > 1) store_register(s1, b);
    if constexpr (Rule::states > 2) store_register(s2, c);
  }
};
#endif

// The processor's own prefetching ends with each page of 4 KiB. Asked for half a page ahead, 30M values of RMSprop took
// 12.5 ms in place of 15 on two cores; in the cache it costs nothing.
template <class T>
FUSEDSTEP_HD void prefetch_ahead(const T* p) {
  prefetch_line(p, 2048);
}

// float and double, a line at a time.
template <class Rule, bool L2, class P, class S>
FUSEDSTEP_NOINLINE void step_lines(P* p, const P* g, S* s0, S* s1, S* s2, std::int64_t n,
                                   StepScalars<Arithmetic<P>> s) {
  // Loads that cross lines cost up to a third of a step.
  const std::int64_t before = values_before_line(p), head = before < n ? before : n;
  step_span<Rule, L2>(p, g, s0, s1, s2, head, s);
  const typename Line<P, S>::Scalars scalars = Line<P, S>::prepared(s);
  p += head, g += head, n -= head;
  if constexpr (Rule::states > 0) s0 += head;
  if constexpr (Rule::states > 1) s1 += head;
  if constexpr (Rule::states > 2) s2 += head;
  for (; n >= kLine<P>; n -= kLine<P>) {
    prefetch_ahead(p);
    prefetch_ahead(g);
    if constexpr (Rule::states > 0) prefetch_ahead(s0);
    if constexpr (Rule::states > 1) prefetch_ahead(s1);
    if constexpr (Rule::states > 2) prefetch_ahead(s2);
    Line<P, S>::template step<Rule, L2>(p, g, s0, s1, s2, scalars);
    p += kLine<P>, g += kLine<P>;
    if constexpr (Rule::states > 0) s0 += kLine<P>;
    if constexpr (Rule::states > 1) s1 += kLine<P>;
    if constexpr (Rule::states > 2) s2 += kLine<P>;
  }
  step_span<Rule, L2>(p, g, s0, s1, s2, n, s);
}

constexpr std::int64_t kWidened = 512;  // values of a half type that are computed on at a time, in the first cache

// The values of an array as float: those themselves, or widened into `buffer`.
FUSEDSTEP_HD float* widened(float* x, float*, std::int64_t) { return x; }
template <class T>
FUSEDSTEP_HD float* widened(const T* x, float* buffer, std::int64_t n) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) buffer[i] = widen(x[i]);
  return buffer;
}
FUSEDSTEP_HD void narrow_into(float*, const float*, std::int64_t) {}  // it was computed on in place
template <class T>
FUSEDSTEP_HD void narrow_into(T* x, const float* buffer, std::int64_t n) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) x[i] = narrow<T>(buffer[i]);
}

// The half types, through float's kernel: an instance for each rule would be two thirds of the module.
template <class P, class S>
FUSEDSTEP_NOINLINE void step_halves(StepKernels<float, float>::StepRange step, int states, P* p, const P* g,
                                    S* const* s, std::int64_t n, const StepScalars<float>& scalars) {
  alignas(64) float buffers[5][kWidened];
  for (std::int64_t begin = 0; begin < n; begin += kWidened) {
    const std::int64_t count = n - begin < kWidened ? n - begin : kWidened;
    float* state[3]{};
    for (int k = 0; k < states; ++k) state[k] = widened(s[k] + begin, buffers[2 + k], count);
    step(widened(p + begin, buffers[0], count), widened(g + begin, buffers[1], count), state[0], state[1], state[2],
         count, scalars);
    narrow_into(p + begin, buffers[0], count);
    for (int k = 0; k < states; ++k) narrow_into(s[k] + begin, buffers[2 + k], count);
  }
}

template <class Rule, bool L2, class P, class S>
void step_range(P* p, const P* g, S* s0, S* s1, S* s2, std::int64_t n, StepScalars<Arithmetic<P>> s) {
  if constexpr (sizeof(P) == 2) {
    S* const states[] = {s0, s1, s2};
    step_halves<P, S>(&step_lines<Rule, L2, float, float>, Rule::states, p, g, states, n, s);
  } else {
    step_lines<Rule, L2>(p, g, s0, s1, s2, n, s);
  }
}

template <class P, class S>
void average_range(S* __restrict e, const P* __restrict p, std::int64_t n, Arithmetic<P> decay, Arithmetic<P> gain) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) e[i] = narrow<S>(average(widen(e[i]), widen(p[i]), decay, gain));
}

// In place is allowed (x == y), so no __restrict here; `omp simd` promises that iterations are independent.
template <class F, class T>
void activation_span(const T* x, T* y, std::int64_t n, T slope) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) y[i] = F::value(x[i], slope);
}

template <class F, class T>
void bias_activation_span(const T* x, const T* bias, T* y, std::int64_t n, T slope) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) y[i] = F::value(x[i] + bias[i], slope);
}

template <class F, class T>
void bias_activation_range(const T* x, const T* bias, T* y, std::int64_t rows, std::int64_t columns, T slope) {
  if (bias == nullptr) return activation_span<F>(x, y, rows * columns, slope);
  for (std::int64_t row = 0; row < rows; ++row) {
    bias_activation_span<F>(x + row * columns, bias, y + row * columns, columns, slope);
  }
}

template <class F, class T>
void activation_backward_range(const T* dy, const T* saved, T* dx, std::int64_t n, T slope) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) dx[i] = F::gradient(dy[i], saved[i], slope);
}

}  // namespace
}  // namespace fusedstep
