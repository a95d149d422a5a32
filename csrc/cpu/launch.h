// Launchers: they cut arrays into ranges and leaves, hand them to the kernels on several threads, and merge.
// Arrays are checked by the caller. float and double.
#pragma once

#include <cstdint>
#include <vector>

#include "../kernels.h"

namespace fusedstep::cpu {

template <class T>
struct StepArrays {
  T* p;
  const T* g;
  T* states[3];
  T* ema;  // or null
  std::int64_t n;
};

template <class T>
struct Span {
  const T* data;
  std::int64_t n;
};

// One step over all arrays; ema_decay counts where `ema` is set.
template <class T>
void step(Rule rule, bool l2, const std::vector<StepArrays<T>>& arrays, const StepScalars<T>& scalars,
          double ema_decay);

template <class T>
double global_norm(const std::vector<Span<T>>& arrays);

struct Dropout {
  double p;
  std::uint64_t seed, offset;
};

template <class T>
struct BatchNorm {
  ChannelShape shape;
  const T *weight, *bias;         // or null
  T *running_mean, *running_var;  // or null in training
  T *mean, *var;                  // of the batch; copies of the running ones in evaluation
  double eps;
  bool relu, training;
  double fraction;  // weight of the batch in the running statistics
  bool unbiased;
  const Dropout* dropout;  // or null; indices are memory indices
};

template <class T>
void batch_norm(const BatchNorm<T>& call, const T* x, T* y);

// dx may be dy.
template <class T>
void batch_norm_backward(const BatchNorm<T>& call, const T* dy, const T* x, T* dx, T* dweight, T* dbias);

template <class T>
void dropout(const T* x, T* y, std::int64_t n, const Dropout& dropout, bool relu);

// Logical C order over any strides, counted in values.
template <class T>
void dropout_strided(const T* x, const std::int64_t* x_strides, T* y, const std::int64_t* y_strides,
                     const std::int64_t* shape, int ndim, const Dropout& dropout, bool relu);

template <class T>
void dropout_relu_backward(const T* dy, const T* y, T* dx, std::int64_t n, double p);

// keep: n bools, or ceil(n / 8) bytes, the first value in the lowest bit.
void dropout_mask(unsigned char* keep, std::int64_t n, const Dropout& dropout, bool packed);

template <class T>
void bias_activation(Activation activation, const T* x, const T* bias, T* y, std::int64_t rows, std::int64_t columns,
                     double slope);

// dbias may be null.
template <class T>
void bias_activation_backward(Activation activation, const T* dy, const T* saved, T* dx, T* dbias, std::int64_t rows,
                              std::int64_t columns, double slope);

// weights: one a row, or null; total: their sum, or the number of rows. The mean loss is returned.
template <class T>
double softmax_cross_entropy(const T* logits, const std::int64_t* labels, const double* weights, double total,
                             T* gradient, std::int64_t rows, std::int64_t classes);

enum class Pairwise { kSigmoidCrossEntropy, kMeanSquaredError };

template <class T>
double pairwise_loss(Pairwise loss, const T* x, const T* target, const double* weights, double total, T* gradient,
                     std::int64_t rows, std::int64_t columns);

}  // namespace fusedstep::cpu
