// Losses and their gradients, a warp a row. Nothing is refused here, as the host does not wait: what is out of range
// becomes NaN.
#include "../math/losses.h"
#include "../math/pairwise.h"
#include "reduce.cuh"

namespace fusedstep {
namespace cuda {
namespace {

constexpr int kRowsPerBlock = kThreads / kWarp;
constexpr int kSumThreads = 1024;

// What the values of all rows are divided by, and the weight of each.
struct RowWeights {
  const double* weights;      // or null
  const double* denominator;  // on the device

  template <class T>
  __device__ __forceinline__ T scale(std::int64_t row) const {
    return static_cast<T>(weights != nullptr ? weights[row] / *denominator : 1 / *denominator);
  }
};

// denominator = sum(weights) * elements, or rows * elements; one block.
__global__ void __launch_bounds__(kSumThreads)
    find_denominator(const double* weights, std::int64_t rows, double elements, double* leaves, double* denominator) {
  if (weights != nullptr) sum_values(weights, rows, leaves);
  if (threadIdx.x == 0) *denominator = (weights != nullptr ? leaves[0] : static_cast<double>(rows)) * elements;
}

// The mean of the rows' values; one block.
__global__ void __launch_bounds__(kSumThreads)
    mean_of_rows(double* values, std::int64_t rows, RowWeights by, double* leaves, double* mean) {
  if (by.weights != nullptr) {
    for (std::int64_t row = threadIdx.x; row < rows; row += blockDim.x) values[row] *= by.weights[row];
    __syncthreads();
  }
  sum_values(values, rows, leaves);
  if (threadIdx.x == 0) *mean = leaves[0] / *by.denominator;
}

template <class T>
__device__ __forceinline__ T larger(T a, T b) {
  return (b > a) | (b != b) ? b : a;  // NaN stays
}

// gradient == logits is allowed: a lane reads its values before it writes them.
template <class T>
__global__ void __launch_bounds__(kThreads)
    softmax_rows(const T* logits, const std::int64_t* labels, T* gradient, double* values, std::int64_t rows,
                 std::int64_t classes, RowWeights by) {
  const std::int64_t row = global_thread() / kWarp;
  if (row >= rows) return;
  const T* x = logits + row * classes;
  T* e = gradient + row * classes;
  const int lane = lane_index();
  T largest = x[0];
  for (std::int64_t j = lane; j < classes; j += kWarp) largest = larger(largest, x[j]);
#pragma unroll
  for (int other = kWarp / 2; other > 0; other /= 2) {
    largest = larger(largest, __shfl_xor_sync(kAllLanes, largest, other));
  }
  const std::int64_t label = labels[row];
  const bool known = label >= 0 && label < classes;
  const T shifted = known ? x[label] - largest : static_cast<T>(kNan);
  __syncwarp();
  PairwiseSum<T> total;
  for (std::int64_t begin = 0; begin < classes; begin += kLeaf) {
    const std::int64_t end = classes - begin < kLeaf ? classes : begin + kLeaf;
    T sum = 0;
    for (std::int64_t j = begin + lane; j < end; j += kLanes) {
      e[j] = exponential(x[j] - largest);
      sum += e[j];
    }
    total.add(fold_lanes(sum));
  }
  const T sum = __shfl_sync(kAllLanes, total.total(), 0);
  if (lane == 0) values[row] = softmax_loss(sum, shifted);
  const T scale = known ? by.scale<T>(row) : static_cast<T>(kNan);
  for (std::int64_t j = lane; j < classes; j += kWarp) e[j] = softmax_gradient(e[j], sum, j == label, scale);
}

// A loss of each value against its target, which has to be in [0, 1] where `Probabilities`.
template <class Loss, bool Probabilities, class T>
__global__ void __launch_bounds__(kThreads) pairwise_rows(const T* x, const T* target, T* gradient, double* values,
                                                          std::int64_t rows, std::int64_t columns, RowWeights by) {
  const std::int64_t row = global_thread() / kWarp;
  if (row >= rows) return;
  const T scale = by.scale<T>(row);
  PairwiseSum<double> total;
  for (std::int64_t begin = 0; begin < columns; begin += kLeaf) {
    const std::int64_t end = columns - begin < kLeaf ? columns : begin + kLeaf;
    double sum = 0;
    for (std::int64_t j = begin + lane_index(); j < end; j += kLanes) {
      const std::int64_t i = row * columns + j;
      const T o = x[i], t = target[i];
      const bool known = !Probabilities || (t >= 0 && t <= 1);
      sum += known ? Loss::value(o, t) : static_cast<T>(kNan);
      gradient[i] = known ? Loss::gradient(o, t) * scale : static_cast<T>(kNan);
    }
    total.add(fold_lanes(sum));
  }
  const double sum = total.total();
  if (lane_index() == 0) values[row] = sum;
}

// The work around the kernel of the rows, which `rows_kernel(values, weights)` queues.
template <class F>
void mean_loss(const Context& context, launch::LossWeights weights, std::int64_t rows, std::int64_t elements,
               double* value, const F& rows_kernel) {
  Scratch scratch(context);
  double *values = scratch.take<double>(rows), *leaves = scratch.take<double>(leaf_count(rows));
  double* denominator = scratch.take<double>(1);
  const auto each = static_cast<double>(elements);
  run(find_denominator, "loss, weights", 1, dim3(kSumThreads), context, weights.weights, rows, each, leaves,
      denominator);
  const RowWeights by{weights.weights, denominator};
  rows_kernel(values, by);
  run(mean_of_rows, "loss, mean", 1, dim3(kSumThreads), context, values, rows, by, leaves, value);
}

}  // namespace
}  // namespace cuda

namespace launch {

using namespace cuda;

template <class T>
void softmax_cross_entropy(const Context& context, const T* logits, const std::int64_t* labels, LossWeights weights,
                           T* gradient, double* value, std::int64_t rows, std::int64_t classes) {
  mean_loss(context, weights, rows, 1, value, [&](double* values, const RowWeights& by) {
    run(softmax_rows<T>, "softmax cross entropy", ceil_div(rows, kRowsPerBlock), dim3(kThreads), context, logits,
        labels, gradient, values, rows, classes, by);
  });
}

template <class T>
void pairwise_loss(const Context& context, Pairwise loss, const T* x, const T* target, LossWeights weights, T* gradient,
                   double* value, std::int64_t rows, std::int64_t columns) {
  const auto kernel = loss == Pairwise::kSigmoidCrossEntropy ? pairwise_rows<SigmoidCrossEntropy, true, T>
                                                             : pairwise_rows<MeanSquaredError, false, T>;
  mean_loss(context, weights, rows, columns, value, [&](double* values, const RowWeights& by) {
    run(kernel, "loss of pairs", ceil_div(rows, kRowsPerBlock), dim3(kThreads), context, x, target, gradient, values,
        rows, columns, by);
  });
}

FUSEDSTEP_INSTANTIATE_LOSSES(float)
FUSEDSTEP_INSTANTIATE_LOSSES(double)

}  // namespace launch
}  // namespace fusedstep
