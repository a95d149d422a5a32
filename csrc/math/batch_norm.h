// Batch normalization, value by value, and the merge of moments. Twin: reference/batch_norm.py, reference/reduction.py.
#pragma once

#include <cmath>
#include <cstdint>

#include "activations.h"
#include "hd.h"

namespace fusedstep {
namespace {

template <class T>
FUSEDSTEP_HD T inverse_std(T var, T eps) {
  return T(1) / std::sqrt(var + eps);
}

template <class T>
FUSEDSTEP_HD T normalized(T x, T mean, T invstd) {
  return (x - mean) * invstd;
}

template <class T>
FUSEDSTEP_HD T affine(T xhat, T weight, T bias) {
  return weight * xhat + bias;
}

template <bool Relu, class T>
FUSEDSTEP_HD T batch_norm_value(T x, T mean, T invstd, T weight, T bias) {
  T y = affine(normalized(x, mean, invstd), weight, bias);
  return Relu ? relu(y) : y;
}

// dy behind the ReLU, whose argument is computed again.
template <bool Relu, class T>
FUSEDSTEP_HD T batch_norm_masked(T dy, T xhat, T weight, T bias) {
  return Relu ? relu_gradient(dy, affine(xhat, weight, bias)) : dy;
}

template <class T>
FUSEDSTEP_HD T batch_norm_input_gradient(T t, T xhat, T scale, T mean_t, T mean_t_xhat) {
  return scale * ((t - mean_t) - xhat * mean_t_xhat);
}

template <class T>
FUSEDSTEP_HD T running_average(T old_value, T new_value, double fraction) {
  return static_cast<T>(1 - fraction) * old_value + static_cast<T>(fraction) * new_value;
}

// Chan, Golub & LeVeque 1983, equation 2.1: (mean, squares) of `count` values takes in those of `count2` values.
template <class T>
FUSEDSTEP_HD void merge_moments(std::int64_t count, T& mean, T& squares, std::int64_t count2, T mean2, T squares2) {
  const double total = static_cast<double>(count + count2);
  const T share = static_cast<T>(static_cast<double>(count2) / total);
  const T weight = static_cast<T>(static_cast<double>(count) * static_cast<double>(count2) / total);
  const T delta = mean2 - mean;
  mean = mean + delta * share;
  squares = (squares + squares2) + (delta * delta) * weight;
}

}  // namespace
}  // namespace fusedstep
