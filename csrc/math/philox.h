// Philox4x32-10 (Salmon et al. 2011) and dropout on its bits. Twin: reference/dropout.py.
#pragma once

#include <cmath>
#include <cstdint>

#include "hd.h"

namespace fusedstep {
namespace {

constexpr int kLanesPerBlock = 8;  // 16-bit lanes in the 128 bits of one counter
constexpr std::uint32_t kPhiloxFactor0 = 0xD2511F53u, kPhiloxFactor1 = 0xCD9E8D57u;
constexpr std::uint32_t kPhiloxKey0 = 0x9E3779B9u, kPhiloxKey1 = 0xBB67AE85u;  // added to the key in each round

// Words of 32 bits and their products. On CPUs words are held in 64 bits: so written, compilers turn the products into
// vector instructions (five times as fast). nvcc has to be told of the instruction that GPUs have.
#if defined(__CUDA_ARCH__)
using PhiloxWord = std::uint32_t;

__device__ __forceinline__ std::uint64_t philox_product(std::uint32_t factor, PhiloxWord word) {
  std::uint64_t product;
  asm("mul.wide.u32 %0, %1, %2;" : "=l"(product) : "r"(factor), "r"(word));
  return product;
}
#else
using PhiloxWord = std::uint64_t;

FUSEDSTEP_HD std::uint64_t philox_product(std::uint32_t factor, PhiloxWord word) {
  return factor * (word & 0xFFFFFFFFu);
}
#endif

// The 128 bits of block `block` of the stream (seed, offset); lane 0 is the lowest 16 bits of `low`.
FUSEDSTEP_HD void philox(std::uint64_t block, std::uint64_t offset, std::uint64_t seed, std::uint64_t& low,
                         std::uint64_t& high) {
  constexpr PhiloxWord mask = 0xFFFFFFFFu;
  PhiloxWord c0 = block & mask, c1 = block >> 32, c2 = offset & mask, c3 = offset >> 32;
  std::uint32_t k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
#if defined(__GNUC__) && !defined(__CUDACC__)
#pragma GCC unroll 10
#endif
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = philox_product(kPhiloxFactor0, c0);
    const std::uint64_t product1 = philox_product(kPhiloxFactor1, c2);
    c0 = static_cast<PhiloxWord>(product1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<PhiloxWord>(product1) & mask;
    c2 = static_cast<PhiloxWord>(product0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<PhiloxWord>(product0) & mask;
    k0 += kPhiloxKey0;
    k1 += kPhiloxKey1;
  }
  low = c0 | std::uint64_t{c1} << 32;
  high = c2 | std::uint64_t{c3} << 32;
}

FUSEDSTEP_HD std::uint32_t dropout_threshold(double p) {
  return static_cast<std::uint32_t>(std::floor(p * 65536 + 0.5));
}

FUSEDSTEP_HD double dropout_scale(std::uint32_t threshold) {
  return threshold < 65536 ? 65536.0 / (65536 - threshold) : 0.0;
}

template <class T>
FUSEDSTEP_HD T dropout_value(T x, std::uint32_t lane, std::uint32_t threshold, T scale) {
  const T kept = x * scale;
  return lane < threshold ? T(0) : kept;
}

}  // namespace
}  // namespace fusedstep
