// What the sanitizers have to be told about fibers. Without them, nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#if defined(EMULATOR_ASAN)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(EMULATOR_TSAN)
#include <sanitizer/tsan_interface.h>

// libtsan's interface for garbage-collected heaps, the one way to make it forget all accesses to a range.
extern "C" {
void __tsan_java_init(unsigned long begin, unsigned long size);
void __tsan_java_alloc(unsigned long begin, unsigned long size);
void __tsan_java_free(unsigned long begin, unsigned long size);
}
// The linker's names for the static storage of this program or module. All __shared__ arrays lie in it.
extern char __bss_start[] __attribute__((visibility("hidden")));
extern char _end[] __attribute__((visibility("hidden")));
#endif

namespace emulator::sanitizers {

// A stack, as AddressSanitizer knows it.
class Stack {
 public:
  Stack(const void* bottom, std::size_t size) : bottom_(bottom), size_(size) {}

#if defined(EMULATOR_ASAN)
  void leave(const Stack& next) { __sanitizer_start_switch_fiber(&fake_, next.bottom_, next.size_); }
  void arrive(Stack& previous) { __sanitizer_finish_switch_fiber(fake_, &previous.bottom_, &previous.size_); }
#else
  void leave(const Stack&) {}
  void arrive(Stack&) {}
#endif

 private:
  void* fake_ = nullptr;
  const void* bottom_;
  std::size_t size_;
};

#if defined(EMULATOR_TSAN)

// ThreadSanitizer takes what one fiber does in turn, and all that follows from it, for ordered, and new fibers for
// every block cost too much. So there are two teams, drawn by lot for each block: a race between two blocks is seen
// half of the time.
constexpr int kTeams = 2;

// A thread, as ThreadSanitizer knows it: accesses of two of them race unless something orders them.
class Thread {
 public:
  Thread() : fiber_(__tsan_create_fiber(0)), owned_(true) {}
  explicit Thread(void* fiber) : fiber_(fiber), owned_(false) {}
  ~Thread() {
    if (owned_) __tsan_destroy_fiber(fiber_);
  }
  Thread(const Thread&) = delete;
  Thread& operator=(const Thread&) = delete;

  static void* current() { return __tsan_get_current_fiber(); }
  void enter() { __tsan_switch_to_fiber(fiber_, __tsan_switch_to_fiber_no_sync); }

 private:
  void* fiber_;
  bool owned_;
};

// What a thread did before give() comes before what another does after a later take().
class Order {
 public:
  void give() { __tsan_release(point_.get()); }
  void take() { __tsan_acquire(point_.get()); }

 private:
  std::unique_ptr<char[]> point_{new char[8]};  // on the heap, as libtsan forgets it when it is freed
};

// Makes ThreadSanitizer forget who used the __shared__ arrays: the next block has them for itself.
inline void forget_shared_arrays() {
  static const std::uintptr_t begin = (reinterpret_cast<std::uintptr_t>(__bss_start) + 7) / 8 * 8;
  static const std::uintptr_t size = (reinterpret_cast<std::uintptr_t>(_end) - begin) / 8 * 8;
  static const bool initialized = (__tsan_java_init(begin, size), true);
  (void)initialized;
  __tsan_java_alloc(begin, size);
  __tsan_java_free(begin, 8);  // the head alone, so that it can be allocated again
}

#else

constexpr int kTeams = 1;
struct Thread {
  Thread() = default;
  explicit Thread(void*) {}
  static void* current() { return nullptr; }
  void enter() {}
};
struct Order {
  void give() {}
  void take() {}
};
inline void forget_shared_arrays() {}

#endif

}  // namespace emulator::sanitizers
