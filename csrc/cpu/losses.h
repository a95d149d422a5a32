// Losses over rows, with their gradients. Compiled once per instruction set.
#pragma once

#include <cstdint>

#include "../kernels.h"
#include "../math/losses.h"
#include "reduce.h"

namespace fusedstep {
namespace {

// gradient == logits is allowed: a row is read before it is written.
template <class T>
void softmax_cross_entropy_rows(const T* logits, const std::int64_t* labels, T* gradient, double* values,
                                std::int64_t begin, std::int64_t end, std::int64_t classes, const T* scales,
                                bool scale_each) {
  for (std::int64_t row = begin; row < end; ++row) {
    const T* x = logits + row * classes;
    T* e = gradient + row * classes;
    T largest = x[0];
    for (std::int64_t j = 1; j < classes; ++j) largest = ((x[j] > largest) | (x[j] != x[j])) ? x[j] : largest;
    const T shifted = x[labels[row]] - largest;
#pragma omp simd
    for (std::int64_t j = 0; j < classes; ++j) e[j] = exponential(x[j] - largest);
    const T sum = tree_sum(e, classes);
    values[row] = softmax_loss(sum, shifted);
    const T scale = scales[scale_each ? row : 0];
    const std::int64_t label = labels[row];
#pragma omp simd
    for (std::int64_t j = 0; j < classes; ++j) e[j] = softmax_gradient(e[j], sum, j == label, scale);
  }
}

// A loss of each value against its target; gradient == x is allowed.
template <class Loss, class T>
void pairwise_loss_rows(const T* x, const T* target, T* gradient, double* values, std::int64_t begin, std::int64_t end,
                        std::int64_t columns, const T* scales, bool scale_each) {
  alignas(64) double losses[kLeaf];
  for (std::int64_t row = begin; row < end; ++row) {
    const T scale = scales[scale_each ? row : 0];
    PairwiseSum<double> sum;
    for (std::int64_t c = 0; c < columns; c += kLeaf) {
      const std::int64_t count = columns - c < kLeaf ? columns - c : kLeaf;
      const T *o = x + row * columns + c, *t = target + row * columns + c;
      T* d = gradient + row * columns + c;
#pragma omp simd
      for (std::int64_t i = 0; i < count; ++i) {
        losses[i] = Loss::value(o[i], t[i]);
        d[i] = Loss::gradient(o[i], t[i]) * scale;
      }
      sum.add(sum_leaf(losses, count));
    }
    values[row] = sum.total();
  }
}

}  // namespace
}  // namespace fusedstep
