// Launchers of bias and activation, and of losses.
#include <algorithm>
#include <vector>

#include "../launch.h"
#include "dispatch.h"
#include "parallel.h"
#include "tree.h"

namespace fusedstep::launch {

using namespace cpu;

namespace {

constexpr std::int64_t kPiece = 16384;  // values a task

// How much longer a value takes than its bytes alone would, for the cut-off of threads.
constexpr std::int64_t kTranscendentalWork = 8;

std::int64_t work_of(Activation activation) { return activation >= kTanh ? kTranscendentalWork : 1; }

template <class T>
std::int64_t bytes_of(std::int64_t arrays, std::int64_t n) {
  return arrays * n * static_cast<std::int64_t>(sizeof(T));
}

// Rows a task, so that a task has about kPiece values.
std::int64_t rows_per_task(std::int64_t columns) {
  return std::max<std::int64_t>(1, kPiece / std::max<std::int64_t>(1, columns));
}

}  // namespace

template <class T>
void bias_activation(const Context&, Activation activation, const T* x, const T* bias, T* y, std::int64_t rows,
                     std::int64_t columns, double slope) {
  const auto range = kernels().layers<T>().bias_activation[activation];
  parallel_ranges(rows, rows_per_task(columns), work_of(activation) * bytes_of<T>(2, rows * columns),
                  [&](std::int64_t begin, std::int64_t end) {
                    range(x + begin * columns, bias, y + begin * columns, end - begin, columns, static_cast<T>(slope));
                  });
}

template <class T>
void bias_activation_backward(const Context&, Activation activation, const T* dy, const T* saved, T* dx, T* dbias,
                              std::int64_t rows, std::int64_t columns, double slope) {
  const LayerKernels<T>& k = kernels().layers<T>();
  const T factor = static_cast<T>(slope);
  const std::int64_t n = rows * columns;
  if (dbias == nullptr) {
    const auto range = k.activation_backward[activation];
    parallel_ranges(n, kPiece, work_of(activation) * bytes_of<T>(3, n), [&](std::int64_t begin, std::int64_t end) {
      range(dy + begin, saved + begin, dx + begin, end - begin, factor);
    });
    return;
  }
  const auto leaf_kernel = k.activation_backward_leaf[activation];
  const std::int64_t leaves = leaf_count(rows), blocks = (columns + kWidth - 1) / kWidth;
  std::vector<T> sums(static_cast<std::size_t>(leaves * columns));
  parallel_for(leaves * blocks, work_of(activation) * bytes_of<T>(3, n), [&](std::int64_t task) {
    const std::int64_t c0 = task % blocks * kWidth;
    leaf_kernel(dy, saved, dx, rows, columns, task / blocks, c0, std::min(columns, c0 + kWidth), factor, sums.data());
  });
  const DefaultFloatMode mode;
  merge_leaf_columns(sums.data(), leaves, columns, 0, columns);
  for (std::int64_t c = 0; c < columns; ++c) dbias[c] = leaves ? sums[static_cast<std::size_t>(c)] : T(0);
}

namespace {

// Runs `rows_kernel(begin, end, values, scales, scale_each)` and takes the mean; `elements`: values a row.
template <class T, class F>
double mean_loss(std::int64_t rows, std::int64_t columns, std::int64_t elements, LossWeights weights,
                 const F& rows_kernel) {
  const DefaultFloatMode mode;
  const double denominator = weights.total * static_cast<double>(elements);
  std::vector<T> scales(static_cast<std::size_t>(weights.weights ? rows : 1));
  for (std::size_t i = 0; i < scales.size(); ++i) {
    scales[i] = static_cast<T>(weights.weights ? weights.weights[i] / denominator : 1 / denominator);
  }
  std::vector<double> values(static_cast<std::size_t>(rows));
  parallel_ranges(rows, rows_per_task(columns), kTranscendentalWork * bytes_of<T>(3, rows * columns),
                  [&](std::int64_t begin, std::int64_t end) {
                    rows_kernel(values.data(), begin, end, scales.data(), weights.weights != nullptr);
                  });
  if (weights.weights != nullptr) {
    for (std::int64_t row = 0; row < rows; ++row) values[static_cast<std::size_t>(row)] *= weights.weights[row];
  }
  return kernels().tree_sum(values.data(), rows) / denominator;
}

}  // namespace

template <class T>
void softmax_cross_entropy(const Context&, const T* logits, const std::int64_t* labels, LossWeights weights,
                           T* gradient, double* value, std::int64_t rows, std::int64_t classes) {
  const auto kernel = kernels().layers<T>().softmax_cross_entropy;
  *value = mean_loss<T>(rows, classes, 1, weights,
                        [&](double* values, std::int64_t begin, std::int64_t end, const T* scales, bool each) {
                          kernel(logits, labels, gradient, values, begin, end, classes, scales, each);
                        });
}

template <class T>
void pairwise_loss(const Context&, Pairwise loss, const T* x, const T* target, LossWeights weights, T* gradient,
                   double* value, std::int64_t rows, std::int64_t columns) {
  const LayerKernels<T>& k = kernels().layers<T>();
  const auto kernel = loss == Pairwise::kSigmoidCrossEntropy ? k.sigmoid_cross_entropy : k.mean_squared_error;
  *value = mean_loss<T>(rows, columns, columns, weights,
                        [&](double* values, std::int64_t begin, std::int64_t end, const T* scales, bool each) {
                          kernel(x, target, gradient, values, begin, end, columns, scales, each);
                        });
}

FUSEDSTEP_INSTANTIATE_LAYERS(float)
FUSEDSTEP_INSTANTIATE_LAYERS(double)
FUSEDSTEP_INSTANTIATE_LOSSES(float)
FUSEDSTEP_INSTANTIATE_LOSSES(double)

}  // namespace fusedstep::launch
