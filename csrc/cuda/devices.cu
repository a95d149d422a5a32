#include <algorithm>
#include <map>
#include <mutex>

#include "devices.h"
#include "launch.cuh"

namespace fusedstep {
namespace cuda {

std::vector<Device> devices() {
  int count = 0;
  check(cudaGetDeviceCount(&count), "cudaGetDeviceCount");
  std::vector<Device> list;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp p{};
    check(cudaGetDeviceProperties(&p, i), "cudaGetDeviceProperties");
    list.push_back(
        {p.name, std::to_string(p.major) + "." + std::to_string(p.minor), static_cast<std::int64_t>(p.totalGlobalMem)});
  }
  return list;
}

int driver_version() {
  int version = 0;
  check(cudaDriverGetVersion(&version), "cudaDriverGetVersion");
  return version;
}

int runtime_version() {
  int version = 0;
  check(cudaRuntimeGetVersion(&version), "cudaRuntimeGetVersion");
  return version;
}

namespace {

// A pool of our own for each device, which keeps its memory between calls; the default pool is the user's to set.
cudaMemPool_t pool_of(int device) {
  static std::mutex mutex;
  static std::map<int, cudaMemPool_t> pools;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = pools.find(device);
  if (found != pools.end()) return found->second;
  cudaMemPoolProps properties{};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.handleTypes = cudaMemHandleTypeNone;
  properties.location.type = cudaMemLocationTypeDevice;
  properties.location.id = device;
  cudaMemPool_t pool;
  check(cudaMemPoolCreate(&pool, &properties), "cudaMemPoolCreate");
  std::uint64_t kept = std::uint64_t{64} << 20;
  check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &kept), "cudaMemPoolSetAttribute");
  pools[device] = pool;
  return pool;
}

// Puts what comes next on `after` behind what is on `before` now.
cudaError_t order(cudaStream_t before, cudaStream_t after) {
  cudaEvent_t event;
  cudaError_t status = cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
  if (status != cudaSuccess) return status;
  status = cudaEventRecord(event, before);
  if (status == cudaSuccess) status = cudaStreamWaitEvent(after, event, 0);
  cudaEventDestroy(event);
  return status;
}

}  // namespace

void* Scratch::take_bytes(std::size_t bytes) {
  taken_.reserve(taken_.size() + 1);
  void* memory = nullptr;
  check(cudaMallocFromPoolAsync(&memory, bytes, pool_of(context_.device), stream_of(context_)),
        "cudaMallocFromPoolAsync");
  taken_.push_back(memory);
  return memory;
}

}  // namespace cuda

namespace launch {

namespace {

bool captures(void* stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  cuda::check(cudaStreamIsCapturing(static_cast<cudaStream_t>(stream), &status), "cudaStreamIsCapturing");
  return status != cudaStreamCaptureStatusNone;
}

}  // namespace

Scope::Scope(const Context& context) : context_(context) {
  cuda::check(cudaGetDevice(&previous_), "cudaGetDevice");
  if (previous_ != context.device) cuda::check(cudaSetDevice(context.device), "cudaSetDevice");
  try {
    if (!context.others.empty()) is_capturing(context);  // throws before an event spoils the capture
    for (void* other : context.others) {
      cuda::check(cuda::order(static_cast<cudaStream_t>(other), cuda::stream_of(context)), "cudaStreamWaitEvent");
    }
  } catch (...) {
    cudaSetDevice(previous_);
    throw;
  }
}

Scope::~Scope() {
  for (void* other : context_.others) {
    const auto stream = static_cast<cudaStream_t>(other);
    if (cuda::order(cuda::stream_of(context_), stream) != cudaSuccess) cuda::forget_error();
  }
  if (previous_ != context_.device && cudaSetDevice(previous_) != cudaSuccess) cuda::forget_error();
}

bool is_capturing(const Context& context) {
  const bool captured = captures(context.stream);
  for (void* other : context.others) {
    if (captures(other) == captured) continue;
    throw std::runtime_error(
        "the arrays come from libraries that work on different streams, of which one is being captured into a graph: "
        "make it the current stream of both");
  }
  return captured;
}

}  // namespace launch
}  // namespace fusedstep
