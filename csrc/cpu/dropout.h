// Dropout on Philox bits, made in the cache a few hundred blocks at a time. Compiled once per instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#include "../kernels.h"
#include "../math/activations.h"
#include "../math/half.h"
#include "../math/philox.h"
#include "philox_vector.h"

namespace fusedstep {
namespace {

constexpr std::int64_t kDropoutBlocks = 128;  // 2 KiB of bits

// Reads lanes out of 64-bit words: the lowest bits come first, as everywhere little-endian.
#if defined(__GNUC__)
using Lane = std::uint16_t __attribute__((may_alias));
#else
using Lane = std::uint16_t;
#endif

// The 16-bit lanes of blocks [block, block + blocks), at most kDropoutBlocks.
struct LaneBuffer {
  alignas(64) std::uint64_t words[kDropoutBlocks * 2];

  const Lane* lanes() const { return reinterpret_cast<const Lane*>(words); }

  void fill(std::uint64_t block, std::int64_t blocks, DropoutKey key) {
#if defined(FUSEDSTEP_PHILOX_VECTOR)
    static_assert(kDropoutBlocks % kPhiloxBlocks == 0, "philox_blocks makes whole vectors");
    philox_blocks(block, blocks, key.offset, key.seed, words);
#else
#pragma omp simd
    for (std::int64_t i = 0; i < blocks; ++i) {
      philox(block + static_cast<std::uint64_t>(i), key.offset, key.seed, words[2 * i], words[2 * i + 1]);
    }
#endif
  }
};

// f(first index, count, lanes): the indices [begin, end) in pieces, begin a multiple of 8.
template <class F>
FUSEDSTEP_HD void for_lanes(std::int64_t begin, std::int64_t end, DropoutKey key, F f) {
  LaneBuffer buffer;
  for (std::int64_t i = begin; i < end; i += kDropoutBlocks * kLanesPerBlock) {
    const std::int64_t left = end - i, piece = kDropoutBlocks * kLanesPerBlock;
    const std::int64_t count = left < piece ? left : piece;
    buffer.fill(static_cast<std::uint64_t>(i) / kLanesPerBlock, (count + kLanesPerBlock - 1) / kLanesPerBlock, key);
    f(i, count, buffer.lanes());
  }
}

// x == y is allowed.
template <bool Relu, class T>
void dropout_range(const T* x, T* y, std::int64_t begin, std::int64_t end, DropoutKey key, Arithmetic<T> scale) {
  using A = Arithmetic<T>;
  for_lanes(begin, end, key, [&](std::int64_t at, std::int64_t count, const Lane* lanes) {
    const T* source = x + at;
    T* target = y + at;
    const std::uint32_t threshold = key.threshold;
    const A factor = scale;
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) {
      const A z = Relu ? relu(widen(source[i])) : widen(source[i]);
      target[i] = narrow<T>(dropout_value(z, lanes[i], threshold, factor));
    }
  });
}

// One row of an array with strides; any first index.
template <bool Relu, class T>
void dropout_strided(const T* x, std::int64_t x_stride, T* y, std::int64_t y_stride, std::int64_t first_index,
                     std::int64_t n, DropoutKey key, Arithmetic<T> scale) {
  const std::int64_t begin = first_index / kLanesPerBlock * kLanesPerBlock;
  for_lanes(begin, first_index + n, key, [&](std::int64_t at, std::int64_t count, const Lane* lanes) {
    for (std::int64_t i = at < first_index ? first_index - at : 0; i < count; ++i) {
      const std::int64_t k = at + i - first_index;
      const Arithmetic<T> value = widen(x[k * x_stride]), z = Relu ? relu(value) : value;
      y[k * y_stride] = narrow<T>(dropout_value(z, lanes[i], key.threshold, scale));
    }
  });
}

// `keep` points to index `begin`.
inline void dropout_keep(unsigned char* keep, std::int64_t begin, std::int64_t end, DropoutKey key) {
  for_lanes(begin, end, key, [&](std::int64_t at, std::int64_t count, const Lane* lanes) {
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
