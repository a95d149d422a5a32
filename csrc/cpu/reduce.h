// Sums in the tree of reference/reduction.py: leaves of 512 values in 32 lanes. Compiled once per instruction set.
#pragma once

#include <cstdint>

#include "../kernels.h"
#include "../math/pairwise.h"
#include "elementwise.h"

namespace fusedstep {
namespace {

// The lanes of one leaf.
template <class T>
struct Lanes {
  alignas(64) T values[kLanes] = {};

  T fold() { return fold_to<kLanes / 2>(); }

 private:
  template <int half>
  T fold_to() {
#pragma omp simd
    for (int j = 0; j < half; ++j) values[j] += values[half + j];
    if constexpr (half > 1) fold_to<half / 2>();
    return values[0];
  }
};

struct Nothing {
  FUSEDSTEP_HD void operator()(std::int64_t) const {}
};

// add(i, lane of i) for the values of a leaf; before(k) ahead of those from k on.
template <class F, class G = Nothing>
FUSEDSTEP_HD void for_lanes_of_leaf(std::int64_t n, F add, G before = {}) {
  const std::int64_t full = n - n % kLanes;
  for (std::int64_t k = 0; k < full; k += kLanes) {
    before(k);
#pragma omp simd
    for (int j = 0; j < kLanes; ++j) add(k + j, j);
  }
  for (std::int64_t j = 0; j < n - full; ++j) add(full + j, j);
}

template <class T>
T sum_leaf(const T* __restrict values, std::int64_t n) {
  if (n == 1) return T(0) + values[0];
  Lanes<T> lanes;
  for_lanes_of_leaf(n, [&](std::int64_t i, std::int64_t j) { lanes.values[j] += values[i]; });
  return lanes.fold();
}

// The lanes of up to kWidth columns, for rows that come one after another: row r goes to lane r % kLanes.
template <class T>
struct RowLanes {
  alignas(64) T lanes[kLanes * kWidth];
  std::int64_t width;

  explicit RowLanes(std::int64_t columns) : width(columns) {
    for (std::int64_t i = 0; i < kLanes * width; ++i) lanes[i] = 0;
  }
  T* of(std::int64_t row) { return lanes + row % kLanes * width; }
  // Ends the leaf: writes one sum a column.
  void fold(T* sums) {
    for (std::int64_t half = kLanes / 2; half > 0; half /= 2) {
#pragma omp simd
      for (std::int64_t i = 0; i < half * width; ++i) lanes[i] += lanes[half * width + i];
    }
    for (std::int64_t j = 0; j < width; ++j) sums[j] = lanes[j];
  }
};

template <class T>
T tree_sum(const T* values, std::int64_t n) {
  PairwiseSum<T> sum;
  for (std::int64_t begin = 0; begin < n; begin += kLeaf) {
    sum.add(sum_leaf(values + begin, n - begin < kLeaf ? n - begin : kLeaf));
  }
  return sum.total();
}

// Sums of squares in double, one a leaf; n values from the start of a leaf.
template <class T>
void square_leaves(const T* __restrict x, std::int64_t n, double* __restrict leaves) {
  alignas(64) double squares[kLeaf];
  for (std::int64_t begin = 0; begin < n; begin += kLeaf) {
    const std::int64_t count = n - begin < kLeaf ? n - begin : kLeaf;
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) {
      const double value = widen(x[begin + i]);
      squares[i] = value * value;
    }
    leaves[begin / kLeaf] = sum_leaf(squares, count);
  }
}

// The same of parameters and of the directions that a rule takes, both as they stand before the update.
template <class Rule, class P, class S>
void trust_leaves(const P* __restrict p, const P* __restrict g, const S* __restrict s0, const S* __restrict s1,
                  std::int64_t n, const StepScalars<Arithmetic<P>> s, double* __restrict parameters,
                  double* __restrict directions) {
  using A = Arithmetic<P>;
  alignas(64) double squares[2][kLeaf];
  for (std::int64_t begin = 0; begin < n; begin += kLeaf) {
    const std::int64_t count = n - begin < kLeaf ? n - begin : kLeaf;
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) {
      A value = widen(p[begin + i]), a = widen(s0[begin + i]), b{};
      if constexpr (Rule::states > 1) b = widen(s1[begin + i]);
      const A gradient = prepare<false>(value, widen(g[begin + i]), s);
      const double x = value, d = Rule::direction(value, gradient, a, b, s);
      squares[0][i] = x * x;
      squares[1][i] = d * d;
    }
    parameters[begin / kLeaf] = sum_leaf(squares[0], count);
    directions[begin / kLeaf] = sum_leaf(squares[1], count);
  }
}

// Gradient of an activation on a leaf of rows, and its sums for the bias; at most kWidth columns, dx == dy is allowed.
template <class F, class T>
void activation_backward_leaf(const T* dy, const T* saved, T* dx, std::int64_t rows, std::int64_t columns,
                              std::int64_t leaf, std::int64_t c0, std::int64_t c1, T slope, T* sums) {
  const std::int64_t begin = leaf * kLeaf, width = c1 - c0;
  const std::int64_t end = rows - begin < kLeaf ? rows : begin + kLeaf;
  RowLanes<T> total(width);
  for (std::int64_t row = begin; row < end; ++row) {
    const T *d = dy + row * columns + c0, *y = saved + row * columns + c0;
    T *target = dx + row * columns + c0, *lane = total.of(row);
#pragma omp simd
    for (std::int64_t j = 0; j < width; ++j) {
      const T gradient = F::gradient(d[j], y[j], slope);
      target[j] = gradient;
      lane[j] += gradient;
    }
  }
  total.fold(sums + leaf * columns + c0);
}

}  // namespace
}  // namespace fusedstep
