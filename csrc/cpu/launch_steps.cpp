// Launchers of optimizer steps and of the global norm.
#include <algorithm>
#include <cmath>

#include "../launch.h"
#include "dispatch.h"
#include "parallel.h"
#include "tree.h"

namespace fusedstep::launch {

using namespace cpu;

namespace {

// Values a piece: small enough that the average of the weights finds the parameters in the cache.
constexpr std::int64_t kPiece = 16384;

struct Piece {
  std::size_t array;
  std::int64_t begin, end;
};

// All arrays as one list of pieces, so that many small ones and one large one spread over the threads alike.
template <class Arrays>
std::vector<Piece> pieces(const Arrays& arrays) {
  std::vector<Piece> list;
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    for (std::int64_t begin = 0; begin < arrays[i].n; begin += kPiece) {
      list.push_back({i, begin, std::min(arrays[i].n, begin + kPiece)});
    }
  }
  return list;
}

template <class Arrays>
std::int64_t total_size(const Arrays& arrays) {
  std::int64_t total = 0;
  for (const auto& a : arrays) total += a.n;
  return total;
}

// Where the leaves of each array begin in memory for those of all; the last one: how many there are.
template <class Arrays>
std::vector<std::int64_t> first_leaves(const Arrays& arrays) {
  std::vector<std::int64_t> first(arrays.size() + 1, 0);
  for (std::size_t i = 0; i < arrays.size(); ++i) first[i + 1] = first[i] + leaf_count(arrays[i].n);
  return first;
}

// A state from its index `begin` on; null stays null.
template <class S>
S* from(S* state, std::int64_t begin) {
  return state ? state + begin : state;
}

// The scalars of each array: `scalars` with its factor.
template <class P, class S, class A>
std::vector<StepScalars<A>> trusted(const Step& call, const std::vector<StepArrays<P, S>>& arrays,
                                    const std::vector<Piece>& list, std::int64_t bytes, const StepScalars<A>& scalars) {
  const auto leaves_of = kernels().steps<P, S>().trust_leaves[call.rule];
  const std::vector<std::int64_t> first = first_leaves(arrays);
  std::vector<double> leaves(static_cast<std::size_t>(2 * first.back()));
  double* const parameters = leaves.data();
  double* const directions = parameters + first.back();
  parallel_for(static_cast<std::int64_t>(list.size()), bytes, [&](std::int64_t task) {
    const Piece& piece = list[static_cast<std::size_t>(task)];
    const StepArrays<P, S>& a = arrays[piece.array];
    const std::int64_t b = piece.begin, leaf = first[piece.array] + b / kLeaf;
    leaves_of(a.p + b, a.g + b, from(a.states[0], b), from(a.states[1], b), piece.end - b, scalars, parameters + leaf,
              directions + leaf);
  });
  std::vector<StepScalars<A>> each(arrays.size(), scalars);
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    const std::int64_t count = leaf_count(arrays[i].n);
    each[i].trust = static_cast<A>(trust_ratio(call.options.trust, merge_leaves(parameters + first[i], count),
                                               merge_leaves(directions + first[i], count)));
  }
  return each;
}

template <class T>
bool any_nonfinite(const std::vector<Span<T>>& arrays) {
  for (const Span<T>& a : arrays) {
    for (std::int64_t i = 0; i < a.n; ++i) {
      if (!std::isfinite(widen(a.data[i]))) return true;
    }
  }
  return false;
}

}  // namespace

template <class P, class S>
void step(const Context&, const Step& call, const std::vector<StepArrays<P, S>>& arrays) {
  using A = Arithmetic<P>;
  if (call.skip != nullptr && *call.skip != 0) return;
  const StepKernels<P, S>& k = kernels().steps<P, S>();
  const auto range = k.step[call.rule][call.options.l2()];
  const DefaultFloatMode mode;
  const StepScalars<A> scalars = fold<A>(call.options, call.lr.value, call.step.value, call.multiplier.value);
  const A decay = static_cast<A>(call.ema_decay), gain = static_cast<A>(1 - call.ema_decay);
  const std::vector<Piece> list = pieces(arrays);
  std::int64_t bytes_each = 3 * sizeof(P);  // p read and written, g read
  if (!arrays.empty()) {
    for (const S* state : arrays[0].states) bytes_each += state ? 2 * sizeof(S) : 0;
    bytes_each += arrays[0].ema ? 2 * sizeof(S) : 0;
  }
  const std::int64_t bytes = total_size(arrays) * bytes_each;
  std::vector<StepScalars<A>> each;
  if (call.options.trust.adapts) each = trusted(call, arrays, list, bytes, scalars);
  parallel_for(static_cast<std::int64_t>(list.size()), bytes, [&](std::int64_t task) {
    const Piece& piece = list[static_cast<std::size_t>(task)];
    const StepArrays<P, S>& a = arrays[piece.array];
    const std::int64_t b = piece.begin, n = piece.end - b;
    range(a.p + b, a.g + b, from(a.states[0], b), from(a.states[1], b), from(a.states[2], b), n,
          each.empty() ? scalars : each[piece.array]);
    if (a.ema) k.average(a.ema + b, a.p + b, n, decay, gain);
  });
}

template <class T>
void global_norm(const Context&, const std::vector<Span<T>>& arrays, Result norm, std::int32_t* nonfinite) {
  const ValueKernels<T>& k = kernels().values<T>();
  static_assert(kPiece % kLeaf == 0, "pieces begin at leaves");
  const std::vector<std::int64_t> first_leaf = first_leaves(arrays);
  std::vector<double> leaves(static_cast<std::size_t>(first_leaf.back()));
  const std::vector<Piece> list = pieces(arrays);
  const std::int64_t bytes = total_size(arrays) * static_cast<std::int64_t>(sizeof(T));
  parallel_for(static_cast<std::int64_t>(list.size()), bytes, [&](std::int64_t task) {
    const Piece& piece = list[static_cast<std::size_t>(task)];
    k.square_leaves(arrays[piece.array].data + piece.begin, piece.end - piece.begin,
                    leaves.data() + first_leaf[piece.array] + piece.begin / kLeaf);
  });
  const DefaultFloatMode mode;
  double total = 0;
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    total = total + merge_leaves(leaves.data() + first_leaf[i], leaf_count(arrays[i].n));
  }
  const double root = std::sqrt(total);
  if (norm.is_double) {
    *static_cast<double*>(norm.data) = root;
  } else {
    *static_cast<float*>(norm.data) = static_cast<float>(root);
  }
  // Squares of finite float64 values may overflow, so only the values themselves tell.
  if (nonfinite != nullptr) *nonfinite = std::isfinite(root) ? 0 : any_nonfinite(arrays);
}

void prepare_step(const Context&, const PrepareStep& call) { count_step(call, call.grad_multiplier.value); }

FUSEDSTEP_STEP_TYPES(FUSEDSTEP_INSTANTIATE_STEPS)
FUSEDSTEP_TYPES(FUSEDSTEP_INSTANTIATE_NORM)

}  // namespace fusedstep::launch
