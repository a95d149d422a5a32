// float16 and bfloat16: widened on load, rounded to nearest even on store. Without branches, so that loops over them
// are vectorized; the same bits as the GPU's own conversions. The other types pass through.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDA_ARCH__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

#include "../kernels.h"
#include "hd.h"

namespace fusedstep {
namespace {

FUSEDSTEP_HD std::uint32_t float_bits(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

FUSEDSTEP_HD float float_of_bits(std::uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

FUSEDSTEP_HD float widen(float x) { return x; }
FUSEDSTEP_HD double widen(double x) { return x; }

FUSEDSTEP_HD float widen(Bfloat16 x) { return float_of_bits(std::uint32_t{x.bits} << 16); }

FUSEDSTEP_HD float widen(Half x) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(x.bits));
#else
  const std::uint32_t sign = (x.bits & 0x8000u) << 16, rest = (x.bits & 0x7FFFu) << 13;
  const float scaled = float_of_bits(rest) * 0x1p112f;  // exponents of float16 begin 112 lower; exact for denormals
  const std::uint32_t magnitude = rest >= 0x0F800000u ? rest | 0x7F800000u : float_bits(scaled);
  return float_of_bits(sign | magnitude);
#endif
}

template <class T>
struct Narrow {
  FUSEDSTEP_HD static T of(T x) { return x; }
};

template <>
struct Narrow<Bfloat16> {
  FUSEDSTEP_HD static Bfloat16 of(float x) {
#if defined(__CUDA_ARCH__)
    return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
#else
    const std::uint32_t bits = float_bits(x);
    const std::uint32_t rounded = (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
    return {static_cast<std::uint16_t>((bits & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FFFu : rounded)};
#endif
  }
};

template <>
struct Narrow<Half> {
  FUSEDSTEP_HD static Half of(float x) {
#if defined(__CUDA_ARCH__)
    return {__half_as_ushort(__float2half_rn(x))};
#else
    const std::uint32_t bits = float_bits(x), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7FFFFFFFu;
    const std::uint32_t normal = (magnitude + 0xC8000FFFu + (magnitude >> 13 & 1u)) >> 13;
    // Adding 0.5 rounds at the place of float16's last denormal bit.
    const std::uint32_t denormal = float_bits(float_of_bits(magnitude) + 0.5f) - 0x3F000000u;
    const std::uint32_t finite = magnitude < 0x38800000u ? denormal : normal;
    const std::uint32_t overflow = magnitude > 0x7F800000u ? 0x7FFFu : 0x7C00u;
    return {static_cast<std::uint16_t>(sign | (magnitude >= 0x47800000u ? overflow : finite))};
#endif
  }
};

template <class T>
FUSEDSTEP_HD T narrow(Arithmetic<T> x) {
  return Narrow<T>::of(x);
}

}  // namespace
}  // namespace fusedstep
