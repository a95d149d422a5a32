// Launchers of dropout, of bias and activation, and of losses.
#include <algorithm>
#include <vector>

#include "../math/philox.h"
#include "dispatch.h"
#include "launch.h"
#include "parallel.h"
#include "tree.h"

namespace fusedstep::cpu {
namespace {

constexpr std::int64_t kPiece = 16384;  // values a task; a multiple of 8 for dropout

// How much longer a value takes than its bytes alone would, for the cut-off of threads.
constexpr std::int64_t kRandomWork = 4, kTranscendentalWork = 8;

std::int64_t work_of(Activation activation) { return activation >= kTanh ? kTranscendentalWork : 1; }

DropoutKey key_of(const Dropout& d) { return {d.seed, d.offset, dropout_threshold(d.p)}; }

template <class T>
T scale_of(double p) {
  return static_cast<T>(dropout_scale(dropout_threshold(p)));
}

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
void dropout(const T* x, T* y, std::int64_t n, const Dropout& dropout, bool relu) {
  const auto range = kernels().of<T>().dropout[relu];
  const DropoutKey key = key_of(dropout);
  const T scale = scale_of<T>(dropout.p);
  parallel_ranges(n, kPiece, kRandomWork * bytes_of<T>(2, n),
                  [&](std::int64_t begin, std::int64_t end) { range(x, y, begin, end, key, scale); });
}

template <class T>
void dropout_strided(const T* x, const std::int64_t* x_strides, T* y, const std::int64_t* y_strides,
                     const std::int64_t* shape, int ndim, const Dropout& dropout, bool relu) {
  const auto row_kernel = kernels().of<T>().dropout_strided[relu];
  const DropoutKey key = key_of(dropout);
  const T scale = scale_of<T>(dropout.p);
  const int last = ndim - 1;
  const std::int64_t columns = ndim ? shape[last] : 1;
  std::int64_t rows = 1;
  for (int axis = 0; axis < last; ++axis) rows *= shape[axis];
  if (columns == 0) return;
  parallel_ranges(rows, rows_per_task(columns), kRandomWork * bytes_of<T>(2, rows * columns),
                  [&](std::int64_t begin, std::int64_t end) {
                    for (std::int64_t row = begin; row < end; ++row) {
                      std::int64_t x_at = 0, y_at = 0, rest = row;
                      for (int axis = last - 1; axis >= 0; --axis) {
                        x_at += rest % shape[axis] * x_strides[axis];
                        y_at += rest % shape[axis] * y_strides[axis];
                        rest /= shape[axis];
                      }
                      row_kernel(x + x_at, ndim ? x_strides[last] : 1, y + y_at, ndim ? y_strides[last] : 1,
                                 row * columns, columns, key, scale);
                    }
                  });
}

template <class T>
void dropout_relu_backward(const T* dy, const T* y, T* dx, std::int64_t n, double p) {
  const auto range = kernels().of<T>().dropout_relu_backward;
  const T scale = scale_of<T>(p);
  parallel_ranges(n, kPiece, bytes_of<T>(3, n), [&](std::int64_t begin, std::int64_t end) {
    range(dy + begin, y + begin, dx + begin, end - begin, scale);
  });
}

void dropout_mask(unsigned char* keep, std::int64_t n, const Dropout& dropout, bool packed) {
  const Kernels& k = kernels();
  const DropoutKey key = key_of(dropout);
  parallel_ranges(n, kPiece, 8 * kRandomWork * n, [&](std::int64_t begin, std::int64_t end) {
    if (!packed) return k.dropout_keep(keep + begin, begin, end, key);
    unsigned char bools[kPiece + 8] = {};
    k.dropout_keep(bools, begin, end, key);
    for (std::int64_t i = begin; i < end; i += 8) {
      unsigned byte = 0;
      for (int bit = 0; bit < 8; ++bit) byte |= static_cast<unsigned>(bools[i - begin + bit]) << bit;
      keep[i / 8] = static_cast<unsigned char>(byte);
    }
  });
}

template <class T>
void bias_activation(Activation activation, const T* x, const T* bias, T* y, std::int64_t rows, std::int64_t columns,
                     double slope) {
  const auto range = kernels().of<T>().bias_activation[activation];
  parallel_ranges(rows, rows_per_task(columns), work_of(activation) * bytes_of<T>(2, rows * columns),
                  [&](std::int64_t begin, std::int64_t end) {
                    range(x + begin * columns, bias, y + begin * columns, end - begin, columns, static_cast<T>(slope));
                  });
}

template <class T>
void bias_activation_backward(Activation activation, const T* dy, const T* saved, T* dx, T* dbias, std::int64_t rows,
                              std::int64_t columns, double slope) {
  const KernelsOf<T>& k = kernels().of<T>();
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
double mean_loss(std::int64_t rows, std::int64_t columns, std::int64_t elements, const double* weights, double total,
                 const F& rows_kernel) {
  const DefaultFloatMode mode;
  const double denominator = total * static_cast<double>(elements);
  std::vector<T> scales(static_cast<std::size_t>(weights ? rows : 1));
  for (std::size_t i = 0; i < scales.size(); ++i) {
    scales[i] = static_cast<T>(weights ? weights[i] / denominator : 1 / denominator);
  }
  std::vector<double> values(static_cast<std::size_t>(rows));
  parallel_ranges(rows, rows_per_task(columns), kTranscendentalWork * bytes_of<T>(3, rows * columns),
                  [&](std::int64_t begin, std::int64_t end) {
                    rows_kernel(values.data(), begin, end, scales.data(), weights != nullptr);
                  });
  if (weights != nullptr) {
    for (std::int64_t row = 0; row < rows; ++row) values[static_cast<std::size_t>(row)] *= weights[row];
  }
  return kernels().tree_sum(values.data(), rows) / denominator;
}

}  // namespace

template <class T>
double softmax_cross_entropy(const T* logits, const std::int64_t* labels, const double* weights, double total,
                             T* gradient, std::int64_t rows, std::int64_t classes) {
  const auto kernel = kernels().of<T>().softmax_cross_entropy;
  return mean_loss<T>(rows, classes, 1, weights, total,
                      [&](double* values, std::int64_t begin, std::int64_t end, const T* scales, bool each) {
                        kernel(logits, labels, gradient, values, begin, end, classes, scales, each);
                      });
}

template <class T>
double pairwise_loss(Pairwise loss, const T* x, const T* target, const double* weights, double total, T* gradient,
                     std::int64_t rows, std::int64_t columns) {
  const KernelsOf<T>& k = kernels().of<T>();
  const auto kernel = loss == Pairwise::kSigmoidCrossEntropy ? k.sigmoid_cross_entropy : k.mean_squared_error;
  return mean_loss<T>(rows, columns, columns, weights, total,
                      [&](double* values, std::int64_t begin, std::int64_t end, const T* scales, bool each) {
                        kernel(x, target, gradient, values, begin, end, columns, scales, each);
                      });
}

#define FUSEDSTEP_INSTANTIATE(T)                                                                                     \
  template void dropout<T>(const T*, T*, std::int64_t, const Dropout&, bool);                                        \
  template void dropout_strided<T>(const T*, const std::int64_t*, T*, const std::int64_t*, const std::int64_t*, int, \
                                   const Dropout&, bool);                                                            \
  template void dropout_relu_backward<T>(const T*, const T*, T*, std::int64_t, double);                              \
  template void bias_activation<T>(Activation, const T*, const T*, T*, std::int64_t, std::int64_t, double);          \
  template void bias_activation_backward<T>(Activation, const T*, const T*, T*, T*, std::int64_t, std::int64_t,      \
                                            double);                                                                 \
  template double softmax_cross_entropy<T>(const T*, const std::int64_t*, const double*, double, T*, std::int64_t,   \
                                           std::int64_t);                                                            \
  template double pairwise_loss<T>(Pairwise, const T*, const T*, const double*, double, T*, std::int64_t, std::int64_t);
FUSEDSTEP_INSTANTIATE(float)
FUSEDSTEP_INSTANTIATE(double)

}  // namespace fusedstep::cpu
