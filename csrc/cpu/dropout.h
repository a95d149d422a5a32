// Dropout on Philox bits, made in the cache a few hundred blocks at a time. Compiled once per instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#include "../kernels.h"
#include "../math/activations.h"
#include "../math/philox.h"

namespace fusedstep {
namespace {

constexpr std::int64_t kDropoutBlocks = 128;  // 2 KiB of bits

// The 16-bit lanes of blocks [block, block + kDropoutBlocks).
struct LaneBuffer {
  alignas(64) std::uint16_t lanes[kDropoutBlocks * kLanesPerBlock];

  void fill(std::uint64_t block, std::int64_t blocks, DropoutKey key) {
    alignas(64) std::uint32_t words[4][kDropoutBlocks];
#pragma omp simd
    for (std::int64_t i = 0; i < blocks; ++i) {
      std::uint32_t w[4];
      philox(block + static_cast<std::uint64_t>(i), key.offset, key.seed, w);
      words[0][i] = w[0];
      words[1][i] = w[1];
      words[2][i] = w[2];
      words[3][i] = w[3];
    }
    for (std::int64_t i = 0; i < blocks; ++i) {
      for (int j = 0; j < 4; ++j) {
        lanes[i * kLanesPerBlock + 2 * j] = static_cast<std::uint16_t>(words[j][i]);
        lanes[i * kLanesPerBlock + 2 * j + 1] = static_cast<std::uint16_t>(words[j][i] >> 16);
      }
    }
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
    f(i, count, buffer.lanes);
  }
}

// x == y is allowed.
template <bool Relu, class T>
void dropout_range(const T* x, T* y, std::int64_t begin, std::int64_t end, DropoutKey key, T scale) {
  for_lanes(begin, end, key, [&](std::int64_t at, std::int64_t count, const std::uint16_t* lanes) {
    const T* source = x + at;
    T* target = y + at;
    const std::uint32_t threshold = key.threshold;
    const T factor = scale;
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) {
      const T z = Relu ? relu(source[i]) : source[i];
      target[i] = dropout_value(z, lanes[i], threshold, factor);
    }
  });
}

// One row of an array with strides; any first index.
template <bool Relu, class T>
void dropout_strided(const T* x, std::int64_t x_stride, T* y, std::int64_t y_stride, std::int64_t first_index,
                     std::int64_t n, DropoutKey key, T scale) {
  const std::int64_t begin = first_index / kLanesPerBlock * kLanesPerBlock;
  for_lanes(begin, first_index + n, key, [&](std::int64_t at, std::int64_t count, const std::uint16_t* lanes) {
    for (std::int64_t i = at < first_index ? first_index - at : 0; i < count; ++i) {
      const std::int64_t k = at + i - first_index;
      const T z = Relu ? relu(x[k * x_stride]) : x[k * x_stride];
      y[k * y_stride] = dropout_value(z, lanes[i], key.threshold, scale);
    }
  });
}

// `keep` points to index `begin`.
inline void dropout_keep(unsigned char* keep, std::int64_t begin, std::int64_t end, DropoutKey key) {
  for_lanes(begin, end, key, [&](std::int64_t at, std::int64_t count, const std::uint16_t* lanes) {
    unsigned char* target = keep + (at - begin);
    const std::uint32_t threshold = key.threshold;
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) target[i] = lanes[i] >= threshold;
  });
}

template <class T>
void dropout_relu_backward(const T* dy, const T* y, T* dx, std::int64_t n, T scale) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) dx[i] = relu_gradient(dy[i] * scale, y[i]);
}

}  // namespace
}  // namespace fusedstep
