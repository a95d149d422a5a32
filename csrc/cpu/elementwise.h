// Range functions: value by value, `omp simd` loops and nothing else. Compiled once per instruction set.
#pragma once

#include <cstdint>

#include "../math/activations.h"
#include "../math/half.h"
#include "../math/optimizers.h"

namespace fusedstep {
namespace {

// `__restrict` pointers and the scalars by value: captured by reference, the loop is not vectorized.
template <class Rule, bool L2, class P, class S, class A>
void step_span(P* __restrict p, const P* __restrict g, S* __restrict s0, S* __restrict s1, S* __restrict s2,
               std::int64_t n, const StepScalars<A> s) {
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

// Values up to the next 64-byte line, at most n. Loads that cross lines cost up to a third of a step.
template <class T>
std::int64_t to_alignment(const T* p, std::int64_t n) {
  const std::uintptr_t over = reinterpret_cast<std::uintptr_t>(p) % 64;
  const std::int64_t head = over == 0 || over % sizeof(T) != 0 ? 0 : static_cast<std::int64_t>((64 - over) / sizeof(T));
  return head < n ? head : n;
}

template <class Rule, bool L2, class P, class S>
void step_range(P* p, const P* g, S* s0, S* s1, S* s2, std::int64_t n, StepScalars<Arithmetic<P>> s) {
  const std::int64_t head = to_alignment(p, n);
  if (head > 0) step_span<Rule, L2>(p, g, s0, s1, s2, head, s);
  auto after = [head](auto* pointer) { return pointer ? pointer + head : pointer; };
  step_span<Rule, L2>(p + head, g + head, after(s0), after(s1), after(s2), n - head, s);
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
