// Merging leaves: neighbours first, level by level; one without a partner moves up as it is.
#pragma once

#include <cstdint>

#include "../kernels.h"

namespace fusedstep::cpu {

// merge(left, right, span): node `right` into node `left`, each of `span` leaves (the last one maybe fewer). Node
// numbers are those of their first leaves. The result ends in node 0.
template <class F>
void for_merges(std::int64_t leaves, const F& merge) {
  for (std::int64_t span = 1; span < leaves; span *= 2) {
    for (std::int64_t left = 0; left + span < leaves; left += 2 * span) merge(left, left + span, span);
  }
}

// The sum of `leaves` values, which are overwritten; 0 for none.
inline double merge_leaves(double* values, std::int64_t leaves) {
  if (leaves == 0) return 0;
  for_merges(leaves, [&](std::int64_t left, std::int64_t right, std::int64_t) { values[left] += values[right]; });
  return values[0];
}

// The same for rows of `columns` values, the columns [c0, c1) of them.
template <class T>
void merge_leaf_columns(T* values, std::int64_t leaves, std::int64_t columns, std::int64_t c0, std::int64_t c1) {
  for_merges(leaves, [&](std::int64_t left, std::int64_t right, std::int64_t) {
    for (std::int64_t c = c0; c < c1; ++c) values[left * columns + c] += values[right * columns + c];
  });
}

}  // namespace fusedstep::cpu
