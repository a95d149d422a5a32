// The update rules, one struct each: a parameter, its prepared gradient, up to three states, and the folded scalars.
// Twin: reference/*optimizers.py, reference/scalars.py.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "../kernels.h"
#include "hd.h"
#include "power.h"

namespace fusedstep {
namespace {

// Dozat 2016, algorithm 1: mu_t = beta1 (1 - 0.5 q^t) with the momentum_schedule q. Both step sizes, of the average of
// the gradients and of the gradient itself.
struct NadamScales {
  double average, gradient;
};

FUSEDSTEP_HD NadamScales nadam_scales(double beta1, double schedule, std::uint64_t step) {
  const double now = beta1 * (1 - 0.5 * integer_power(schedule, step));
  const double next = beta1 * (1 - 0.5 * integer_power(schedule, step + 1));
  double product = 1, power = 1;  // of all mu up to now; below 2^-60 it no longer changes 1 - product
  for (std::uint64_t t = 0; t < step && product >= 0x1p-60; ++t) {
    power *= schedule;
    product *= beta1 * (1 - 0.5 * power);
  }
  return {next / (1 - product * next), (1 - now) / (1 - product)};
}

// Liu et al. 2020, algorithm 2: what the step size is multiplied by, 0 where the variance cannot be had yet.
FUSEDSTEP_HD double rectification(double beta2, std::uint64_t step) {
  const double power = integer_power(beta2, step), longest = 2 / (1 - beta2) - 1;
  const double length = longest - 2 * static_cast<double>(step) * power / (1 - power);
  if (length <= 5) return 0;
  const double rectified = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length);
  return std::sqrt(rectified) * std::sqrt(1 - power);
}

// Folds in double and rounds once; `step` counts from 1.
template <class T>
FUSEDSTEP_HD StepScalars<T> fold(const StepOptions& o, double lr, std::uint64_t step, double multiplier) {
  StepScalars<T> s{};
  s.multiplier = static_cast<T>(o.maximize ? -multiplier : multiplier);
  s.weight_decay = static_cast<T>(o.decoupled ? 0 : o.weight_decay);
  s.keep = static_cast<T>(o.weight_decay != 0 && o.decoupled ? 1 - lr * o.weight_decay : 1);
  s.lr = static_cast<T>(
      lr / (o.bias_correction ? 1 - integer_power(o.decay1, step) : 1 + static_cast<double>(step - 1) * o.lr_decay));
  s.decay1 = static_cast<T>(o.decay1);
  s.gain1 = static_cast<T>(1 - o.damping1);
  s.decay2 = static_cast<T>(o.decay2);
  s.gain2 = static_cast<T>(1 - o.decay2);
  s.root_scale = static_cast<T>(o.bias_correction ? 1 / std::sqrt(1 - integer_power(o.decay2, step)) : 1);
  s.eps = static_cast<T>(o.eps);
  s.trust = 1;
  if (o.trust.rule_decays) {
    s.lr = static_cast<T>(lr);
    s.correction1 = static_cast<T>(o.bias_correction ? 1 / (1 - integer_power(o.decay1, step)) : 1);
  }
  if (o.scheduled) {
    const NadamScales scales = nadam_scales(o.decay1, o.momentum_schedule, step);
    s.lr = static_cast<T>(lr * scales.average);
    s.lr_gradient = static_cast<T>(lr * scales.gradient);
  }
  if (o.rectified) {
    const double factor = rectification(o.decay2, step), corrected = lr / (1 - integer_power(o.decay1, step));
    s.lr = static_cast<T>(factor != 0 ? corrected * factor : corrected);
    s.root_scale = static_cast<T>(factor != 0 ? 1 : 0);
    s.eps = static_cast<T>(factor != 0 ? o.eps : 1);
  }
  return s;
}

constexpr double kLargestRatio = 0x1.fffffep+127;  // of float32: a larger one would be infinite there

// An array's factor from the sums of squares of its parameters and of its direction; NaN stays NaN.
FUSEDSTEP_HD double trust_ratio(const Trust& t, double parameters, double direction) {
  if (parameters == 0 || direction == 0) return 1;
  const double p = std::sqrt(parameters), d = std::sqrt(direction);
  const double ratio = t.coefficient * p / (d + t.decay * p + t.eps);
  return ratio > kLargestRatio ? kLargestRatio : ratio;
}

// What the gradients are multiplied by so that their norm is at most max_norm (Pascanu et al. 2013); NaN stays NaN.
FUSEDSTEP_HD double clipping_factor(double max_norm, double norm) {
  const double factor = max_norm / (norm + 1e-6);
  return factor >= 1 ? 1.0 : factor;
}

// T is a number everywhere below, or a register of several (cpu/register.h).
template <class T>
struct Root {
  FUSEDSTEP_HD static T of(T x) { return std::sqrt(x); }
};

// NaN passes from either side.
template <class T>
FUSEDSTEP_HD T larger(T a, T b) {
  return ((a >= b) | (a != a)) ? a : b;
}

// Stands before every rule: multiplier and sign, then L2 or decoupled decay.
template <bool L2, class T>
FUSEDSTEP_HD T prepare(T& p, T grad, const StepScalars<T>& s) {
  T g = grad * s.multiplier;
  if constexpr (L2) {
    g = g + s.weight_decay * p;
  } else {
    p = p * s.keep;
  }
  return g;
}

// The smallest normal number.
template <class T>
struct Smallest {
  static constexpr T value = std::numeric_limits<T>::min();
};

// What every exponential average is stored as: 0 in place of a subnormal number. Where a gradient ended, of a dead unit
// or of a row of an embedding that is used no more, a subnormal average would stay (0.9 times the smallest is rounded
// to the smallest), and a processor takes some 150 cycles for each: with one in ten, a step of Adam took 25 times as
// long.
template <class T>
FUSEDSTEP_HD T flushed(T x) {
  return ((x < Smallest<T>::value) & (x > -Smallest<T>::value)) ? T{} : x;
}

// Exponential average of the weights, after the update.
template <class T>
FUSEDSTEP_HD T average(T e, T p, T decay, T gain) {
  return flushed(decay * e + gain * p);
}

struct Sgd {
  static constexpr int states = 0;
  template <class T>
  FUSEDSTEP_HD static void update(T& p, T g, T&, T&, T&, const StepScalars<T>& s) {
    p = p - s.lr * g;
  }
};

template <bool Nesterov>
struct Velocity {
  static constexpr int states = 1;
  template <class T>
  FUSEDSTEP_HD static void update(T& p, T g, T& v, T&, T&, const StepScalars<T>& s) {
    v = flushed(s.decay1 * v + s.gain1 * g);
    p = p - s.lr * (Nesterov ? g + s.decay1 * v : v);
  }
};
using SgdMomentum = Velocity<false>;
using SgdNesterov = Velocity<true>;

struct Adagrad {
  static constexpr int states = 1;
  template <class T>
  FUSEDSTEP_HD static void update(T& p, T g, T& sum, T&, T&, const StepScalars<T>& s) {
    sum = sum + g * g;
    p = p - s.lr * (g / (Root<T>::of(sum) + s.eps));
  }
};

// States: squares, then the momentum buffer and the average of gradients where there are any.
template <bool Momentum, bool Centered>
struct RmspropRule {
  static constexpr int states = 1 + Momentum + Centered;
  template <class T>
  FUSEDSTEP_HD static void update(T& p, T g, T& square, T& state1, T& state2, const StepScalars<T>& s) {
    square = flushed(s.decay2 * square + s.gain2 * (g * g));
    T variance = square;
    if constexpr (Centered) {
      T& m = Momentum ? state2 : state1;
      m = flushed(s.decay2 * m + s.gain2 * g);
      variance = square - m * m;
      variance = variance < 0 ? T{} : variance;
    }
    T d = g / (Root<T>::of(variance) + s.eps);
    if constexpr (Momentum) {
      state1 = flushed(s.decay1 * state1 + d);
      d = state1;
    }
    p = p - s.lr * d;
  }
};
using Rmsprop = RmspropRule<false, false>;
using RmspropMomentum = RmspropRule<true, false>;
using RmspropCentered = RmspropRule<false, true>;
using RmspropMomentumCentered = RmspropRule<true, true>;

// Adam's averages of gradients and of squares.
template <class T>
FUSEDSTEP_HD void update_moments(T g, T& m, T& v, const StepScalars<T>& s) {
  m = flushed(s.decay1 * m + s.gain1 * g);
  v = flushed(s.decay2 * v + s.gain2 * (g * g));
}

template <bool Amsgrad, bool EpsInside>
struct AdamRule {
  static constexpr int states = 2 + Amsgrad;
  template <class T>
  FUSEDSTEP_HD static void update(T& p, T g, T& m, T& v, T& w, const StepScalars<T>& s) {
    update_moments(g, m, v, s);
    T largest = v;
    if constexpr (Amsgrad) {
      w = larger(w, v);
      largest = w;
    }
    T divisor;
    if constexpr (EpsInside) {
      divisor = Root<T>::of((largest * s.root_scale) * s.root_scale + s.eps);
    } else {
      divisor = Root<T>::of(largest) * s.root_scale + s.eps;
    }
    p = p - s.lr * (m / divisor);
  }
};
using Adam = AdamRule<false, false>;
using AdamEpsInside = AdamRule<false, true>;
using AdamAmsgrad = AdamRule<true, false>;
using AdamAmsgradEpsInside = AdamRule<true, true>;

struct Nadam {
  static constexpr int states = 2;
  template <class T>
  FUSEDSTEP_HD static void update(T& p, T g, T& m, T& v, T&, const StepScalars<T>& s) {
    update_moments(g, m, v, s);
    p = p - (s.lr * m + s.lr_gradient * g) / (Root<T>::of(v) * s.root_scale + s.eps);
  }
};

// Before the variance can be rectified root_scale is 0 and eps 1, which leaves m alone, also where v is infinite.
struct Radam {
  static constexpr int states = 2;
  template <class T>
  FUSEDSTEP_HD static void update(T& p, T g, T& m, T& v, T&, const StepScalars<T>& s) {
    update_moments(g, m, v, s);
    const T root = s.root_scale == 0 ? T{} : Root<T>::of(v);
    p = p - s.lr * (m / (root + s.eps));
  }
};

struct Adamax {
  static constexpr int states = 2;
  template <class T>
  FUSEDSTEP_HD static void update(T& p, T g, T& m, T& u, T&, const StepScalars<T>& s) {
    m = flushed(s.decay1 * m + s.gain1 * g);
    u = larger(s.decay2 * u, (g < 0 ? -g : g) + s.eps);
    p = p - s.lr * (m / u);
  }
};

// eps under both roots, as in the paper and in torch.
struct Adadelta {
  static constexpr int states = 2;
  template <class T>
  FUSEDSTEP_HD static void update(T& p, T g, T& square, T& accumulated, T&, const StepScalars<T>& s) {
    square = flushed(s.decay2 * square + s.gain2 * (g * g));
    const T d = Root<T>::of(accumulated + s.eps) / Root<T>::of(square + s.eps) * g;
    accumulated = flushed(s.decay2 * accumulated + s.gain2 * (d * d));
    p = p - s.lr * d;
  }
};

struct Lion {
  static constexpr int states = 1;
  template <class T>
  FUSEDSTEP_HD static void update(T& p, T g, T& m, T&, T&, const StepScalars<T>& s) {
    const T c = s.decay1 * m + s.gain1 * g, one = T{} + 1;
    const T sign = c > 0 ? one : c < 0 ? -one : c + T{};  // NaN stays, -0 becomes 0
    p = p - s.lr * sign;
    m = flushed(s.decay2 * m + s.gain2 * g);
  }
};

// Rules with a factor for each array, s.trust, take L2 decay themselves. `direction` is what the norm is taken of; it
// may bring the states up to date, which the caller then keeps or not.
struct Lars {
  static constexpr int states = 1;
  template <class T>
  FUSEDSTEP_HD static T direction(T, T g, T&, T&, const StepScalars<T>&) {
    return g;
  }
  template <class T>
  FUSEDSTEP_HD static void update(T& p, T g, T& v, T&, T&, const StepScalars<T>& s) {
    v = flushed(s.decay1 * v + s.trust * (g + s.weight_decay * p));
    p = p - s.lr * v;
  }
};

struct Lamb {
  static constexpr int states = 2;
  template <class T>
  FUSEDSTEP_HD static T direction(T p, T g, T& m, T& v, const StepScalars<T>& s) {
    update_moments(g, m, v, s);
    return s.correction1 * (m / (Root<T>::of(v) * s.root_scale + s.eps)) + s.weight_decay * p;
  }
  template <class T>
  FUSEDSTEP_HD static void update(T& p, T g, T& m, T& v, T&, const StepScalars<T>& s) {
    p = p - s.lr * (s.trust * direction(p, g, m, v, s));
  }
};

}  // namespace
}  // namespace fusedstep
