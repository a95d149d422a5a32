// Batch norm over memory laid out as (outer, channels, inner). Compiled once per instruction set.
#pragma once

#include <cstdint>

#include "../kernels.h"
#include "../math/batch_norm.h"
#include "../math/half.h"
#include "reduce.h"

namespace fusedstep {
namespace {

struct LeafRange {
  std::int64_t begin, end;
  LeafRange(ChannelShape s, std::int64_t leaf) : begin(leaf * kLeaf), end(begin + kLeaf) {
    if (end > s.count()) end = s.count();
  }
  std::int64_t count() const { return end - begin; }
};

// Walks a leaf of channel c, in logical order, as runs that are contiguous in memory:
// f(first memory index, number of values, number of values before).
template <class F>
FUSEDSTEP_HD void for_channel_runs(ChannelShape s, std::int64_t c, LeafRange leaf, F f) {
  for (std::int64_t i = leaf.begin; i < leaf.end;) {
    const std::int64_t outer = i / s.inner, inside = i % s.inner;
    const std::int64_t run = s.inner - inside < leaf.end - i ? s.inner - inside : leaf.end - i;
    f((outer * s.channels + c) * s.inner + inside, run, i - leaf.begin);
    i += run;
  }
}

// Mean of x - first value, and sum of squared deviations, of one leaf: two passes over values that stay in the cache.
// Here for the planes of one channel ...
template <class T>
void moment_leaf_of_planes(const T* x, ChannelShape s, LeafRange leaf, std::int64_t c, Arithmetic<T>* mean,
                           Arithmetic<T>* squares) {
  using A = Arithmetic<T>;
  alignas(64) A buffer[kLeaf] = {};
  const A first = widen(x[c * s.inner]);
  for_channel_runs(s, c, leaf, [&](std::int64_t at, std::int64_t count, std::int64_t before) {
    const T* __restrict source = x + at;
    A* __restrict target = buffer + before;
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) target[i] = widen(source[i]) - first;
  });
  const A m = sum_leaf(buffer, leaf.count()) / static_cast<A>(leaf.count());
#pragma omp simd
  for (std::int64_t i = 0; i < leaf.count(); ++i) buffer[i] = (buffer[i] - m) * (buffer[i] - m);
  *mean = m;
  *squares = sum_leaf(buffer, leaf.count());
}

// ... and for rows of up to kWidth channels.
template <class T>
void moment_leaf_of_rows(const T* x, ChannelShape s, LeafRange leaf, std::int64_t c, std::int64_t width,
                         Arithmetic<T>* __restrict means, Arithmetic<T>* __restrict squares) {
  using A = Arithmetic<T>;
  const T* __restrict first = x + c;
  RowLanes<A> sums(width), sums_of_squares(width);
  for (std::int64_t row = leaf.begin; row < leaf.end; ++row) {
    const T* __restrict source = x + row * s.channels + c;
    A* __restrict lane = sums.of(row);
#pragma omp simd
    for (std::int64_t j = 0; j < width; ++j) lane[j] += widen(source[j]) - widen(first[j]);
  }
  sums.fold(means);
  for (std::int64_t j = 0; j < width; ++j) means[j] = means[j] / static_cast<A>(leaf.count());
  for (std::int64_t row = leaf.begin; row < leaf.end; ++row) {
    const T* __restrict source = x + row * s.channels + c;
    A* __restrict lane = sums_of_squares.of(row);
#pragma omp simd
    for (std::int64_t j = 0; j < width; ++j) {
      const A d = (widen(source[j]) - widen(first[j])) - means[j];
      lane[j] += d * d;
    }
  }
  sums_of_squares.fold(squares);
}

template <class T>
void moment_leaf(const T* x, ChannelShape s, std::int64_t leaf, std::int64_t c0, std::int64_t c1, Arithmetic<T>* means,
                 Arithmetic<T>* squares) {
  const std::int64_t at = leaf * s.channels;
  if (s.inner == 1)
    return moment_leaf_of_rows(x, s, LeafRange(s, leaf), c0, c1 - c0, means + at + c0, squares + at + c0);
  for (std::int64_t c = c0; c < c1; ++c) {
    moment_leaf_of_planes(x, s, LeafRange(s, leaf), c, means + at + c, squares + at + c);
  }
}

// Sums over a leaf of t, the gradient behind the ReLU, and of t * xhat: for the planes of one channel ...
template <bool Relu, class T>
void gradient_leaf_of_planes(const T* dy, const T* x, ChannelShape s, LeafRange leaf, std::int64_t c,
                             ChannelScalars<Arithmetic<T>> v, Arithmetic<T>* sum_t, Arithmetic<T>* sum_t_xhat) {
  using A = Arithmetic<T>;
  alignas(64) A ts[kLeaf];
  alignas(64) A products[kLeaf];
  const A mean = v.mean[c], invstd = v.invstd[c], weight = v.weight[c], bias = v.bias[c];
  for_channel_runs(s, c, leaf, [&](std::int64_t at, std::int64_t count, std::int64_t before) {
    const T* __restrict d = dy + at, * __restrict source = x + at;
    A* __restrict t = ts + before, * __restrict product = products + before;
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) {
      const A xhat = normalized(widen(source[i]), mean, invstd);
      t[i] = batch_norm_masked<Relu>(widen(d[i]), xhat, weight, bias);
      product[i] = t[i] * xhat;
    }
  });
  *sum_t = sum_leaf(ts, leaf.count());
  *sum_t_xhat = sum_leaf(products, leaf.count());
}

// ... and for rows of up to kWidth channels.
template <bool Relu, class T>
void gradient_leaf_of_rows(const T* dy, const T* x, ChannelShape s, LeafRange leaf, std::int64_t c, std::int64_t width,
                           ChannelScalars<Arithmetic<T>> v, Arithmetic<T>* sums_t, Arithmetic<T>* sums_t_xhat) {
  using A = Arithmetic<T>;
  const A* __restrict mean = v.mean + c, * __restrict invstd = v.invstd + c;
  const A* __restrict weight = v.weight + c, * __restrict bias = v.bias + c;
  RowLanes<A> ts(width), products(width);
  for (std::int64_t row = leaf.begin; row < leaf.end; ++row) {
    const T* __restrict d = dy + row * s.channels + c, * __restrict source = x + row * s.channels + c;
    A* __restrict t_lane = ts.of(row), * __restrict product_lane = products.of(row);
#pragma omp simd
    for (std::int64_t j = 0; j < width; ++j) {
      const A xhat = normalized(widen(source[j]), mean[j], invstd[j]);
      const A t = batch_norm_masked<Relu>(widen(d[j]), xhat, weight[j], bias[j]);
      t_lane[j] += t;
      product_lane[j] += t * xhat;
    }
  }
  ts.fold(sums_t);
  products.fold(sums_t_xhat);
}

template <bool Relu, class T>
void gradient_leaf(const T* dy, const T* x, ChannelShape s, std::int64_t leaf, std::int64_t c0, std::int64_t c1,
                   ChannelScalars<Arithmetic<T>> v, Arithmetic<T>* sums_t, Arithmetic<T>* sums_t_xhat) {
  const LeafRange range(s, leaf);
  Arithmetic<T>*t = sums_t + leaf * s.channels, *product = sums_t_xhat + leaf * s.channels;
  if (s.inner == 1) return gradient_leaf_of_rows<Relu>(dy, x, s, range, c0, c1 - c0, v, t + c0, product + c0);
  for (std::int64_t c = c0; c < c1; ++c) gradient_leaf_of_planes<Relu>(dy, x, s, range, c, v, t + c, product + c);
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
void normalize_range(const T* x, T* y, ChannelShape s, std::int64_t begin, std::int64_t end,
                     ChannelScalars<Arithmetic<T>> v) {
  using A = Arithmetic<T>;
  for_memory_runs(s, begin, end, [&](std::int64_t at, std::int64_t count, std::int64_t c, int step) {
    const T* source = x + at;
    T* target = y + at;
    const A *mean = v.mean + c, *invstd = v.invstd + c, *weight = v.weight + c, *bias = v.bias + c;
    if (step == 1) {
#pragma omp simd
      for (std::int64_t i = 0; i < count; ++i) {
        target[i] = narrow<T>(batch_norm_value<Relu>(widen(source[i]), mean[i], invstd[i], weight[i], bias[i]));
      }
    } else {
      const A m = mean[0], r = invstd[0], w = weight[0], b = bias[0];
#pragma omp simd
      for (std::int64_t i = 0; i < count; ++i) {
        target[i] = narrow<T>(batch_norm_value<Relu>(widen(source[i]), m, r, w, b));
      }
    }
  });
}

// dx == dy is allowed.
template <bool Relu, class T>
void input_gradient_range(const T* dy, const T* x, T* dx, ChannelShape s, std::int64_t begin, std::int64_t end,
                          ChannelScalars<Arithmetic<T>> v, const Arithmetic<T>* scale, const Arithmetic<T>* mean_t,
                          const Arithmetic<T>* mean_t_xhat) {
  using A = Arithmetic<T>;
  for_memory_runs(s, begin, end, [&](std::int64_t at, std::int64_t count, std::int64_t c, int step) {
    const T *d = dy + at, *source = x + at;
    T* target = dx + at;
    const A *mean = v.mean + c, *invstd = v.invstd + c, *weight = v.weight + c, *bias = v.bias + c, *k = scale + c;
    if (mean_t == nullptr) {
      for (std::int64_t i = 0; i < count; ++i) {
        const std::int64_t j = step * i;
        const A xhat = normalized(widen(source[i]), mean[j], invstd[j]);
        target[i] = narrow<T>(k[j] * batch_norm_masked<Relu>(widen(d[i]), xhat, weight[j], bias[j]));
      }
      return;
    }
    const A *t1 = mean_t + c, *t2 = mean_t_xhat + c;
    if (step == 1) {
#pragma omp simd
      for (std::int64_t i = 0; i < count; ++i) {
        const A xhat = normalized(widen(source[i]), mean[i], invstd[i]);
        const A t = batch_norm_masked<Relu>(widen(d[i]), xhat, weight[i], bias[i]);
        target[i] = narrow<T>(batch_norm_input_gradient(t, xhat, k[i], t1[i], t2[i]));
      }
    } else {
      const A m = mean[0], r = invstd[0], w = weight[0], b = bias[0], k0 = k[0], t10 = t1[0], t20 = t2[0];
#pragma omp simd
      for (std::int64_t i = 0; i < count; ++i) {
        const A xhat = normalized(widen(source[i]), m, r);
        const A t = batch_norm_masked<Relu>(widen(d[i]), xhat, w, b);
        target[i] = narrow<T>(batch_norm_input_gradient(t, xhat, k0, t10, t20));
      }
    }
  });
}

}  // namespace
}  // namespace fusedstep
