// The instruction sets that the kernels are compiled for, as this processor and its system have them. x86-64 alone.
#pragma once

#if defined(_MSC_VER)
#include <immintrin.h>
#include <intrin.h>
#endif

namespace fusedstep::cpu {

struct Processor {
  bool avx2, avx512;
};

#if defined(_MSC_VER)
// All that /arch:AVX2 and /arch:AVX512 allow: by cpuid what the processor has (Intel SDM, volume 2A), by xgetbv which
// registers the system keeps for a thread.
inline Processor processor() {
  constexpr unsigned fma = 1u << 12, osxsave = 1u << 27;              // leaf 1, ecx
  constexpr unsigned bmi1 = 1u << 3, avx2 = 1u << 5, bmi2 = 1u << 8;  // leaf 7, ebx
  constexpr unsigned avx512f = 1u << 16, avx512dq = 1u << 17, avx512cd = 1u << 28, avx512bw = 1u << 30,
                     avx512vl = 1u << 31;
  constexpr unsigned ymm = 0x06, zmm = 0xE6;
  const auto has = [](unsigned long long word, unsigned bits) { return (word & bits) == bits; };
  int leaf[4];  // eax, ebx, ecx, edx
  __cpuid(leaf, 0);
  if (leaf[0] < 7) return {false, false};
  __cpuid(leaf, 1);
  const unsigned features1 = static_cast<unsigned>(leaf[2]);
  if (!has(features1, fma | osxsave)) return {false, false};
  __cpuidex(leaf, 7, 0);
  const unsigned features7 = static_cast<unsigned>(leaf[1]);
  const unsigned long long kept = _xgetbv(0);
  const bool has_avx2 = has(kept, ymm) && has(features7, avx2 | bmi1 | bmi2);
  const unsigned all512 = avx512f | avx512dq | avx512cd | avx512bw | avx512vl;
  return {has_avx2, has_avx2 && has(kept, zmm) && has(features7, all512)};
}
#else
inline Processor processor() {
  __builtin_cpu_init();
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  return {static_cast<bool>(__builtin_cpu_supports("avx2")), avx512};
}
#endif

}  // namespace fusedstep::cpu
