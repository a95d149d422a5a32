// Dropout on Philox bits, made in the cache a few hundred blocks at a time. Compiled once per instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#include "../kernels.h"
#include "../math/activations.h"
#include "../math/half.h"
#include "../math/philox.h"
#include "philox_vector.h"
#include "stream.h"

namespace fusedstep {
namespace {

constexpr std::int64_t kDropoutPiece = 1024;  // values; 2 KiB of bits
#if defined(FUSEDSTEP_PHILOX_VECTOR)
constexpr std::int64_t kBlocksTogether = kPhiloxBlocks;
#else
constexpr std::int64_t kBlocksTogether = 1;
#endif

// Reads lanes out of 64-bit words: the lowest bits come first, as everywhere little-endian.
#if defined(__GNUC__)
using Lane = std::uint16_t __attribute__((may_alias));
#else
using Lane = std::uint16_t;
#endif

// The 16-bit lanes of a piece, whatever its first index, and of whole vectors of blocks.
struct LaneBuffer {
  static constexpr std::int64_t kBlocks = kDropoutPiece / kLanesPerBlock + 1;
  alignas(64) std::uint64_t words[(kBlocks + kBlocksTogether - 1) / kBlocksTogether * kBlocksTogether * 2];

  // Of the indices [begin, begin + count).
  const Lane* fill(std::int64_t begin, std::int64_t count, DropoutKey key) {
    const std::uint64_t block = static_cast<std::uint64_t>(begin) / kLanesPerBlock;
    const std::int64_t first = begin % kLanesPerBlock, blocks = (first + count + kLanesPerBlock - 1) / kLanesPerBlock;
#if defined(FUSEDSTEP_PHILOX_VECTOR)
    philox_blocks(block, blocks, key.offset, key.seed, words);
#else
#pragma omp simd
    for (std::int64_t i = 0; i < blocks; ++i) {
      philox(block + static_cast<std::uint64_t>(i), key.offset, key.seed, words[2 * i], words[2 * i + 1]);
    }
#endif
    return reinterpret_cast<const Lane*>(words) + first;
  }
};

// f(first index, count, lanes): the indices [begin, end) in pieces, the first of `ahead` values unless that is 0.
template <class F>
FUSEDSTEP_HD void for_lanes(std::int64_t begin, std::int64_t end, std::int64_t ahead, DropoutKey key, F f) {
  LaneBuffer buffer;
  for (std::int64_t i = begin, piece = ahead > 0 ? ahead : kDropoutPiece; i < end; i += piece, piece = kDropoutPiece) {
    const std::int64_t count = end - i < piece ? end - i : piece;
    f(i, count, buffer.fill(i, count, key));
  }
}

// x == y is allowed, unless the result is streamed. Pieces begin where a line of y does: vectors that lie across two
// lines are stored a third slower.
template <bool Relu, bool Streamed, class T>
void dropout_range(const T* x, T* y, std::int64_t begin, std::int64_t end, DropoutKey key, Arithmetic<T> scale) {
  using A = Arithmetic<T>;
  alignas(64) T piece[Streamed ? kDropoutPiece : 1];
  const std::int64_t ahead = values_before_line(y + begin);
  for_lanes(begin, end, ahead, key, [&](std::int64_t at, std::int64_t count, const Lane* lanes) {
    const T* source = x + at;
    T* target = Streamed ? piece : y + at;
    const std::uint32_t threshold = key.threshold;
    const A factor = scale;
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) {
      const A z = Relu ? relu(widen(source[i])) : widen(source[i]);
      target[i] = narrow<T>(dropout_value(z, lanes[i], threshold, factor));
    }
    if (Streamed) stream(piece, y + at, count);
  });
  if (Streamed) stream_fence();
}

// One row of an array with strides; any first index.
template <bool Relu, class T>
void dropout_strided(const T* x, std::int64_t x_stride, T* y, std::int64_t y_stride, std::int64_t first_index,
                     std::int64_t n, DropoutKey key, Arithmetic<T> scale) {
  for_lanes(first_index, first_index + n, 0, key, [&](std::int64_t at, std::int64_t count, const Lane* lanes) {
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t k = at + i - first_index;
      const Arithmetic<T> value = widen(x[k * x_stride]), z = Relu ? relu(value) : value;
      y[k * y_stride] = narrow<T>(dropout_value(z, lanes[i], key.threshold, scale));
    }
  });
}

// `keep` points to index `begin`.
inline void dropout_keep(unsigned char* keep, std::int64_t begin, std::int64_t end, DropoutKey key) {
  for_lanes(begin, end, 0, key, [&](std::int64_t at, std::int64_t count, const Lane* lanes) {
    unsigned char* target = keep + (at - begin);
    const std::uint32_t threshold = key.threshold;
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) target[i] = lanes[i] >= threshold;
  });
}

template <class T>
void dropout_relu_backward(const T* dy, const T* y, T* dx, std::int64_t n, Arithmetic<T> scale) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) dx[i] = narrow<T>(relu_gradient(widen(dy[i]) * scale, widen(y[i])));
}

}  // namespace
}  // namespace fusedstep
