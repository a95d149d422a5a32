#pragma once

#include <cstdint>

#include "hd.h"

namespace fusedstep {
namespace {

// base**exponent by squaring: the same bits on host, device and in the reference, which C's pow does not give.
FUSEDSTEP_HD double integer_power(double base, std::uint64_t exponent) {
  double result = 1.0;
  for (; exponent != 0; exponent >>= 1) {
    if (exponent & 1) result *= base;
    base *= base;
  }
  return result;
}

}  // namespace
}  // namespace fusedstep
