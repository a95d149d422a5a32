// Stores that go around the cache, for results that no cache holds: an ordinary store first reads the line it is about
// to write, a third of the traffic of a kernel with one input. A launcher asks is_streamed; its range function makes
// pieces in a buffer in the cache, hands each to stream, and ends with stream_fence. Compiled once per instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#include "../math/hd.h"
#include "line.h"

#if defined(FUSEDSTEP_SSE2)
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace fusedstep {
namespace {

// Results of fewer bytes are left to the cache. Read off dropout and a sum of its result: below, the sum loses more
// than dropout gains.
constexpr std::int64_t kStreamBytes = std::int64_t{64} << 20;

// Values a task that streams; a multiple of 8 for dropout. Each ends with a fence, which waits for the line that it
// wrote in part: with an eighth of them dropout into unaligned results took a quarter longer.
constexpr std::int64_t kStreamPiece = 131072;

// Whether to stream a result, for launchers. Not into memory that was never written: the system clears such a page when
// it is first touched, and an ordinary store still finds it in the cache (streaming takes a fifth longer).
inline bool is_streamed(const void* target, std::int64_t bytes) {
#if defined(FUSEDSTEP_SSE2)
  if (bytes < kStreamBytes) return false;
#if defined(__linux__)
  const std::uintptr_t page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const std::uintptr_t middle = reinterpret_cast<std::uintptr_t>(target) + static_cast<std::uintptr_t>(bytes) / 2;
  unsigned char present = 1;
  if (mincore(reinterpret_cast<void*>(middle & ~(page - 1)), 1, &present) != 0) return true;
  return (present & 1) != 0;
#else
  (void)target;
  return true;
#endif
#else
  (void)target, (void)bytes;
  return false;
#endif
}

// Copies `bytes` from a piece that lies in the cache; whole lines of the target go around it.
inline void stream_bytes(const char* piece, char* target, std::int64_t bytes) {
#if defined(FUSEDSTEP_SSE2)
  const std::int64_t ahead = -static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(target)) & (kLineBytes - 1);
  const std::int64_t head = ahead < bytes ? ahead : bytes;
  std::memcpy(target, piece, static_cast<std::size_t>(head));
  std::int64_t i = head;
  for (; i + kLineBytes <= bytes; i += kLineBytes) {
#if defined(__AVX512F__)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(target + i), _mm512_loadu_si512(piece + i));
#elif defined(__AVX2__)
    for (int part = 0; part < 64; part += 32) {
      const __m256i values = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(piece + i + part));
      _mm256_stream_si256(reinterpret_cast<__m256i*>(target + i + part), values);
    }
#else
    for (int part = 0; part < 64; part += 16) {
      const __m128i values = _mm_loadu_si128(reinterpret_cast<const __m128i*>(piece + i + part));
      _mm_stream_si128(reinterpret_cast<__m128i*>(target + i + part), values);
    }
#endif
  }
  std::memcpy(target + i, piece + i, static_cast<std::size_t>(bytes - i));
#else
  std::memcpy(target, piece, static_cast<std::size_t>(bytes));
#endif
}

template <class T>
FUSEDSTEP_HD void stream(const T* piece, T* target, std::int64_t n) {
  stream_bytes(reinterpret_cast<const char*>(piece), reinterpret_cast<char*>(target),
               n * static_cast<std::int64_t>(sizeof(T)));
}

// Before a task ends that has streamed: what it wrote is then seen before whatever it writes next.
inline void stream_fence() {
#if defined(FUSEDSTEP_SSE2)
  _mm_sfence();
#endif
}

}  // namespace
}  // namespace fusedstep
