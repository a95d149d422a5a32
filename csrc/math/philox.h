// Philox4x32-10 (Salmon et al. 2011) and dropout on its bits. Twin: reference/dropout.py.
#pragma once

#include <cmath>
#include <cstdint>

#include "hd.h"

namespace fusedstep {
namespace {

constexpr int kLanesPerBlock = 8;  // 16-bit lanes in the 128 bits of one counter

FUSEDSTEP_HD void philox_round(std::uint32_t& c0, std::uint32_t& c1, std::uint32_t& c2, std::uint32_t& c3,
                               std::uint32_t k0, std::uint32_t k1) {
  const std::uint64_t product0 = std::uint64_t{0xD2511F53u} * c0;
  const std::uint64_t product1 = std::uint64_t{0xCD9E8D57u} * c2;
  c0 = static_cast<std::uint32_t>(product1 >> 32) ^ c1 ^ k0;
  c1 = static_cast<std::uint32_t>(product1);
  c2 = static_cast<std::uint32_t>(product0 >> 32) ^ c3 ^ k1;
  c3 = static_cast<std::uint32_t>(product0);
}

// The four words of block `block` of the stream (seed, offset).
FUSEDSTEP_HD void philox(std::uint64_t block, std::uint64_t offset, std::uint64_t seed, std::uint32_t words[4]) {
  std::uint32_t c0 = static_cast<std::uint32_t>(block), c1 = static_cast<std::uint32_t>(block >> 32);
  std::uint32_t c2 = static_cast<std::uint32_t>(offset), c3 = static_cast<std::uint32_t>(offset >> 32);
  std::uint32_t k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
#if defined(__GNUC__) && !defined(__CUDACC__)
#pragma GCC unroll 10
#endif
  for (int round = 0; round < 10; ++round) {
    philox_round(c0, c1, c2, c3, k0, k1);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  words[0] = c0;
  words[1] = c1;
  words[2] = c2;
  words[3] = c3;
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
