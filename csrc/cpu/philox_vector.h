// math/philox.h on vectors, several blocks side by side: the same bits. Compiled once per instruction set.
// The products are written as instructions: from the scalar code GCC makes whole 64-bit products (vpmullq, three times
// the work of vpmuludq) or, before AVX-512, puts them together from several.
#pragma once

#include <cstdint>

#include "../math/philox.h"

#if defined(__GNUC__) && defined(FUSEDSTEP_SSE2)
#define FUSEDSTEP_PHILOX_VECTOR
#include <immintrin.h>
#elif defined(__GNUC__) && defined(__aarch64__) && defined(__ARM_NEON) && !defined(__AARCH64EB__)
#define FUSEDSTEP_PHILOX_VECTOR
#include <arm_neon.h>
#endif

#if defined(FUSEDSTEP_PHILOX_VECTOR)
namespace fusedstep {
namespace {

// multiply: of the low halves of the 64-bit words. even, odd: the words of a and b with even (odd) places in turn.
#if defined(__AVX512F__)
// Masked with all ones, which the compiler leaves out: GCC 12 warns of the plain ones' own undefined operand.
using PhiloxVector = __m512i;
FUSEDSTEP_HD PhiloxVector multiply_words(PhiloxVector a, PhiloxVector b) { return _mm512_maskz_mul_epu32(0xFF, a, b); }
FUSEDSTEP_HD PhiloxVector even_words(PhiloxVector a, PhiloxVector b) { return _mm512_maskz_unpacklo_epi64(0xFF, a, b); }
FUSEDSTEP_HD PhiloxVector odd_words(PhiloxVector a, PhiloxVector b) { return _mm512_maskz_unpackhi_epi64(0xFF, a, b); }
#elif defined(__AVX2__)
using PhiloxVector = __m256i;
FUSEDSTEP_HD PhiloxVector multiply_words(PhiloxVector a, PhiloxVector b) { return _mm256_mul_epu32(a, b); }
FUSEDSTEP_HD PhiloxVector even_words(PhiloxVector a, PhiloxVector b) { return _mm256_unpacklo_epi64(a, b); }
FUSEDSTEP_HD PhiloxVector odd_words(PhiloxVector a, PhiloxVector b) { return _mm256_unpackhi_epi64(a, b); }
#elif defined(FUSEDSTEP_SSE2)
using PhiloxVector = __m128i;
FUSEDSTEP_HD PhiloxVector multiply_words(PhiloxVector a, PhiloxVector b) { return _mm_mul_epu32(a, b); }
FUSEDSTEP_HD PhiloxVector even_words(PhiloxVector a, PhiloxVector b) { return _mm_unpacklo_epi64(a, b); }
FUSEDSTEP_HD PhiloxVector odd_words(PhiloxVector a, PhiloxVector b) { return _mm_unpackhi_epi64(a, b); }
#else
using PhiloxVector = uint64x2_t;
FUSEDSTEP_HD PhiloxVector multiply_words(PhiloxVector a, PhiloxVector b) {
  return vmull_u32(vmovn_u64(a), vmovn_u64(b));
}
FUSEDSTEP_HD PhiloxVector even_words(PhiloxVector a, PhiloxVector b) { return vtrn1q_u64(a, b); }
FUSEDSTEP_HD PhiloxVector odd_words(PhiloxVector a, PhiloxVector b) { return vtrn2q_u64(a, b); }
#endif

// The same bits in a type that has operators.
using PhiloxWords = std::uint64_t __attribute__((vector_size(sizeof(PhiloxVector))));
constexpr int kPhiloxBlocks = sizeof(PhiloxVector) / sizeof(std::uint64_t);  // side by side

FUSEDSTEP_HD PhiloxWords philox_words(std::uint64_t word) { return word - PhiloxWords{}; }

FUSEDSTEP_HD PhiloxWords philox_products(std::uint32_t factor, PhiloxWords words) {
  return (PhiloxWords)multiply_words((PhiloxVector)philox_words(factor), (PhiloxVector)words);
}

// The 128 bits of each of the blocks [block, block + blocks), rounded up to whole vectors.
inline void philox_blocks(std::uint64_t block, std::int64_t blocks, std::uint64_t offset, std::uint64_t seed,
                          std::uint64_t* bits) {
  constexpr std::uint64_t mask = 0xFFFFFFFFu;
  // In an order in which even_words gives the first half of the blocks and odd_words the second.
  PhiloxWords counter;
  for (int i = 0; i < kPhiloxBlocks; ++i) {
    counter[i] = block + static_cast<std::uint64_t>(i / 2 + i % 2 * (kPhiloxBlocks / 2));
  }
  for (std::int64_t i = 0; i < blocks; i += kPhiloxBlocks, counter += kPhiloxBlocks) {
    // The high halves hold whatever falls there: a product does not see them, and the end cuts them off.
    PhiloxWords c0 = counter, c1 = counter >> 32, c2 = philox_words(offset), c3 = philox_words(offset >> 32);
    std::uint32_t k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
      const PhiloxWords product0 = philox_products(kPhiloxFactor0, c0), product1 = philox_products(kPhiloxFactor1, c2);
      c0 = product1 >> 32 ^ c1 ^ k0;
      c1 = product1;
      c2 = product0 >> 32 ^ c3 ^ k1;
      c3 = product0;
      k0 += kPhiloxKey0;
      k1 += kPhiloxKey1;
    }
    const PhiloxVector low = (PhiloxVector)((c0 & mask) | c1 << 32), high = (PhiloxVector)((c2 & mask) | c3 << 32);
    *reinterpret_cast<PhiloxVector*>(bits + 2 * i) = even_words(low, high);
    *reinterpret_cast<PhiloxVector*>(bits + 2 * i + kPhiloxBlocks) = odd_words(low, high);
  }
}

}  // namespace
}  // namespace fusedstep
#endif
