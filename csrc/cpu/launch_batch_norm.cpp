// Launchers of batch norm.
#include <algorithm>
#include <vector>

#include "../launch.h"
#include "../math/batch_norm.h"
#include "../math/philox.h"
#include "dispatch.h"
#include "parallel.h"
#include "stream.h"
#include "tree.h"

namespace fusedstep::launch {

using namespace cpu;

namespace {

constexpr std::int64_t kPiece = 16384;  // memory indices a task

// Channels and leaves a task: what neighbouring channels have in one page is read while it is at hand.
struct Task {
  std::int64_t channels, leaves;
};
constexpr Task kRows{kWidth, 16}, kPlanes{16, 16};

// leaf_task(leaf0, leaf1, c0, c1) over all leaves and channels, then channel_task(c0, c1) over the channels.
template <class T, class LeafTask, class ChannelTask>
void reduce(ChannelShape s, int arrays, const LeafTask& leaf_task, const ChannelTask& channel_task) {
  const std::int64_t leaves = leaf_count(s.count());
  const Task size = s.inner == 1 ? kRows : kPlanes;
  const std::int64_t blocks = (s.channels + size.channels - 1) / size.channels;
  const std::int64_t groups = (leaves + size.leaves - 1) / size.leaves;
  const std::int64_t bytes = arrays * s.size() * static_cast<std::int64_t>(sizeof(T));
  parallel_for(blocks * groups, bytes, [&](std::int64_t task) {
    const std::int64_t c0 = task % blocks * size.channels, leaf0 = task / blocks * size.leaves;
    leaf_task(leaf0, std::min(leaves, leaf0 + size.leaves), c0, std::min(s.channels, c0 + size.channels));
  });
  const std::int64_t merged = 2 * leaves * s.channels * static_cast<std::int64_t>(sizeof(T));
  parallel_ranges(s.channels, kWidth, merged, channel_task);
}

// What the value kernels read for each channel, with 1 and 0 where there is no weight or bias.
template <class T>
struct Vectors {
  using A = Arithmetic<T>;
  std::vector<A> storage;
  ChannelScalars<A> scalars;

  explicit Vectors(const BatchNorm<T>& call) : storage(static_cast<std::size_t>(3 * call.shape.channels)) {
    const std::int64_t channels = call.shape.channels;
    A *invstd = storage.data(), *weight = invstd + channels, *bias = weight + channels;
    const DefaultFloatMode mode;
    for (std::int64_t c = 0; c < channels; ++c) {
      invstd[c] = inverse_std(call.var[c], static_cast<A>(call.eps));
      weight[c] = call.weight ? call.weight.get(c) : A(1);
      bias[c] = call.bias ? call.bias.get(c) : A(0);
    }
    scalars = {call.mean, invstd, weight, bias};
  }
};

template <class T>
void batch_moments(const BatchNorm<T>& call, const T* x) {
  using A = Arithmetic<T>;
  const ValueKernels<T>& k = kernels().values<T>();
  const ChannelShape s = call.shape;
  const std::int64_t leaves = leaf_count(s.count()), count = s.count();
  std::vector<A> means(static_cast<std::size_t>(leaves * s.channels)), squares(means.size());
  A *m = means.data(), *q = squares.data();
  reduce<T>(
      s, 1,
      [&](std::int64_t leaf0, std::int64_t leaf1, std::int64_t c0, std::int64_t c1) {
        k.moment_leaves(x, s, leaf0, leaf1, c0, c1, m, q);
      },
      [&](std::int64_t c0, std::int64_t c1) {
        for_merges(leaves, [&](std::int64_t left, std::int64_t right, std::int64_t span) {
          const std::int64_t right_count = std::min(span * kLeaf, count - right * kLeaf);
          for (std::int64_t c = c0; c < c1; ++c) {
            merge_moments(span * kLeaf, m[left * s.channels + c], q[left * s.channels + c], right_count,
                          m[right * s.channels + c], q[right * s.channels + c]);
          }
        });
        for (std::int64_t c = c0; c < c1; ++c) finish_moments(call, c, widen(x[c * s.inner]), m[c], q[c]);
      });
}

}  // namespace

template <class T>
void batch_norm(const Context&, const BatchNorm<T>& call, const T* x, T* y) {
  const ValueKernels<T>& k = kernels().values<T>();
  const ChannelShape s = call.shape;
  if (call.training) {
    batch_moments(call, x);
  } else {
    for (std::int64_t c = 0; c < s.channels; ++c) {
      call.mean[c] = call.running_mean.get(c);
      call.var[c] = call.running_var.get(c);
    }
  }
  const Vectors<T> vectors(call);
  const std::int64_t bytes = s.size() * static_cast<std::int64_t>(sizeof(T));
  if (call.dropout == nullptr) {
    const bool streamed = x != y && is_streamed(y, bytes);
    const auto normalize = streamed ? k.normalize_streamed[call.relu] : k.normalize[call.relu];
    parallel_ranges(s.size(), streamed ? kStreamPiece : kPiece, 2 * bytes,
                    [&](std::int64_t begin, std::int64_t end) { normalize(x, y, s, begin, end, vectors.scalars); });
    return;
  }
  const std::uint32_t threshold = dropout_threshold(call.dropout->p);
  const DropoutKey key{call.dropout->seed, call.dropout->offset.value, threshold};
  const auto scale = static_cast<Arithmetic<T>>(dropout_scale(threshold));
  // Dropout follows piece by piece, while the values are in the cache.
  parallel_ranges(s.size(), kPiece, 2 * bytes, [&](std::int64_t begin, std::int64_t end) {
    k.normalize[call.relu](x, y, s, begin, end, vectors.scalars);
    k.dropout[0](y, y, begin, end, key, scale);
  });
}

template <class T>
void batch_norm_backward(const Context& context, const BatchNorm<T>& call, const T* dy, const T* x, T* dx,
                         ChannelVector<T> dweight, ChannelVector<T> dbias) {
  using A = Arithmetic<T>;
  const ValueKernels<T>& k = kernels().values<T>();
  const ChannelShape s = call.shape;
  if (call.dropout != nullptr) {
    dropout(context, dy, dx, s.size(), *call.dropout, false);
    dy = dx;
  }
  const Vectors<T> vectors(call);
  const std::int64_t leaves = leaf_count(s.count());
  std::vector<A> sums_t(static_cast<std::size_t>(leaves * s.channels)), sums_t_xhat(sums_t.size());
  std::vector<A> scale(static_cast<std::size_t>(s.channels)), mean_t(scale.size()), mean_t_xhat(scale.size());
  const A n = static_cast<A>(s.count());
  reduce<T>(
      s, 2,
      [&](std::int64_t leaf0, std::int64_t leaf1, std::int64_t c0, std::int64_t c1) {
        k.gradient_leaves[call.relu](dy, x, s, leaf0, leaf1, c0, c1, vectors.scalars, sums_t.data(),
                                     sums_t_xhat.data());
      },
      [&](std::int64_t c0, std::int64_t c1) {
        merge_leaf_columns(sums_t.data(), leaves, s.channels, c0, c1);
        merge_leaf_columns(sums_t_xhat.data(), leaves, s.channels, c0, c1);
        for (std::int64_t c = c0; c < c1; ++c) {
          const auto i = static_cast<std::size_t>(c);
          const A sum_t = leaves ? sums_t[i] : A(0), sum_t_xhat = leaves ? sums_t_xhat[i] : A(0);
          dbias.set(c, sum_t);
          dweight.set(c, sum_t_xhat);
          scale[i] = vectors.scalars.weight[c] * vectors.scalars.invstd[c];
          mean_t[i] = sum_t / n;
          mean_t_xhat[i] = sum_t_xhat / n;
        }
      });
  const std::int64_t bytes = s.size() * static_cast<std::int64_t>(sizeof(T));
  const bool streamed = dx != dy && is_streamed(dx, bytes);
  const auto input_gradient = streamed ? k.input_gradient_streamed[call.relu] : k.input_gradient[call.relu];
  const A* t1 = call.training ? mean_t.data() : nullptr;
  const A* t2 = call.training ? mean_t_xhat.data() : nullptr;
  parallel_ranges(s.size(), streamed ? kStreamPiece : kPiece, 3 * bytes, [&](std::int64_t begin, std::int64_t end) {
    input_gradient(dy, x, dx, s, begin, end, vectors.scalars, scale.data(), t1, t2);
  });
}

FUSEDSTEP_TYPES(FUSEDSTEP_INSTANTIATE_BATCH_NORM)

}  // namespace fusedstep::launch
