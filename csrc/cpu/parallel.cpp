#include "parallel.h"

#include <algorithm>
#include <atomic>

#if defined(_OPENMP) && (defined(__unix__) || defined(__APPLE__))
#define FUSEDSTEP_THREADS_AND_FORKS
#include <pthread.h>
// OpenMP 5.0; weak, since older runtimes lack it.
extern "C" int omp_pause_resource_all(omp_pause_resource_t) __attribute__((weak));
#endif

namespace fusedstep::cpu {
namespace {

int default_threads() {
#if defined(_OPENMP)
  return omp_get_max_threads();  // honours OMP_NUM_THREADS and the process's affinity
#else
  return 1;
#endif
}

int most_threads() {
#if defined(_OPENMP)
  return std::max(64, 2 * omp_get_num_procs());
#else
  return 1;
#endif
}

std::atomic<int> threads{0};
std::atomic<std::int64_t> cutoff{kSerialBytes};

#if defined(FUSEDSTEP_THREADS_AND_FORKS)
// libgomp's pool does not survive a fork: the child would wait for threads it does not have. Freed before the fork,
// the pool is made anew by both. Inside a parallel region the runtime refuses, which is right.
void before_fork() {
  if (omp_pause_resource_all != nullptr && !omp_in_parallel()) omp_pause_resource_all(omp_pause_soft);
}
#endif

}  // namespace

int num_threads() {
  const int n = threads.load(std::memory_order_relaxed);
  return n > 0 ? n : default_threads();
}

// More threads than processors only serve tests; many more, and the runtime ends the process when it cannot start them.
void set_num_threads(int n) { threads.store(std::min(n, most_threads()), std::memory_order_relaxed); }

std::int64_t serial_bytes() { return cutoff.load(std::memory_order_relaxed); }

void set_serial_bytes(std::int64_t bytes) { cutoff.store(bytes, std::memory_order_relaxed); }

void install_fork_handler() {
#if defined(FUSEDSTEP_THREADS_AND_FORKS)
  static const int installed = pthread_atfork(&before_fork, nullptr, nullptr);
  (void)installed;
#endif
}

}  // namespace fusedstep::cpu
