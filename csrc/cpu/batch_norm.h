// Batch norm over memory laid out as (outer, channels, inner). Compiled once per instruction set.
#pragma once

#include <cstdint>

#include "../kernels.h"
#include "../math/batch_norm.h"
#include "reduce.h"

namespace fusedstep {
namespace {

// Walks the values [begin, end) of one channel, in logical order, as runs that are contiguous in memory:
// f(first memory index, number of values, number of values before). inner > 1.
template <class F>
FUSEDSTEP_HD void for_channel_runs(ChannelShape s, std::int64_t c, std::int64_t begin, std::int64_t end, F f) {
  for (std::int64_t i = begin; i < end;) {
    const std::int64_t outer = i / s.inner, inside = i % s.inner;
    const std::int64_t run = s.inner - inside < end - i ? s.inner - inside : end - i;
    f((outer * s.channels + c) * s.inner + inside, run, i - begin);
    i += run;
  }
}

// Fills a leaf of the channels [c, c + width) row by row: fill(memory index, count, channel step, buffer offset).
// Channel step 1: the count values belong to neighbouring channels; 0: all to channel c.
template <class F>
FUSEDSTEP_HD void for_leaf_runs(ChannelShape s, std::int64_t c, std::int64_t width, std::int64_t begin,
                                std::int64_t end, F fill) {
  if (s.inner == 1) {
    for (std::int64_t row = begin; row < end; ++row) fill(row * s.channels + c, width, 1, (row - begin) * width);
  } else {
    for_channel_runs(s, c, begin, end,
                     [&](std::int64_t at, std::int64_t run, std::int64_t before) { fill(at, run, 0, before); });
  }
}

struct LeafRange {
  std::int64_t begin, end;
  LeafRange(ChannelShape s, std::int64_t leaf) : begin(leaf * kLeaf), end(begin + kLeaf) {
    if (end > s.count()) end = s.count();
  }
};

FUSEDSTEP_HD std::int64_t leaf_width(ChannelShape s, std::int64_t c, std::int64_t c1) {
  if (s.inner != 1) return 1;
  return c1 - c < kWidth ? c1 - c : kWidth;
}

// buffer - mean, squared
template <class T>
void square_deviations(T* __restrict buffer, std::int64_t rows, std::int64_t width, const T* __restrict mean) {
  if (width == 1) {
    const T m = mean[0];
#pragma omp simd
    for (std::int64_t i = 0; i < rows; ++i) buffer[i] = (buffer[i] - m) * (buffer[i] - m);
    return;
  }
  for (std::int64_t row = 0; row < rows; ++row) {
#pragma omp simd
    for (std::int64_t j = 0; j < width; ++j) {
      const T d = buffer[row * width + j] - mean[j];
      buffer[row * width + j] = d * d;
    }
  }
}

// Mean of x - first value, and sum of squared deviations, of one leaf: two passes over values that stay in the cache.
template <class T>
void moment_leaf(const T* x, ChannelShape s, std::int64_t leaf, std::int64_t c0, std::int64_t c1, T* means,
                 T* squares) {
  alignas(64) T buffer[kLeaf * kWidth];
  alignas(64) T lanes[kLanes * kWidth];
  const LeafRange range(s, leaf);
  const std::int64_t rows = range.end - range.begin;
  for (std::int64_t c = c0; c < c1;) {
    const std::int64_t width = leaf_width(s, c, c1);
    for_leaf_runs(s, c, width, range.begin, range.end,
                  [&](std::int64_t at, std::int64_t count, std::int64_t step, std::int64_t offset) {
                    const T* __restrict source = x + at, * __restrict first = x + c * s.inner;
                    T* __restrict target = buffer + offset;
                    if (step == 1) {
#pragma omp simd
                      for (std::int64_t i = 0; i < count; ++i) target[i] = source[i] - first[i];
                    } else {
                      const T shift = first[0];
#pragma omp simd
                      for (std::int64_t i = 0; i < count; ++i) target[i] = source[i] - shift;
                    }
                  });
    sum_lanes(buffer, rows, width, lanes);
    T* mean = means + leaf * s.channels + c;
    for (std::int64_t j = 0; j < width; ++j) mean[j] = lanes[j] / static_cast<T>(rows);
    square_deviations(buffer, rows, width, mean);
    sum_lanes(buffer, rows, width, lanes);
    for (std::int64_t j = 0; j < width; ++j) squares[leaf * s.channels + c + j] = lanes[j];
    c += width;
  }
}

// Sums over a leaf of t, the gradient behind the ReLU, and of t * xhat.
template <bool Relu, class T>
void gradient_leaf(const T* dy, const T* x, ChannelShape s, std::int64_t leaf, std::int64_t c0, std::int64_t c1,
                   ChannelScalars<T> v, T* sums_t, T* sums_t_xhat) {
  alignas(64) T ts[kLeaf * kWidth];
  alignas(64) T products[kLeaf * kWidth];
  alignas(64) T lanes[kLanes * kWidth];
  const LeafRange range(s, leaf);
  const std::int64_t rows = range.end - range.begin;
  for (std::int64_t c = c0; c < c1;) {
    const std::int64_t width = leaf_width(s, c, c1);
    for_leaf_runs(s, c, width, range.begin, range.end,
                  [&](std::int64_t at, std::int64_t count, std::int64_t step, std::int64_t offset) {
                    const T* __restrict d = dy + at, * __restrict source = x + at;
                    const T* __restrict mean = v.mean + c, * __restrict invstd = v.invstd + c;
                    const T* __restrict weight = v.weight + c, * __restrict bias = v.bias + c;
                    T* __restrict t_out = ts + offset, * __restrict product_out = products + offset;
                    if (step == 1) {
#pragma omp simd
                      for (std::int64_t i = 0; i < count; ++i) {
                        const T xhat = normalized(source[i], mean[i], invstd[i]);
                        t_out[i] = batch_norm_masked<Relu>(d[i], xhat, weight[i], bias[i]);
                        product_out[i] = t_out[i] * xhat;
                      }
                    } else {
                      const T m = mean[0], r = invstd[0], w = weight[0], b = bias[0];
#pragma omp simd
                      for (std::int64_t i = 0; i < count; ++i) {
                        const T xhat = normalized(source[i], m, r);
                        t_out[i] = batch_norm_masked<Relu>(d[i], xhat, w, b);
                        product_out[i] = t_out[i] * xhat;
                      }
                    }
                  });
    sum_lanes(ts, rows, width, lanes);
    for (std::int64_t j = 0; j < width; ++j) sums_t[leaf * s.channels + c + j] = lanes[j];
    sum_lanes(products, rows, width, lanes);
    for (std::int64_t j = 0; j < width; ++j) sums_t_xhat[leaf * s.channels + c + j] = lanes[j];
    c += width;
  }
}

// Walks the memory indices [begin, end) as runs of one channel (step 0) or of neighbouring ones (step 1).
template <class F>
FUSEDSTEP_HD void for_memory_runs(ChannelShape s, std::int64_t begin, std::int64_t end, F f) {
  const std::int64_t period = s.inner == 1 ? s.channels : s.inner;
  for (std::int64_t i = begin; i < end;) {
    const std::int64_t inside = i % period;
    const std::int64_t run = period - inside < end - i ? period - inside : end - i;
    if (s.inner == 1) {
      f(i, run, inside, 1);
    } else {
      f(i, run, (i / s.inner) % s.channels, 0);
    }
    i += run;
  }
}

// x == y is allowed in evaluation, so no __restrict between them; `omp simd` promises independence.
template <bool Relu, class T>
void normalize_range(const T* x, T* y, ChannelShape s, std::int64_t begin, std::int64_t end, ChannelScalars<T> v) {
  for_memory_runs(s, begin, end, [&](std::int64_t at, std::int64_t count, std::int64_t c, int step) {
    const T* source = x + at;
    T* target = y + at;
    const T *mean = v.mean + c, *invstd = v.invstd + c, *weight = v.weight + c, *bias = v.bias + c;
    if (step == 1) {
#pragma omp simd
      for (std::int64_t i = 0; i < count; ++i) {
        target[i] = batch_norm_value<Relu>(source[i], mean[i], invstd[i], weight[i], bias[i]);
      }
    } else {
      const T m = mean[0], r = invstd[0], w = weight[0], b = bias[0];
#pragma omp simd
      for (std::int64_t i = 0; i < count; ++i) target[i] = batch_norm_value<Relu>(source[i], m, r, w, b);
    }
  });
}

// dx == dy is allowed.
template <bool Relu, class T>
void input_gradient_range(const T* dy, const T* x, T* dx, ChannelShape s, std::int64_t begin, std::int64_t end,
                          ChannelScalars<T> v, const T* scale, const T* mean_t, const T* mean_t_xhat) {
  for_memory_runs(s, begin, end, [&](std::int64_t at, std::int64_t count, std::int64_t c, int step) {
    const T *d = dy + at, *source = x + at;
    T* target = dx + at;
    const T *mean = v.mean + c, *invstd = v.invstd + c, *weight = v.weight + c, *bias = v.bias + c, *k = scale + c;
    if (mean_t == nullptr) {
      for (std::int64_t i = 0; i < count; ++i) {
        const std::int64_t j = step * i;
        const T xhat = normalized(source[i], mean[j], invstd[j]);
        target[i] = k[j] * batch_norm_masked<Relu>(d[i], xhat, weight[j], bias[j]);
      }
      return;
    }
    const T *t1 = mean_t + c, *t2 = mean_t_xhat + c;
    if (step == 1) {
#pragma omp simd
      for (std::int64_t i = 0; i < count; ++i) {
        const T xhat = normalized(source[i], mean[i], invstd[i]);
        const T t = batch_norm_masked<Relu>(d[i], xhat, weight[i], bias[i]);
        target[i] = batch_norm_input_gradient(t, xhat, k[i], t1[i], t2[i]);
      }
    } else {
      const T m = mean[0], r = invstd[0], w = weight[0], b = bias[0], k0 = k[0], t10 = t1[0], t20 = t2[0];
#pragma omp simd
      for (std::int64_t i = 0; i < count; ++i) {
        const T xhat = normalized(source[i], m, r);
        target[i] = batch_norm_input_gradient(batch_norm_masked<Relu>(d[i], xhat, w, b), xhat, k0, t10, t20);
      }
    }
  });
}

}  // namespace
}  // namespace fusedstep
