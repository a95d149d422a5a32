// Correct kernels, and the same with a fault planted, for tests of the emulator: planted CASE [SEED].
// A line that a sanitizer has to name is marked by `fault:`.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <map>
#include <string>
#include <vector>

namespace {

constexpr int kBlock = 96;
constexpr unsigned kAll = 0xFFFFFFFFu;

enum class Fault { kNone, kMissingBarrier, kReusedArray, kOutOfBounds };

template <Fault fault>
__device__ __forceinline__ int block_sum(int v) {
  __shared__ int parts[kBlock / 32];
  for (int d = 16; d; d >>= 1) v += __shfl_down_sync(kAll, v, d);
  if constexpr (fault != Fault::kReusedArray) __syncthreads();  // all have read what an earlier call left in `parts`
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;       // fault: reused-array
  if constexpr (fault != Fault::kMissingBarrier) __syncthreads();
  v = 0;
  for (int i = 0; i < kBlock / 32; ++i) v += parts[i];  // fault: missing-barrier
  return v;
}

// out[block] = sum of x, plus the sum of 2 x, of the block's share.
template <Fault fault>
__global__ void __launch_bounds__(kBlock) sum(const int* __restrict__ x, int n, int* __restrict__ out) {
  int own = 0;
  const int last = fault == Fault::kOutOfBounds ? n : n - 1;
  for (int i = blockIdx.x * kBlock + threadIdx.x; i <= last; i += gridDim.x * kBlock) {
    own += x[i];  // fault: out-of-bounds
  }
  const int once = block_sum<fault>(own);
  const int twice = block_sum<fault>(2 * own);
  if (threadIdx.x == 0) out[blockIdx.x] = once + twice;
}

template <Fault fault>
void run_sum() {
  constexpr int n = 1003;
  constexpr unsigned blocks = 4;
  int *x = nullptr, *out = nullptr;
  cudaMallocAsync(&x, n * sizeof(int), nullptr);
  cudaMallocAsync(&out, blocks * sizeof(int), nullptr);
  for (int i = 0; i < n; ++i) x[i] = i;
  emulator::launch("sum", blocks, kBlock, [=] { sum<fault>(x, n, out); });
  std::printf("%d\n", out[0] + out[1] + out[2] + out[3]);  // 3 * 1003 * 1002 / 2 = 1507509
  cudaFreeAsync(x, nullptr);
  cudaFreeAsync(out, nullptr);
}

// The block that finishes last adds up what all have written.
template <bool kFences>
__global__ void last_block(int* parts, unsigned* counter, int* out) {
  __shared__ bool last;
  if (threadIdx.x == 0) {
    parts[blockIdx.x] = static_cast<int>(blockIdx.x) + 1;
    if constexpr (kFences) __threadfence();
    last = atomicAdd(counter, 1u) == gridDim.x - 1;
    if constexpr (kFences) __threadfence();
  }
  __syncthreads();
  if (last && threadIdx.x == 1) {
    for (unsigned i = 0; i < gridDim.x; ++i) *out += parts[i];  // fault: missing-fence
  }
}

template <bool kFences>
void run_last_block() {
  std::vector<int> parts(20);
  unsigned counter = 0;
  int out = 0;
  emulator::launch("last_block", 20, 64, [&] { last_block<kFences>(parts.data(), &counter, &out); });
  std::printf("%d %u\n", out, counter);
}

__global__ void overlap(int* out) {
  __syncthreads();
  if (threadIdx.x < 2) out[blockIdx.x + threadIdx.x] = 1;  // fault: overlapping-blocks
}

__global__ void shuffle_as_barrier(int* out) {
  __shared__ int values[32];
  values[threadIdx.x] = 1;
  const int mine = __shfl_xor_sync(kAll, 1, 1);
  out[threadIdx.x] = mine + values[threadIdx.x ^ 1];  // fault: shuffle-as-barrier
}

__global__ void warp_barrier(int* out) {
  __shared__ int values[64];
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  __syncwarp();
  const int mine = values[threadIdx.x ^ 1];
  // Halves of a warp may meet apart.
  if (threadIdx.x % 32 < 16) {
    __syncwarp(0x0000FFFF);
  } else {
    __syncwarp(0xFFFF0000);
  }
  values[threadIdx.x] = mine;
  __syncwarp();
  out[threadIdx.x] = values[threadIdx.x ^ 2];
}

// Lanes that have returned are not waited for.
__global__ void warp_barrier_of_some(int* out) {
  __shared__ int values[32];
  if (threadIdx.x >= 20) return;
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  __syncwarp();
  out[threadIdx.x] = values[19 - threadIdx.x];
}

__global__ void warp_operations(unsigned* out) {
  const unsigned t = threadIdx.x, lane = t % 32;
  out[t * 8 + 0] = __shfl_sync(kAll, t, 3);
  out[t * 8 + 1] = __shfl_down_sync(kAll, t, 30);
  out[t * 8 + 2] = static_cast<unsigned>(__shfl_xor_sync(kAll, static_cast<double>(t) / 4, 5) * 4);
  out[t * 8 + 3] = static_cast<unsigned>(__shfl_sync(kAll, static_cast<unsigned long long>(t) << 40, 35) >> 40);
  out[t * 8 + 4] = __ballot_sync(kAll, lane % 3 == 0);
  out[t * 8 + 5] = __any_sync(kAll, lane == 7) + 2 * __any_sync(kAll, lane > 31);
  out[t * 8 + 6] = __all_sync(kAll, lane < 32) + 2 * __all_sync(kAll, lane != 7);
  if (lane >= 16) return;
  out[t * 8 + 7] = __ballot_sync(kAll, lane % 2) + __all_sync(0xFFFF, true);  // those that returned do not vote
}

void run_warp_operations() {
  unsigned out[64 * 8];
  std::fill(out, out + 64 * 8, 99u);
  emulator::launch("warp_operations", 1, 64, [&] { warp_operations(out); });
  for (const unsigned t : {0u, 1u, 31u, 37u}) {
    for (unsigned i = 0; i < 8; ++i) std::printf("%u%c", out[t * 8 + i], i < 7 ? ' ' : '\n');
  }
}

__global__ void atomics(int* integer, unsigned* word, unsigned long long* wide) {
  atomicAdd(integer, -1);
  atomicMax(integer + 1, static_cast<int>(threadIdx.x));
  atomicOr(word, 1u << threadIdx.x % 32);
  atomicAdd(wide, 1ull << 32);
}

void run_atomics() {
  int integers[2] = {0, -5};
  unsigned word = 0;
  unsigned long long wide = 0;
  emulator::launch("atomics", 3, 40, [&] { atomics(integers, &word, &wide); });
  std::printf("%d %d %x %llu\n", integers[0], integers[1], word, wide >> 32);
}

__global__ void indices(unsigned* seen) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  seen[block * blockDim.x * blockDim.y * blockDim.z + thread] += 1;
}

void run_indices() {
  std::vector<unsigned> seen(2 * 3 * 5 * 7 * 4 * 2);
  emulator::launch("indices", dim3(2, 3, 5), dim3(7, 4, 2), [&] { indices(seen.data()); });
  unsigned wrong = 0;
  for (const unsigned count : seen) wrong += count != 1;
  std::printf("%u wrong of %zu\n", wrong, seen.size());
}

__global__ void record_order(unsigned* order, unsigned* next) {
  order[atomicAdd(next, 1u)] = blockIdx.x * blockDim.x + threadIdx.x;
}

void run_order() {
  for (int i = 0; i < 2; ++i) {
    unsigned order[40], next = 0;
    emulator::launch("record_order", 5, 8, [&] { record_order(order, &next); });
    for (const unsigned thread : order) std::printf("%u ", thread);
    std::printf("\n");
  }
}

__global__ void early_return(int* out) {
  if (threadIdx.x == 5) return;
  __syncthreads();  // fault: early-return
  out[threadIdx.x] = 1;
}

__global__ void different_barriers() {
  if (threadIdx.x < 32) {
    __syncthreads();  // fault: different-barriers
  } else {
    __syncthreads();
  }
}

__global__ void different_warp_operations(int* out) {
  if (threadIdx.x < 7) {
    *out = __shfl_sync(kAll, 1, 0);  // fault: different-warp-operations
  } else {
    *out = __shfl_sync(kAll, 2, 0);
  }
}

__global__ void shuffle_from_absent_lane(int* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_down_sync(0x0000FFFF, 1, 1);  // fault: shuffle-from-absent-lane
}

__global__ void not_in_mask() {
  __syncwarp(0xFFFFFFFE);  // fault: not-in-mask
}

template <class Kernel>
void run_simple(const char* name, unsigned blocks, unsigned threads, Kernel kernel) {
  std::vector<int> out(blocks + threads);
  emulator::launch(name, blocks, threads, [&] { kernel(out.data()); });
  for (const int value : out) std::printf("%d ", value);
  std::printf("\n");
}

// An error in the middle of a block: all goes on as before.
void run_recovery() {
  try {
    run_simple("early_return", 2, 96, early_return);
  } catch (const std::exception& error) {
    std::printf("%s\n", error.what());
  }
  run_sum<Fault::kNone>();
  std::printf("%lld launches, %lld allocations\n", static_cast<long long>(emulator::launches()),
              static_cast<long long>(emulator::outstanding_allocations()));
}

void run_configurations() {
  const auto error_of = [](dim3 grid, dim3 block) {
    bool ran = false;
    emulator::launch("nothing", grid, block, [&] { ran = true; });
    const cudaError_t peeked = cudaPeekAtLastError(), error = cudaGetLastError();
    const bool kept = peeked == error && cudaGetLastError() == cudaSuccess;
    std::printf("%s%s%s\n", cudaGetErrorName(error), ran ? ", ran" : "", kept ? "" : ", but not kept once");
  };
  error_of(1, 1024);
  error_of(1, dim3(32, 32, 1));
  error_of(1, 1025);
  error_of(1, dim3(32, 32, 2));
  error_of(1, dim3(1, 1, 65));
  error_of(0, 32);
  error_of(1, 0);
  error_of(dim3(1, 65536), 1);
  error_of(dim3(1, 1, 65536), 1);
  emulator::fail_next_launch(cudaErrorLaunchFailure);
  error_of(1, 1);
  error_of(1, 1);
}

void run_memory() {
  float* values = nullptr;
  cudaMallocAsync(&values, 3 * sizeof(float), nullptr);
  std::printf("%d %d", values[2] != values[2], static_cast<int>(reinterpret_cast<std::uintptr_t>(values) % 256));
  std::printf(" %d", static_cast<int>(emulator::outstanding_allocations()));
  cudaFreeAsync(values, nullptr);
  std::printf(" %d %s\n", static_cast<int>(emulator::outstanding_allocations()),
              cudaGetErrorName(cudaFreeAsync(&values, nullptr)));
}

const std::map<std::string, void (*)()> kCases = {
    {"sum", run_sum<Fault::kNone>},
    {"missing-barrier", run_sum<Fault::kMissingBarrier>},
    {"reused-array", run_sum<Fault::kReusedArray>},
    {"out-of-bounds", run_sum<Fault::kOutOfBounds>},
    {"early-return", [] { run_simple("early_return", 2, 96, early_return); }},
    {"last-block", run_last_block<true>},
    {"missing-fence", run_last_block<false>},
    {"overlapping-blocks", [] { run_simple("overlap", 20, 32, overlap); }},
    {"shuffle-as-barrier", [] { run_simple("shuffle_as_barrier", 1, 32, shuffle_as_barrier); }},
    {"warp-barrier", [] { run_simple("warp_barrier", 1, 64, warp_barrier); }},
    {"warp-barrier-of-some", [] { run_simple("warp_barrier_of_some", 1, 32, warp_barrier_of_some); }},
    {"warp-operations", run_warp_operations},
    {"atomics", run_atomics},
    {"indices", run_indices},
    {"order", run_order},
    {"different-barriers", [] { run_simple("different_barriers", 1, 64, [](int*) { different_barriers(); }); }},
    {"different-warp-operations", [] { run_simple("different_warp_operations", 1, 32, different_warp_operations); }},
    {"shuffle-from-absent-lane", [] { run_simple("shuffle_from_absent_lane", 1, 32, shuffle_from_absent_lane); }},
    {"not-in-mask", [] { run_simple("not_in_mask", 1, 32, [](int*) { not_in_mask(); }); }},
    {"recovery", run_recovery},
    {"configurations", run_configurations},
    {"memory", run_memory},
};

}  // namespace

int main(int argc, char** argv) {
  if (argc > 2) emulator::set_seed(static_cast<std::uint32_t>(std::atoi(argv[2])));
  try {
    kCases.at(argc > 1 ? argv[1] : "")();
  } catch (const std::exception& error) {
    std::printf("error: %s\n", error.what());
    return 1;
  }
  return 0;
}
