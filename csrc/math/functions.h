// exp, log, log1p, tanh, sigmoid and erf in double, at most 2 ulp off, and GELU, without branches so that loops over
// them are vectorized; float goes through double. Twin: reference/functions.py. Polynomials: tools/fit_polynomials.py.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "hd.h"

namespace fusedstep {
namespace {

constexpr double kLog2E = 1.4426950408889634;
constexpr double kLn2High = 0.6931471803691238;     // 33 bits of ln 2: n * kLn2High is exact for |n| < 2**20
constexpr double kLn2Low = 1.9082149292705877e-10;  // the rest
constexpr double kRound = 6755399441055744.0;       // 1.5 * 2**52: adding it rounds to an integer
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

FUSEDSTEP_HD std::uint64_t to_bits(double x) {
  std::uint64_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

FUSEDSTEP_HD double from_bits(std::uint64_t bits) {
  double x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

template <int N>
FUSEDSTEP_HD double horner(double x, const double (&coefficients)[N]) {
  double result = coefficients[N - 1];
#if defined(__GNUC__) && !defined(__CUDACC__)
#pragma GCC unroll 32
#endif
  for (int i = N - 2; i >= 0; --i) result = result * x + coefficients[i];
  return result;
}

// 2**n for whole n in [-1022, 1023]: the exponent is shifted into place.
FUSEDSTEP_HD double power_of_two(double n) { return from_bits(to_bits(n + 1023.0 + kRound) << 52); }

FUSEDSTEP_HD_CALL double exp_(double x) {
  constexpr double taylor[] = {1 / 2.0,       1 / 6.0,        1 / 24.0,        1 / 120.0,
                               1 / 720.0,     1 / 5040.0,     1 / 40320.0,     1 / 362880.0,
                               1 / 3628800.0, 1 / 39916800.0, 1 / 479001600.0, 1 / 6227020800.0};
  const double low = x < -746.0 ? -746.0 : x;
  const double clamped = x > 710.0 ? 710.0 : low;
  const double n = (clamped * kLog2E + kRound) - kRound;
  const double r = (clamped - n * kLn2High) - n * kLn2Low;
  const double half = (n * 0.5 + kRound) - kRound;
  const double mantissa = 1.0 + (r + (r * r) * horner(r, taylor));
  const double value = (mantissa * power_of_two(half)) * power_of_two(n - half);
  return x != x ? x : value;
}

FUSEDSTEP_HD_CALL double log_(double x) {
  constexpr double series[] = {2 / 3.0,  2 / 5.0,  2 / 7.0,  2 / 9.0,  2 / 11.0, 2 / 13.0,
                               2 / 15.0, 2 / 17.0, 2 / 19.0, 2 / 21.0, 2 / 23.0};
  const bool denormal = x < 2.2250738585072014e-308;
  const double scaled = x * 18014398509481984.0;
  const std::uint64_t bits = to_bits(denormal ? scaled : x);
  const std::uint64_t bias = std::uint64_t{1024} << 52;
  const std::uint64_t above = bits - 0x3FE6A09E667F3BCDu + bias;  // from sqrt(1/2), biased to stay positive
  const double exponent = from_bits((above >> 52) | 0x4330000000000000u) - 4503599627370496.0 - 1024.0;
  const double m = from_bits(bits - (above & 0xFFF0000000000000u) + bias);
  const double lowered = exponent - 54.0;
  const double e = denormal ? lowered : exponent;
  const double f = m - 1.0;
  const double s = f / (2.0 + f);
  const double z = s * s;
  const double half_square = (0.5 * f) * f;
  const double rest = s * (half_square + z * horner(z, series));
  const double value = e * kLn2High - ((half_square - (rest + e * kLn2Low)) - f);
  const double negative = x < 0 ? kNan : value;
  const double finite = x == 0 ? -kInfinity : negative;
  return ((x == kInfinity) | (x != x)) ? x : finite;
}

// log(1 + x) for x >= 0.
FUSEDSTEP_HD double log1p_(double x) {
  const double w = 1.0 + x;
  const double rounded = w == 1.0 ? 1.0 : w - 1.0;
  const double value = log_(w) * (x / rounded);
  return ((w == 1.0) | (x == kInfinity)) ? x : value;
}

FUSEDSTEP_HD_CALL double tanh_(double x) {
  constexpr double small_terms[] = {1.0,
                                    -0.3333333333333333,
                                    0.13333333333333003,
                                    -0.05396825396801301,
                                    0.021869488527004526,
                                    -0.008863235322687681,
                                    0.0035921250169695033,
                                    -0.0014558047961475027,
                                    0.0005898278970977121,
                                    -0.00023819725675641452,
                                    9.393182361286203e-05,
                                    -3.292280539245796e-05,
                                    7.425664457521806e-06};
  const double magnitude = std::fabs(x);
  const double small = magnitude * horner(magnitude * magnitude, small_terms);
  const double q = exp_(-2.0 * magnitude);
  const double large = 1.0 - (q + q) / (1.0 + q);
  const double value = std::copysign(magnitude <= 0.55 ? small : large, x);
  return x != x ? x : value;
}

FUSEDSTEP_HD_CALL double sigmoid_(double x) {
  const double e = exp_(-std::fabs(x));
  const double one = x != x ? x : 1.0;
  return (x < 0 ? e : one) / (1.0 + e);
}

FUSEDSTEP_HD double erf_(double x) {
  constexpr double small_terms[] = {1.1283791670955126,      -0.3761263890318375,     0.11283791670954879,
                                    -0.026866170645076792,   0.0052239776248180145,   -0.000854832698083379,
                                    0.0001205533111164271,   -1.4925595266831182e-05, 1.6461000484121368e-06,
                                    -1.6350312701054695e-07, 1.4659775274047436e-08,  -1.1372848856791674e-09,
                                    5.957176147748911e-11};
  constexpr double tail_terms[] = {
      0.17900115118138996,    -0.3262335600430372,    0.24560380171233487,    -0.15011593650077898,
      0.07166583719747308,    -0.024392499318915004,  0.004269136356961225,   0.0007077464666941425,
      -0.0005970624964924544, 4.525434558991009e-05,  6.406279226046039e-05,  -1.2845780030775907e-05,
      -8.00978093907608e-06,  2.0135111426447427e-06, 1.2755818949624478e-06, 3.381355142042904e-09};
  const double magnitude = std::fabs(x);
  const double small = magnitude * horner(magnitude * magnitude, small_terms);
  const double far = magnitude > 6.0 ? 6.0 : magnitude;
  const double tail = 1.0 - exp_(-(far * far)) * horner((far - 3.0) / (far + 3.0), tail_terms);
  const double value = std::copysign(magnitude <= 1.0 ? small : tail, x);
  return x != x ? x : value;
}

// Absolute error below 8 * 2**-53 * max(1, |x|): far below zero, 1 + erf cancels.
FUSEDSTEP_HD_CALL double gelu_(double x) { return (0.5 * x) * (1.0 + erf_(x * 0.7071067811865476)); }

FUSEDSTEP_HD_CALL double gelu_gradient_(double x) {
  const double density = exp_((-0.5 * x) * x) * 0.3989422804014327;
  return 0.5 * (1.0 + erf_(x * 0.7071067811865476)) + x * density;
}

}  // namespace
}  // namespace fusedstep
