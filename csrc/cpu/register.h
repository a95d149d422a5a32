// Sixteen float32 values in one register, for rules with a root: AVX-512's own takes a third of a step in the cache.
#pragma once

#if defined(__AVX512F__) && defined(__GNUC__)
#define FUSEDSTEP_REGISTER
#include <immintrin.h>

#include <cstdint>

#include "../math/optimizers.h"

namespace fusedstep {
namespace {

constexpr std::int64_t kFloats = 16;
using Register = float __attribute__((vector_size(4 * kFloats)));

inline __attribute__((always_inline)) Register load_register(const float* p) { return _mm512_loadu_ps(p); }
inline __attribute__((always_inline)) void store_register(float* p, Register x) { _mm512_storeu_ps(p, x); }

inline __attribute__((always_inline)) StepScalars<Register> spread(const StepScalars<float>& s) {
  const auto all = [](float x) -> Register { return _mm512_set1_ps(x); };
  return {all(s.multiplier),  all(s.weight_decay), all(s.keep),  all(s.lr),         all(s.decay1),
          all(s.gain1),       all(s.decay2),       all(s.gain2), all(s.root_scale), all(s.eps),
          all(s.lr_gradient), all(s.correction1),  all(s.trust)};
}

template <>
struct Smallest<Register> {
  static constexpr float value = Smallest<float>::value;
};

// The correctly rounded root, thus the bits of the instruction: an estimate of 14 bits, one Newton step for the root g
// and its halved inverse h together, then g + h * (x - g * g) with the exact residual (Markstein 1990). Why it is
// correctly rounded whatever the estimate: tests/test_root.py, which also tries every float in [1, 4).
template <>
struct Root<Register> {
  static inline __attribute__((always_inline)) Register of(Register x) {
    // By its bits, between 2^-100 and 2^100, where no product leaves the range; so not for NaN or x < 0.
    constexpr int lowest = (127 - 100) << 23, highest = (127 + 100) << 23;
    const __m512i above = _mm512_sub_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(lowest));
    const __mmask16 outside = _mm512_cmpgt_epu32_mask(above, _mm512_set1_epi32(highest - lowest));
    if (__builtin_expect(outside != 0, 0)) return _mm512_maskz_sqrt_ps(0xffff, x);
    const __m512 half = _mm512_set1_ps(0.5f), estimate = _mm512_maskz_rsqrt14_ps(0xffff, x);
    __m512 g = _mm512_mul_ps(x, estimate), h = _mm512_mul_ps(estimate, half);
    const __m512 r = _mm512_fnmadd_ps(h, g, half);
    g = _mm512_fmadd_ps(g, r, g);
    h = _mm512_fmadd_ps(h, r, h);
    return _mm512_fmadd_ps(_mm512_fnmadd_ps(g, g, x), h, g);
  }
};

}  // namespace
}  // namespace fusedstep
#endif
