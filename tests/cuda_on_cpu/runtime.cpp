// The host's side of the stand-in for CUDA: launches are checked and counted, memory is counted, devices are made up.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <unordered_set>
#include <utility>

namespace {

constexpr std::size_t kLaunchesKept = 100;

thread_local cudaError_t last_error = cudaSuccess;
cudaError_t planted_error = cudaSuccess;
bool capturing = false;
int device_count = 1;
thread_local int current_device = 0;
std::int64_t launch_count = 0;
std::vector<emulator::Launch> kept_launches;
std::unordered_set<void*> allocations;
std::mutex counting;  // guards the lists

cudaError_t checked(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

bool is_device(int device) { return device >= 0 && device < device_count; }

// The limits of compute capability 9.0.
bool is_valid(dim3 grid, dim3 block) {
  const auto within = [](dim3 size, unsigned x, unsigned y, unsigned z) {
    return size.x - 1 < x && size.y - 1 < y && size.z - 1 < z;  // 0 - 1 is the largest of all
  };
  return within(grid, 0x7FFFFFFF, 65535, 65535) && within(block, 1024, 1024, 64) && block.x * block.y * block.z <= 1024;
}

}  // namespace

namespace emulator {

void launch(const char* kernel, dim3 grid, dim3 block, const std::function<void()>& body, void* stream) {
  {
    const std::lock_guard<std::mutex> lock(counting);
    ++launch_count;
    if (kept_launches.size() == kLaunchesKept) kept_launches.erase(kept_launches.begin());
    kept_launches.push_back({kernel, grid, block, current_device, stream});
  }
  if (planted_error != cudaSuccess) {
    last_error = std::exchange(planted_error, cudaSuccess);
  } else if (device_count == 0) {
    last_error = cudaErrorNoDevice;
  } else if (!is_valid(grid, block)) {
    last_error = cudaErrorInvalidConfiguration;
  } else {
    run_grid(kernel, grid, block, body);
  }
}

void set_capturing(bool value) { capturing = value; }

void set_device_count(int count) {
  device_count = count;
  current_device = 0;
}

void fail_next_launch(cudaError_t error) { planted_error = error; }
std::int64_t launches() { return launch_count; }
const std::vector<Launch>& last_launches() { return kept_launches; }
std::int64_t outstanding_allocations() { return static_cast<std::int64_t>(allocations.size()); }

}  // namespace emulator

// ---- Errors ----------------------------------------------------------------------------------------------------

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
#define NAME(code) \
  case code:       \
    return #code
    NAME(cudaSuccess);
    NAME(cudaErrorInvalidValue);
    NAME(cudaErrorMemoryAllocation);
    NAME(cudaErrorInvalidConfiguration);
    NAME(cudaErrorInsufficientDriver);
    NAME(cudaErrorNoDevice);
    NAME(cudaErrorInvalidDevice);
    NAME(cudaErrorInvalidResourceHandle);
    NAME(cudaErrorIllegalAddress);
    NAME(cudaErrorLaunchFailure);
    NAME(cudaErrorNotSupported);
    NAME(cudaErrorStreamCaptureUnsupported);
#undef NAME
  }
  return "unrecognized error code";
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    default:
      return cudaGetErrorName(error);
  }
}

cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return last_error; }

// ---- Devices ---------------------------------------------------------------------------------------------------

cudaError_t cudaGetDeviceCount(int* count) {
  *count = device_count;
  return checked(device_count ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return checked(device_count ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int device) {
  if (!is_device(device)) return checked(device_count ? cudaErrorInvalidDevice : cudaErrorNoDevice);
  current_device = device;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (!is_device(device)) return checked(cudaErrorInvalidDevice);
  *properties = {"CUDA on CPU", 9, 0, std::size_t{1} << 30, 4};
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (!is_device(device)) return checked(cudaErrorInvalidDevice);
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = 1024;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = 48 << 10;
      return cudaSuccess;
    case cudaDevAttrWarpSize:
      *value = 32;
      return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:  // few, so that small arrays already take several turns
      *value = 4;
      return cudaSuccess;
    case cudaDevAttrL2CacheSize:
      *value = 1 << 20;
      return cudaSuccess;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = 2048;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = 9;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      return cudaSuccess;
    case cudaDevAttrMemoryPoolsSupported:
      *value = 1;
      return cudaSuccess;
  }
  return checked(cudaErrorInvalidValue);
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = device_count ? 13000 : 0;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}

// ---- Streams and events ----------------------------------------------------------------------------------------

struct CUevent_st {};

cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t) {
  return checked(capturing ? cudaErrorStreamCaptureUnsupported : cudaSuccess);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t event, unsigned) {
  return checked(event ? cudaSuccess : cudaErrorInvalidResourceHandle);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  return checked(event ? cudaSuccess : cudaErrorInvalidResourceHandle);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}

// ---- Memory ----------------------------------------------------------------------------------------------------

struct CUmemPoolHandle_st {};

cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps* properties) {
  if (!is_device(properties->location.id)) return checked(cudaErrorInvalidDevice);
  static CUmemPoolHandle_st the_pool;
  *pool = &the_pool;
  return cudaSuccess;
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr, void*) {
  return checked(pool ? cudaSuccess : cudaErrorInvalidValue);
}

cudaError_t cudaMallocAsync(void** memory, std::size_t bytes, cudaStream_t) {
  if (posix_memalign(memory, 256, std::max<std::size_t>(bytes, 1)) != 0) return checked(cudaErrorMemoryAllocation);
  std::memset(*memory, 0xFF, bytes);
  const std::lock_guard<std::mutex> lock(counting);
  allocations.insert(*memory);
  return cudaSuccess;
}

cudaError_t cudaMallocFromPoolAsync(void** memory, std::size_t bytes, cudaMemPool_t pool, cudaStream_t stream) {
  return pool ? cudaMallocAsync(memory, bytes, stream) : checked(cudaErrorInvalidValue);
}

cudaError_t cudaFreeAsync(void* memory, cudaStream_t) {
  const std::lock_guard<std::mutex> lock(counting);
  if (allocations.erase(memory) == 0) return checked(cudaErrorInvalidValue);
  std::free(memory);
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* memory, int byte, std::size_t bytes, cudaStream_t) {
  std::memset(memory, byte, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* target, const void* source, std::size_t bytes, cudaMemcpyKind, cudaStream_t) {
  std::memcpy(target, source, bytes);
  return cudaSuccess;
}
