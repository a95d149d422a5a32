// Lines of the cache. Compiled once per instruction set.
#pragma once

#include <cstdint>

#include "../math/hd.h"

#if !defined(__GNUC__) && defined(FUSEDSTEP_SSE2)
#include <xmmintrin.h>
#endif

namespace fusedstep {
namespace {

constexpr std::int64_t kLineBytes = 64;

// As many values as a line holds.
template <class T>
constexpr std::int64_t kLine = kLineBytes / static_cast<std::int64_t>(sizeof(T));

// How many values lie before the first that begins a line.
template <class T>
FUSEDSTEP_HD std::int64_t values_before_line(const T* p) {
  return -static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(p) / sizeof(T)) & (kLine<T> - 1);
}

// Asks for the line `bytes` behind p; it need not be anyone's memory.
template <class T>
FUSEDSTEP_HD void prefetch_line(const T* p, std::uintptr_t bytes = 0) {
#if defined(__GNUC__)
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(p) + bytes));
#elif defined(FUSEDSTEP_SSE2)
  _mm_prefetch(reinterpret_cast<const char*>(reinterpret_cast<std::uintptr_t>(p) + bytes), _MM_HINT_T0);
#else
  (void)p, (void)bytes;
#endif
}

}  // namespace
}  // namespace fusedstep
