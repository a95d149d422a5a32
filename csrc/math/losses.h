// Losses and their derivatives, value by value. Twin: reference/losses.py.
#pragma once

#include "activations.h"
#include "functions.h"
#include "hd.h"

namespace fusedstep {
namespace {

template <class T>
FUSEDSTEP_HD T exponential(T x) {
  return static_cast<T>(exp_(x));
}

// -log softmax at the label: `sum` of exp(x - max), `shifted` = x[label] - max.
template <class T>
FUSEDSTEP_HD T softmax_loss(T sum, T shifted) {
  return static_cast<T>(log_(sum)) - shifted;
}

template <class T>
FUSEDSTEP_HD T softmax_gradient(T e, T sum, bool is_label, T scale) {
  const T probability = e / sum;
  return (is_label ? probability - T(1) : probability) * scale;
}

struct SigmoidCrossEntropy {
  template <class T>
  FUSEDSTEP_HD static T value(T x, T t) {
    const T e = static_cast<T>(exp_(-std::fabs(x)));
    return (relu(x) - x * t) + static_cast<T>(log1p_(e));
  }
  template <class T>
  FUSEDSTEP_HD static T gradient(T x, T t) {
    return static_cast<T>(sigmoid_(x)) - t;
  }
};

struct MeanSquaredError {
  template <class T>
  FUSEDSTEP_HD static T value(T o, T t) {
    const T d = o - t;
    return d * d;
  }
  template <class T>
  FUSEDSTEP_HD static T gradient(T o, T t) {
    return T(2) * (o - t);
  }
};

}  // namespace
}  // namespace fusedstep
