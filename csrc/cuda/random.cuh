// Random bits for dropout: a lane makes the Philox blocks of a tile that it shares with its neighbours.
#pragma once

#include <cstdint>

#include "../math/activations.h"
#include "../math/philox.h"
#include "elementwise.cuh"

namespace fusedstep::cuda {

// The arguments of a kernel that drops values.
template <class A>
struct Dropping {
  std::uint64_t seed;
  Counter offset;
  std::uint32_t threshold;
  A scale;
};

template <class A>
Dropping<A> dropping(const launch::Dropout& d) {
  const std::uint32_t threshold = dropout_threshold(d.p);
  return {d.seed, d.offset, threshold, static_cast<A>(dropout_scale(threshold))};
}

// The 16-bit lane of value k of a block of eight.
__device__ __forceinline__ std::uint32_t lane_bits(std::uint64_t low, std::uint64_t high, int k) {
  return static_cast<std::uint32_t>((k < 4 ? low : high) >> (16 * (k % 4))) & 0xFFFFu;
}

// The bits of a warp's tile of vectors of V values. All lanes of the warp call both functions together.
template <int V>
class TileBits {
  static constexpr int kRounds = kLanesPerBlock / V;  // rounds that a Philox block of each lane is enough for

 public:
  static constexpr int kBlocks = (tile_rounds(V) + kRounds - 1) / kRounds;  // Philox blocks a lane makes

  template <class A>
  __device__ __forceinline__ TileBits(const Dropping<A>& d, std::int64_t begin) {
    const std::uint64_t offset = read(d.offset);
    const std::uint64_t first = static_cast<std::uint64_t>(begin / kLanesPerBlock) + lane_index();
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) philox(first + b * kWarp, offset, d.seed, low_[b], high_[b]);
  }

  // The Philox block that holds the values of this lane's vector of a round.
  __device__ __forceinline__ void of_round(int round, std::uint64_t& low, std::uint64_t& high) const {
    const int b = round / kRounds;
    const int source = (round % kRounds * kWarp + lane_index()) * V / kLanesPerBlock;
    low = shuffle(low_[b], source);
    high = shuffle(high_[b], source);
  }

 private:
  __device__ __forceinline__ static std::uint64_t shuffle(std::uint64_t bits, int source) {
    return __shfl_sync(kAllLanes, static_cast<unsigned long long>(bits), source);
  }
  std::uint64_t low_[kBlocks], high_[kBlocks];
};

// Drops the values of a round of a tile, behind a ReLU where asked. All lanes of the warp take part.
template <bool Relu, int V, class T>
__device__ __forceinline__ void drop_round(Tile<V, T>& tile, int round, const TileBits<V>& bits,
                                           const Dropping<Arithmetic<T>>& d) {
  std::uint64_t low, high;
  bits.of_round(round, low, high);
  const int first = lane_index() * V % kLanesPerBlock;
#pragma unroll
  for (int j = 0; j < V; ++j) {
    T& value = tile.packs[round].values[j];
    const Arithmetic<T> z = Relu ? relu(widen(value)) : widen(value);
    value = narrow<T>(dropout_value(z, lane_bits(low, high, first + j), d.threshold, d.scale));
  }
}

}  // namespace fusedstep::cuda
