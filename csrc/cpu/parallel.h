// Threads: how work is cut and when it is worth cutting. Not compiled per instruction set.
#pragma once

#include <cstdint>

#include "../math/hd.h"

#if defined(FUSEDSTEP_SSE2)
#include <xmmintrin.h>
#endif
#if defined(_OPENMP)
#include <omp.h>
#endif

namespace fusedstep::cpu {

int num_threads();
void set_num_threads(int n);

// Registers what keeps a forked child from hanging in its first parallel region; once.
void install_fork_handler();

// Kernels run with the default floating-point mode: a caller may have set flush-to-zero, on any thread.
class DefaultFloatMode {
 public:
#if defined(FUSEDSTEP_SSE2)
  DefaultFloatMode() : saved_(_mm_getcsr()) { _mm_setcsr(0x1F80); }
  ~DefaultFloatMode() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#elif defined(__aarch64__)
  DefaultFloatMode() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" : : "r"(std::uint64_t{0}));
  }
  ~DefaultFloatMode() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }

 private:
  std::uint64_t saved_;
#else
  DefaultFloatMode() {}
#endif
  DefaultFloatMode(const DefaultFloatMode&) = delete;
  DefaultFloatMode& operator=(const DefaultFloatMode&) = delete;
};

// Work that moves fewer bytes stays on the calling thread. The default was read off bench/thread_cutoff.py: waking
// another, passively waiting thread takes some 60 us, and its share of the data must come into its core's cache.
// Tests set it to 0.
constexpr std::int64_t kSerialBytes = 12 << 20;
std::int64_t serial_bytes();
void set_serial_bytes(std::int64_t bytes);

// f(task) for each task in [0, tasks), on several threads when they move more than serial_bytes() together.
// Neighbouring tasks stay on one thread. Inside another parallel region it stays serial.
template <class F>
void parallel_for(std::int64_t tasks, std::int64_t bytes, const F& f) {
#if defined(_OPENMP)
  const std::int64_t most = num_threads();
  const int threads = static_cast<int>(tasks < most ? tasks : most);
  if (threads > 1 && bytes > serial_bytes() && !omp_in_parallel()) {
#pragma omp parallel num_threads(threads)
    {
      const DefaultFloatMode mode;
#pragma omp for schedule(static)
      for (std::int64_t task = 0; task < tasks; ++task) f(task);
    }
    return;
  }
#else
  (void)bytes;
#endif
  const DefaultFloatMode mode;
  for (std::int64_t task = 0; task < tasks; ++task) f(task);
}

// f(begin, end) for pieces of [0, n), each of `piece` values but the last.
template <class F>
void parallel_ranges(std::int64_t n, std::int64_t piece, std::int64_t bytes, const F& f) {
  parallel_for((n + piece - 1) / piece, bytes, [&](std::int64_t task) {
    const std::int64_t begin = task * piece;
    f(begin, n - begin < piece ? n : begin + piece);
  });
}

}  // namespace fusedstep::cpu
