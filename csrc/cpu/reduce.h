// Sums in the tree of reference/reduction.py: leaves of 512 values in 32 lanes. Compiled once per instruction set.
#pragma once

#include <cstdint>

#include "../kernels.h"
#include "elementwise.h"

namespace fusedstep {
namespace {

// Adds the lanes of `rows` rows of `width` columns that stand in `buffer`; the sums end in lanes[0 .. width).
// Width: columns known at compile time, or 0. Lane j of column c is lanes[j * width + c], so that one flat loop serves.
template <int Width, class T>
void sum_lanes(const T* __restrict buffer, std::int64_t rows, std::int64_t runtime_width, T* __restrict lanes) {
  const std::int64_t width = Width ? Width : runtime_width;
  const std::int64_t span = kLanes * width;
  for (std::int64_t i = 0; i < span; ++i) lanes[i] = 0;
  const std::int64_t full = rows / kLanes;
  for (std::int64_t k = 0; k < full; ++k) {
#pragma omp simd
    for (std::int64_t i = 0; i < span; ++i) lanes[i] += buffer[k * span + i];
  }
  const std::int64_t rest = (rows % kLanes) * width;
#pragma omp simd
  for (std::int64_t i = 0; i < rest; ++i) lanes[i] += buffer[full * span + i];
  for (std::int64_t half = kLanes / 2; half > 0; half /= 2) {
#pragma omp simd
    for (std::int64_t i = 0; i < half * width; ++i) lanes[i] += lanes[half * width + i];
  }
}

// Picks the compile-time width where there is one.
template <class T>
void sum_lanes(const T* buffer, std::int64_t rows, std::int64_t width, T* lanes) {
  if (width == kWidth) return sum_lanes<kWidth>(buffer, rows, width, lanes);
  if (width == 1) return sum_lanes<1>(buffer, rows, width, lanes);
  sum_lanes<0>(buffer, rows, width, lanes);
}

template <class T>
T sum_leaf(const T* values, std::int64_t n) {
  if (n == 1) return T(0) + values[0];
  alignas(64) T lanes[kLanes];
  sum_lanes<1>(values, n, 1, lanes);
  return lanes[0];
}

// Adds leaves pairwise, neighbours first: a stack of subtrees, merged like the carries of a binary counter, pairs
// the same neighbours as going level by level does.
template <class T>
class PairwiseSum {
 public:
  void add(T leaf) {
    stack_[depth_++] = leaf;
    for (std::int64_t carry = ++leaves_; carry % 2 == 0; carry /= 2) merge_top();
  }
  T total() {
    while (depth_ > 1) merge_top();
    return depth_ == 0 ? T(0) : stack_[0];
  }

 private:
  void merge_top() {
    --depth_;
    stack_[depth_ - 1] += stack_[depth_];
  }
  T stack_[64];
  int depth_ = 0;
  std::int64_t leaves_ = 0;
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
      const double value = x[begin + i];
      squares[i] = value * value;
    }
    leaves[begin / kLeaf] = sum_leaf(squares, count);
  }
}

// Gradient of an activation, and the sums over a leaf of rows for the bias.
template <class F, class T>
void activation_backward_leaf(const T* dy, const T* saved, T* dx, std::int64_t rows, std::int64_t columns,
                              std::int64_t leaf, std::int64_t c0, std::int64_t c1, T slope, T* sums) {
  alignas(64) T buffer[kLeaf * kWidth];
  alignas(64) T lanes[kLanes * kWidth];
  const std::int64_t begin = leaf * kLeaf;
  const std::int64_t count = rows - begin < kLeaf ? rows - begin : kLeaf;
  for (std::int64_t c = c0; c < c1; c += kWidth) {
    const std::int64_t width = c1 - c < kWidth ? c1 - c : kWidth;
    for (std::int64_t row = 0; row < count; ++row) {
      const std::int64_t at = (begin + row) * columns + c;
      activation_backward_range<F>(dy + at, saved + at, buffer + row * width, width, slope);
      for (std::int64_t j = 0; j < width; ++j) dx[at + j] = buffer[row * width + j];
    }
    sum_lanes(buffer, count, width, lanes);
    for (std::int64_t j = 0; j < width; ++j) sums[leaf * columns + c + j] = lanes[j];
  }
}

}  // namespace
}  // namespace fusedstep
