// Vectors of 16 bytes and how threads walk arrays of them. Tails and arrays off the alignment take vectors of one value
// through the same functions.
#pragma once

#include <cstdint>

#include "../math/half.h"
#include "launch.cuh"

namespace fusedstep::cuda {

constexpr int kVectorBytes = 16;

template <class T>
constexpr int kVector = kVectorBytes / static_cast<int>(sizeof(T));

template <class T, int V>
struct alignas(sizeof(T) * V < kVectorBytes ? sizeof(T) * V : kVectorBytes) Pack {
  T values[V];
};

template <int V, class T>
__device__ __forceinline__ Pack<T, V> load(const T* source) {
  return *reinterpret_cast<const Pack<T, V>*>(source);
}

template <int V, class T>
__device__ __forceinline__ void store(T* target, const Pack<T, V>& pack) {
  *reinterpret_cast<Pack<T, V>*>(target) = pack;
}

inline bool is_aligned(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer) % kVectorBytes == 0; }

// A warp's share: lane l has the vectors l, 32 + l, ... of a tile, so that its loads stand side by side and several
// of them are under way at a time: 512 values, fewer of short vectors, as each round is more code.
constexpr int tile_rounds(int vector) { return vector < 8 ? 4 : 2; }

inline std::int64_t tile_blocks(std::int64_t n, int vector) {
  return ceil_div(n, std::int64_t{kThreads} * tile_rounds(vector) * vector);
}

template <int V, class T>
struct Tile {
  static constexpr int rounds = tile_rounds(V), values = kWarp * rounds * V;
  Pack<T, V> packs[rounds];

  // The index of the first value of the warp's tile.
  __device__ __forceinline__ static std::int64_t begin() { return global_thread() / kWarp * values; }
  // The index of the first value of a round's vector.
  __device__ __forceinline__ static std::int64_t index(std::int64_t begin, int round) {
    return begin + (round * kWarp + lane_index()) * V;
  }
  // Values past the end are left as they are.
  __device__ __forceinline__ void load_from(const T* source, std::int64_t begin, std::int64_t n) {
#pragma unroll
    for (int r = 0; r < rounds; ++r) {
      const std::int64_t i = index(begin, r);
      if (i + V <= n) {
        packs[r] = load<V>(source + i);
      } else {
        for (int j = 0; j < V && i + j < n; ++j) packs[r].values[j] = source[i + j];
      }
    }
  }
  __device__ __forceinline__ void store_round(T* target, std::int64_t begin, std::int64_t n, int round) const {
    const std::int64_t i = index(begin, round);
    if (i + V <= n) {
      store<V>(target + i, packs[round]);
    } else {
      for (int j = 0; j < V && i + j < n; ++j) target[i + j] = packs[round].values[j];
    }
  }
};

// A call, as the division of 64 bits is long code, which would stand in a kernel for each of its values.
inline __device__ FUSEDSTEP_NOINLINE std::uint64_t wide_quotient(std::uint64_t dividend, std::uint64_t divisor) {
  return dividend / divisor;
}

// Division by a number that is known before the launch: a product for what fits in 31 bits (Granlund & Montgomery
// 1994, figure 4.1).
class Divider {
 public:
  Divider() : Divider(1, 1) {}
  // For dividends up to `largest`.
  Divider(std::int64_t divisor, std::int64_t largest)
      : divisor_(divisor > 0 ? static_cast<std::uint64_t>(divisor) : 1), small_(largest < std::int64_t{1} << 31) {
    small_ = small_ && divisor_ < std::uint64_t{1} << 31;
    if (!small_) return;
    while (std::uint64_t{1} << shift_ < divisor_) ++shift_;
    const std::uint64_t two = std::uint64_t{1} << 32;
    factor_ = static_cast<std::uint32_t>(two * ((std::uint64_t{1} << shift_) - divisor_) / divisor_ + 1);
  }
  __device__ __forceinline__ std::int64_t divide(std::int64_t n) const {
    if (!small_) return static_cast<std::int64_t>(wide_quotient(static_cast<std::uint64_t>(n), divisor_));
    const auto low = static_cast<std::uint32_t>(n);
    return (__umulhi(low, factor_) + low) >> shift_;
  }
  __device__ __forceinline__ std::int64_t remainder(std::int64_t n) const {
    return n - divide(n) * static_cast<std::int64_t>(divisor_);
  }

 private:
  std::uint64_t divisor_;
  bool small_;
  std::uint32_t factor_ = 0;
  int shift_ = 0;
};

}  // namespace fusedstep::cuda
