// Batch norm over memory laid out as (outer, channels, inner). Compiled once per instruction set.
#pragma once

#include <cstdint>

#include "../kernels.h"
#include "../math/batch_norm.h"
#include "../math/half.h"
#include "line.h"
#include "reduce.h"
#include "stream.h"

namespace fusedstep {
namespace {

struct LeafRange {
  std::int64_t begin, end;
  LeafRange(ChannelShape s, std::int64_t leaf) : begin(leaf * kLeaf), end(begin + kLeaf) {
    if (end > s.count()) end = s.count();
  }
  std::int64_t count() const { return end - begin; }
};

// The planes of channel c as one row of values, in logical order.
template <class T>
struct Planes {
  const T* x;
  ChannelShape shape;
  std::int64_t c;

  // A leaf, side by side: where it lies if that is in one plane, else copied to `buffer`.
  const T* leaf(LeafRange leaf, T* buffer) const {
    std::int64_t outer = leaf.begin / shape.inner, inside = leaf.begin % shape.inner;
    if (inside + leaf.count() <= shape.inner) return plane(outer) + inside;
    for (std::int64_t i = 0; i < leaf.count(); ++outer, inside = 0) {
      const std::int64_t rest = leaf.count() - i, run = shape.inner - inside < rest ? shape.inner - inside : rest;
      const T* __restrict source = plane(outer) + inside;
      for (std::int64_t k = 0; k < run; ++k) buffer[i + k] = source[k];
      i += run;
    }
    return buffer;
  }

 private:
  const T* plane(std::int64_t outer) const { return x + (outer * shape.channels + c) * shape.inner; }
};

// Asks for the lines of [first, last).
template <class T>
void prefetch(const T* first, const T* last) {
  for (; first < last; first += kLine<T>) prefetch_line(first);
}

// Leaves of planes whose moments are found together.
constexpr int kTogether = 4;

// Mean of x - first value, and sum of squared deviations, of leaves: two passes over values that stay in the cache.
// Here for the planes of one channel, kTogether leaves pass by pass: within one leaf, the second pass waits for the
// end of the first, and the processor has too little to do and to load meanwhile ...
template <class T>
void moment_leaves_of_planes(const T* x, ChannelShape s, std::int64_t leaf0, std::int64_t leaf1, std::int64_t c,
                             Arithmetic<T>* means, Arithmetic<T>* squares) {
  using A = Arithmetic<T>;
  alignas(64) T buffers[kTogether][kLeaf];
  const T* leaves[kTogether];
  const Planes<T> planes{x, s, c};
  const A first = widen(x[c * s.inner]);
  for (std::int64_t begin = leaf0; begin < leaf1; begin += kTogether) {
    const std::int64_t end = leaf1 - begin < kTogether ? leaf1 : begin + kTogether;
    for (std::int64_t leaf = begin; leaf < end; ++leaf) {
      const LeafRange range(s, leaf);
      const T* __restrict values = leaves[leaf - begin] = planes.leaf(range, buffers[leaf - begin]);
      Lanes<A> lanes;
      for_lanes_of_leaf(range.count(), [&, values, first](std::int64_t i, std::int64_t j) {
        lanes.values[j] += widen(values[i]) - first;
      });
      means[leaf * s.channels + c] = lanes.fold() / static_cast<A>(range.count());
    }
    for (std::int64_t leaf = begin; leaf < end; ++leaf) {
      const T* __restrict values = leaves[leaf - begin];
      const A mean = means[leaf * s.channels + c];
      Lanes<A> lanes;
      for_lanes_of_leaf(LeafRange(s, leaf).count(), [&, values, first, mean](std::int64_t i, std::int64_t j) {
        const A d = (widen(values[i]) - first) - mean;
        lanes.values[j] += d * d;
      });
      squares[leaf * s.channels + c] = lanes.fold();
    }
  }
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
void moment_leaves(const T* x, ChannelShape s, std::int64_t leaf0, std::int64_t leaf1, std::int64_t c0, std::int64_t c1,
                   Arithmetic<T>* means, Arithmetic<T>* squares) {
  if (s.inner != 1) {
    for (std::int64_t c = c0; c < c1; ++c) moment_leaves_of_planes(x, s, leaf0, leaf1, c, means, squares);
    return;
  }
  for (std::int64_t leaf = leaf0; leaf < leaf1; ++leaf) {
    const std::int64_t at = leaf * s.channels + c0;
    moment_leaf_of_rows(x, s, LeafRange(s, leaf), c0, c1 - c0, means + at, squares + at);
  }
}

// Sums over a leaf of t, the gradient behind the ReLU, and of t * xhat: for the planes of one channel ...
template <bool Relu, class T>
void gradient_leaf_of_planes(const T* dy, const T* x, ChannelShape s, LeafRange leaf, std::int64_t c,
                             ChannelScalars<Arithmetic<T>> v, Arithmetic<T>* sum_t, Arithmetic<T>* sum_t_xhat) {
  using A = Arithmetic<T>;
  alignas(64) T dy_buffer[kLeaf];
  alignas(64) T x_buffer[kLeaf];
  const T* __restrict d = Planes<T>{dy, s, c}.leaf(leaf, dy_buffer);
  const T* __restrict source = Planes<T>{x, s, c}.leaf(leaf, x_buffer);
  const A mean = v.mean[c], invstd = v.invstd[c], weight = v.weight[c], bias = v.bias[c];
  Lanes<A> ts, products;
  const auto add = [&, d, source, mean, invstd, weight, bias](std::int64_t i, std::int64_t j) {
    const A xhat = normalized(widen(source[i]), mean, invstd);
    const A t = batch_norm_masked<Relu>(widen(d[i]), xhat, weight, bias);
    ts.values[j] += t;
    products.values[j] += t * xhat;
  };
  // Of the next leaf, which mostly lies behind this one.
  const auto ask = [d, source](std::int64_t k) {
    prefetch(d + kLeaf + k, d + kLeaf + k + kLanes);
    prefetch(source + kLeaf + k, source + kLeaf + k + kLanes);
  };
  for_lanes_of_leaf(leaf.count(), add, ask);
  *sum_t = ts.fold();
  *sum_t_xhat = products.fold();
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
void gradient_leaves(const T* dy, const T* x, ChannelShape s, std::int64_t leaf0, std::int64_t leaf1, std::int64_t c0,
                     std::int64_t c1, ChannelScalars<Arithmetic<T>> v, Arithmetic<T>* sums_t,
                     Arithmetic<T>* sums_t_xhat) {
  const auto at = [s](std::int64_t leaf, std::int64_t c) { return leaf * s.channels + c; };
  if (s.inner == 1) {
    for (std::int64_t leaf = leaf0; leaf < leaf1; ++leaf) {
      gradient_leaf_of_rows<Relu>(dy, x, s, LeafRange(s, leaf), c0, c1 - c0, v, sums_t + at(leaf, c0),
                                  sums_t_xhat + at(leaf, c0));
    }
    return;
  }
  for (std::int64_t c = c0; c < c1; ++c) {
    for (std::int64_t leaf = leaf0; leaf < leaf1; ++leaf) {
      gradient_leaf_of_planes<Relu>(dy, x, s, LeafRange(s, leaf), c, v, sums_t + at(leaf, c),
                                    sums_t_xhat + at(leaf, c));
    }
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

// f(from, to, piece) makes the values [from, to) of y in a piece of kPiece that lies in the cache, and they are
// streamed. While a long piece is stored, nothing is loaded.
template <std::int64_t kPiece, class T, class F>
FUSEDSTEP_HD void stream_range(T* y, std::int64_t begin, std::int64_t end, F f) {
  alignas(64) T piece[kPiece];
  std::int64_t size = values_before_line(y + begin);
  if (size == 0) size = kPiece;
  for (std::int64_t from = begin; from < end; from += size, size = kPiece) {
    const std::int64_t count = end - from < size ? end - from : size;
    f(from, from + count, piece);
    stream(piece, y + from, count);
  }
  stream_fence();
}

// y points to index `begin`. It may be x in evaluation, so no __restrict between them; `omp simd` promises
// independence.
template <bool Relu, class T>
void normalize_to(T* y, const T* x, ChannelShape s, std::int64_t begin, std::int64_t end,
                  ChannelScalars<Arithmetic<T>> v) {
  using A = Arithmetic<T>;
  for_memory_runs(s, begin, end, [&](std::int64_t at, std::int64_t count, std::int64_t c, int step) {
    const T* source = x + at;
    T* target = y + (at - begin);
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

template <bool Relu, class T>
void normalize_range(const T* x, T* y, ChannelShape s, std::int64_t begin, std::int64_t end,
                     ChannelScalars<Arithmetic<T>> v) {
  normalize_to<Relu>(y + begin, x, s, begin, end, v);
}

template <bool Relu, class T>
void normalize_streamed(const T* x, T* y, ChannelShape s, std::int64_t begin, std::int64_t end,
                        ChannelScalars<Arithmetic<T>> v) {
  stream_range<512>(y, begin, end, [&](std::int64_t from, std::int64_t to, T* piece) {
    normalize_to<Relu>(piece, x, s, from, to, v);
  });
}

// dx points to index `begin`; it may be dy.
template <bool Relu, class T>
void input_gradient_to(T* dx, const T* dy, const T* x, ChannelShape s, std::int64_t begin, std::int64_t end,
                       ChannelScalars<Arithmetic<T>> v, const Arithmetic<T>* scale, const Arithmetic<T>* mean_t,
                       const Arithmetic<T>* mean_t_xhat) {
  using A = Arithmetic<T>;
  for_memory_runs(s, begin, end, [&](std::int64_t at, std::int64_t count, std::int64_t c, int step) {
    const T *d = dy + at, *source = x + at;
    T* target = dx + (at - begin);
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

template <bool Relu, class T>
void input_gradient_range(const T* dy, const T* x, T* dx, ChannelShape s, std::int64_t begin, std::int64_t end,
                          ChannelScalars<Arithmetic<T>> v, const Arithmetic<T>* scale, const Arithmetic<T>* mean_t,
                          const Arithmetic<T>* mean_t_xhat) {
  input_gradient_to<Relu>(dx + begin, dy, x, s, begin, end, v, scale, mean_t, mean_t_xhat);
}

template <bool Relu, class T>
void input_gradient_streamed(const T* dy, const T* x, T* dx, ChannelShape s, std::int64_t begin, std::int64_t end,
                             ChannelScalars<Arithmetic<T>> v, const Arithmetic<T>* scale, const Arithmetic<T>* mean_t,
                             const Arithmetic<T>* mean_t_xhat) {
  stream_range<256>(dx, begin, end, [&](std::int64_t from, std::int64_t to, T* piece) {
    const std::int64_t next = end - to < to - from ? end : to + (to - from);
    prefetch(x + to, x + next);
    prefetch(dy + to, dy + next);
    input_gradient_to<Relu>(piece, dy, x, s, from, to, v, scale, mean_t, mean_t_xhat);
  });
}

}  // namespace
}  // namespace fusedstep
