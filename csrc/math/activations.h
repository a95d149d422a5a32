// Activations and their derivatives, one struct each. `gradient` sees the output y, GELU's the argument z.
// Maxima let NaN through. Twin: reference/activations.py.
#pragma once

#include "functions.h"
#include "hd.h"

namespace fusedstep {
namespace {

template <class T>
FUSEDSTEP_HD T relu(T z) {
  return z <= 0 ? T(0) : z;
}

template <class T>
FUSEDSTEP_HD T relu_gradient(T dy, T y) {
  return y <= 0 ? T(0) : dy;
}

struct Identity {
  template <class T>
  FUSEDSTEP_HD static T value(T z, T) {
    return z;
  }
  template <class T>
  FUSEDSTEP_HD static T gradient(T dy, T, T) {
    return dy;
  }
};

struct Relu {
  template <class T>
  FUSEDSTEP_HD static T value(T z, T) {
    return relu(z);
  }
  template <class T>
  FUSEDSTEP_HD static T gradient(T dy, T y, T) {
    return relu_gradient(dy, y);
  }
};

struct LeakyRelu {
  template <class T>
  FUSEDSTEP_HD static T value(T z, T slope) {
    const T negative = z * slope;
    return z <= 0 ? negative : z;
  }
  template <class T>
  FUSEDSTEP_HD static T gradient(T dy, T y, T slope) {
    const T negative = dy * slope;
    return y <= 0 ? negative : dy;
  }
};

struct Tanh {
  template <class T>
  FUSEDSTEP_HD static T value(T z, T) {
    return static_cast<T>(tanh_(z));
  }
  template <class T>
  FUSEDSTEP_HD static T gradient(T dy, T y, T) {
    return dy * (T(1) - y * y);
  }
};

struct Sigmoid {
  template <class T>
  FUSEDSTEP_HD static T value(T z, T) {
    return static_cast<T>(sigmoid_(z));
  }
  template <class T>
  FUSEDSTEP_HD static T gradient(T dy, T y, T) {
    return dy * (y * (T(1) - y));
  }
};

struct Gelu {
  template <class T>
  FUSEDSTEP_HD static T value(T z, T) {
    return static_cast<T>(gelu_(z));
  }
  template <class T>
  FUSEDSTEP_HD static T gradient(T dy, T z, T) {
    return dy * static_cast<T>(gelu_gradient_(z));
  }
};

}  // namespace
}  // namespace fusedstep
