// Runs CUDA kernels on the CPU: every CUDA thread of a block is a fiber, all on the calling thread, and the order in
// which they run is shuffled. `include/cuda_runtime.h` makes kernel sources call the first half of this page; tests
// call the second. What it finds, as std::runtime_error thrown by launch(), with the kernel, the block and the thread:
// a barrier that some threads miss, threads that meet at different barriers or warp operations, a lane outside its own
// mask, a shuffle from a lane that takes no part. Under AddressSanitizer (EMULATOR_ASAN) and ThreadSanitizer
// (EMULATOR_TSAN) those see the fibers, and find reads and writes out of bounds and races.
//
// What it cannot find: __shared__ arrays are static storage, so a block finds in them what the block before left, and
// their reading before they are written does not show. Limits of a device's registers and shared memory are not
// checked.
//
// The time goes into switching fibers: 0.1 ms for a block of 256 threads, and as much again for each barrier or warp
// operation. ThreadSanitizer takes 0.5 ms a barrier then, and 15 ms with 1,024 threads.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

enum cudaError_t : int;

namespace emulator {

// ---- For kernels -----------------------------------------------------------------------------------------------

const uint3& thread_index();
const uint3& block_index();
const dim3& block_size();
const dim3& grid_size();
unsigned lane();

// A place in the source. Threads that meet must meet at one and the same.
struct Site {
  const char* file;
  int line;
};

void sync_threads(const Site& site);
void sync_warp(unsigned mask, const Site& site);
// Like the hardware's, these wait for the lanes but order no memory.
std::uint64_t shuffle(unsigned mask, std::uint64_t value, unsigned source, const Site& site);
unsigned ballot(unsigned mask, bool vote, const Site& site);
void fence();

// ---- For launch() in csrc/cuda/launch.cuh ----------------------------------------------------------------------

// Runs the whole grid before it returns. A configuration that CUDA refuses is refused in the same way: nothing runs,
// and cudaGetLastError() tells.
void launch(const char* kernel, dim3 grid, dim3 block, const std::function<void()>& body, void* stream = nullptr);

// ---- For tests -------------------------------------------------------------------------------------------------

void set_seed(std::uint32_t seed);         // of the schedule, which goes on from launch to launch
void set_capturing(bool capturing);        // what cudaStreamIsCapturing says
void set_device_count(int count);          // 1 at first; all devices are the same
void fail_next_launch(cudaError_t error);  // the next launch runs nothing and sets this error

struct Launch {
  std::string kernel;
  dim3 grid, block;
  int device;
  void* stream;
};
std::int64_t launches();                     // so far
const std::vector<Launch>& last_launches();  // the last hundred, oldest first
std::int64_t outstanding_allocations();      // of cudaMallocAsync and the like, not yet freed

// ---- Between runtime.cpp, which checks a launch, and emulator.cpp, which runs it -------------------------------

void run_grid(const char* kernel, dim3 grid, dim3 block, const std::function<void()>& body);

}  // namespace emulator
