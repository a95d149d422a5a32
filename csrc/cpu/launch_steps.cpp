// Launchers of optimizer steps and of the global norm.
#include <algorithm>
#include <cmath>

#include "dispatch.h"
#include "launch.h"
#include "parallel.h"
#include "tree.h"

namespace fusedstep::cpu {
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

}  // namespace

template <class T>
void step(Rule rule, bool l2, const std::vector<StepArrays<T>>& arrays, const StepScalars<T>& scalars,
          double ema_decay) {
  const KernelsOf<T>& k = kernels().of<T>();
  const auto range = k.step[rule][l2];
  const T decay = static_cast<T>(ema_decay), gain = static_cast<T>(1 - ema_decay);
  const std::vector<Piece> list = pieces(arrays);
  int streams = 3;  // p read and written, g read
  if (!arrays.empty()) {
    for (const T* state : arrays[0].states) streams += state ? 2 : 0;
    streams += arrays[0].ema ? 2 : 0;
  }
  const std::int64_t bytes = total_size(arrays) * streams * static_cast<std::int64_t>(sizeof(T));
  parallel_for(static_cast<std::int64_t>(list.size()), bytes, [&](std::int64_t task) {
    const Piece& piece = list[static_cast<std::size_t>(task)];
    const StepArrays<T>& a = arrays[piece.array];
    const std::int64_t b = piece.begin, n = piece.end - b;
    auto at = [b](auto* pointer) { return pointer ? pointer + b : pointer; };
    range(a.p + b, a.g + b, at(a.states[0]), at(a.states[1]), at(a.states[2]), n, scalars);
    if (a.ema) k.average(a.ema + b, a.p + b, n, decay, gain);
  });
}

template <class T>
double global_norm(const std::vector<Span<T>>& arrays) {
  const KernelsOf<T>& k = kernels().of<T>();
  static_assert(kPiece % kLeaf == 0, "pieces begin at leaves");
  std::vector<std::int64_t> first_leaf(arrays.size() + 1, 0);
  for (std::size_t i = 0; i < arrays.size(); ++i) first_leaf[i + 1] = first_leaf[i] + leaf_count(arrays[i].n);
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
  return std::sqrt(total);
}

#define FUSEDSTEP_INSTANTIATE(T)                                                                       \
  template void step<T>(Rule, bool, const std::vector<StepArrays<T>>&, const StepScalars<T>&, double); \
  template double global_norm<T>(const std::vector<Span<T>>&);
FUSEDSTEP_INSTANTIATE(float)
FUSEDSTEP_INSTANTIATE(double)

}  // namespace fusedstep::cpu
