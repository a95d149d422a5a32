// Leaves added as they come. Twin: reference/reduction.py.
#pragma once

#include <cstdint>

#include "hd.h"

namespace fusedstep {
namespace {

// Adds leaves pairwise, neighbours first: a stack of subtrees, merged like the carries of a binary counter, pairs
// the same neighbours as going level by level does.
template <class T>
class PairwiseSum {
 public:
  FUSEDSTEP_HD void add(T leaf) {
    stack_[depth_++] = leaf;
    for (std::int64_t carry = ++leaves_; carry % 2 == 0; carry /= 2) merge_top();
  }
  FUSEDSTEP_HD T total() {
    while (depth_ > 1) merge_top();
    return depth_ == 0 ? T(0) : stack_[0];
  }

 private:
  FUSEDSTEP_HD void merge_top() {
    --depth_;
    stack_[depth_ - 1] += stack_[depth_];
  }
  T stack_[64];
  int depth_ = 0;
  std::int64_t leaves_ = 0;
};

}  // namespace
}  // namespace fusedstep
