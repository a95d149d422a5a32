// Launches, errors, and memory for the length of a call. Nothing here waits for the device.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "../launch.h"

namespace fusedstep::cuda {

using launch::Context;
using launch::Counter;
using launch::Scalar;
using launch::ScalarType;

constexpr int kWarp = 32;
constexpr int kThreads = 256;
constexpr unsigned kAllLanes = 0xFFFFFFFFu;

// The runtime keeps its last error until it is asked for: whoever leaves one unread makes the next launch report it.
inline void forget_error() { cudaGetLastError(); }

inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  forget_error();
  const char* advice = status == cudaErrorInsufficientDriver ? "; update the NVIDIA driver" : "";
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorName(status) + ": " + cudaGetErrorString(status) +
                           advice);
}

inline cudaStream_t stream_of(const Context& context) { return static_cast<cudaStream_t>(context.stream); }

// Queues a kernel behind the work of the context's stream. The one place where kernels are launched.
template <class... Parameters>
void run(void (*kernel)(Parameters...), const char* name, std::int64_t blocks, dim3 threads, const Context& context,
         std::common_type_t<Parameters>... arguments) {
  if (blocks == 0) return;
  if (blocks > std::numeric_limits<std::int32_t>::max()) {
    throw std::runtime_error(std::string(name) + ": the arrays are too large for one grid");
  }
  const dim3 grid(static_cast<unsigned>(blocks));
#if defined(FUSEDSTEP_CUDA_ON_CPU)
  emulator::launch(name, grid, threads, [=] { kernel(arguments...); }, stream_of(context));
#else
  kernel<<<grid, threads, 0, stream_of(context)>>>(arguments...);
#endif
  check(cudaGetLastError(), name);
}

// Memory of the device that a call needs for itself; given back in the order of the stream.
class Scratch {
 public:
  explicit Scratch(const Context& context) : context_(context) {}
  ~Scratch() {
    for (void* memory : taken_) {
      if (cudaFreeAsync(memory, stream_of(context_)) != cudaSuccess) forget_error();
    }
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  template <class T>
  T* take(std::int64_t n) {
    return static_cast<T*>(take_bytes(static_cast<std::size_t>(n > 0 ? n : 1) * sizeof(T)));
  }

 private:
  void* take_bytes(std::size_t bytes);  // devices.cu

  const Context& context_;
  std::vector<void*> taken_;
};

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

__device__ __forceinline__ int lane_index() { return static_cast<int>(threadIdx.x % kWarp); }

// The index of the thread in a grid of one dimension.
__device__ __forceinline__ std::int64_t global_thread() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

// In a table of arrays, each cut into blocks of threads: the array that a block belongs to, the last one that begins at
// this block or before. Tables hold no empty arrays, or such as begin where the next one does.
template <class Table>
__device__ __forceinline__ int array_of_block(const Table& table) {
  int low = 0, high = table.count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (table.first_block[middle] <= blockIdx.x) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

__device__ __forceinline__ double read(const Scalar& scalar) {
  if (scalar.data == nullptr) return scalar.value;
  return scalar.type == ScalarType::kFloat64 ? *static_cast<const double*>(scalar.data)
                                             : static_cast<double>(*static_cast<const float*>(scalar.data));
}

__device__ __forceinline__ std::uint64_t read(const Counter& counter) {
  if (counter.data == nullptr) return counter.value;
  return static_cast<std::uint64_t>(counter.type == ScalarType::kInt64
                                        ? *static_cast<const std::int64_t*>(counter.data)
                                        : std::int64_t{*static_cast<const std::int32_t*>(counter.data)});
}

}  // namespace fusedstep::cuda
