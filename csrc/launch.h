// The launchers: they cut arrays into pieces, run the kernels on them and merge. Both devices have all of them (cpu/ on
// threads, cuda/ on a stream); a module links one or the other. Arrays are checked by the caller.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.h"
#include "math/batch_norm.h"
#include "math/half.h"
#include "math/optimizers.h"

namespace fusedstep::launch {

#if defined(FUSEDSTEP_CUDA_MODULE)
constexpr bool kOnDevice = true;
#else
constexpr bool kOnDevice = false;
#endif

// Where a call runs; the CPU has no use for it. `others` are streams on which other libraries work on its arrays.
struct Context {
  int device = 0;
  void* stream = nullptr;
  std::vector<void*> others;
};

// While it lives, the context's device is the current one; it puts the call behind and before the work of `others`.
class Scope {
 public:
#if defined(FUSEDSTEP_CUDA_MODULE)
  explicit Scope(const Context& context);
  ~Scope();

 private:
  const Context& context_;
  int previous_ = 0;
#else
  explicit Scope(const Context&) {}
#endif
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;
};

// Whether the stream is being captured into a graph, which would repeat this call's numbers.
#if defined(FUSEDSTEP_CUDA_MODULE)
bool is_capturing(const Context& context);
#else
inline bool is_capturing(const Context&) { return false; }
#endif

enum class ScalarType { kFloat32, kFloat64, kInt32, kInt64 };

// A number, or where it lies on the device (the CPU launchers are given numbers alone).
struct Scalar {
  double value = 0;
  const void* data = nullptr;
  ScalarType type = ScalarType::kFloat64;
};

// The same for integers, whose 64 bits no double holds.
struct Counter {
  std::uint64_t value = 0;
  const void* data = nullptr;
  ScalarType type = ScalarType::kInt64;
};

template <class P, class S>
struct StepArrays {
  P* p;
  const P* g;
  S* states[3];
  S* ema;  // or null
  std::int64_t n;
};

struct Step {
  Rule rule;
  StepOptions options;
  Scalar lr, multiplier;
  Counter step;
  double ema_decay;
  const std::int32_t* skip;  // or null; where it is not 0, nothing is written
};

// One step over all arrays; ema_decay counts where `ema` is set.
template <class P, class S>
void step(const Context& context, const Step& call, const std::vector<StepArrays<P, S>>& arrays);

template <class T>
struct Span {
  const T* data;
  std::int64_t n;
};

// Where a norm or a loss goes: a float or a double.
struct Result {
  void* data;
  bool is_double;
};

// nonfinite, or null: whether a value is NaN or infinite.
template <class T>
void global_norm(const Context& context, const std::vector<Span<T>>& arrays, Result norm, std::int32_t* nonfinite);

// Pointers to values on the device; those below `skip` may be null.
struct PrepareStep {
  std::int64_t* step;
  double* multiplier;
  std::int32_t* skip;
  const double* norm;
  const std::int32_t* nonfinite;
  std::int64_t* skipped;
  Scalar grad_multiplier;
  double max_norm;
  bool clips;
};

// The decision itself, the same on host and device.
FUSEDSTEP_HD void count_step(const PrepareStep& call, double grad_multiplier) {
  if (call.skip != nullptr) {
    *call.skip = *call.nonfinite != 0;
    if (*call.skip != 0) {
      if (call.skipped != nullptr) ++*call.skipped;
      return;
    }
  }
  ++*call.step;
  const double clip = call.clips ? clipping_factor(call.max_norm, *call.norm * std::fabs(grad_multiplier)) : 1.0;
  *call.multiplier = grad_multiplier * clip;
}

void prepare_step(const Context& context, const PrepareStep& call);

// One value a channel, in memory as T or as what T computes in.
template <class T>
struct ChannelVector {
  using A = Arithmetic<T>;
  void* data = nullptr;
  bool narrow_type = false;

  FUSEDSTEP_HD explicit operator bool() const { return data != nullptr; }
  FUSEDSTEP_HD A get(std::int64_t c) const {
    return narrow_type ? widen(static_cast<const T*>(data)[c]) : static_cast<const A*>(data)[c];
  }
  FUSEDSTEP_HD void set(std::int64_t c, A value) const {
    if (narrow_type) {
      static_cast<T*>(data)[c] = narrow<T>(value);
    } else {
      static_cast<A*>(data)[c] = value;
    }
  }
};

struct Dropout {
  double p;
  std::uint64_t seed;
  Counter offset;
};

template <class T>
struct BatchNorm {
  ChannelShape shape;
  ChannelVector<T> weight, bias;               // or empty
  ChannelVector<T> running_mean, running_var;  // or empty in training
  Arithmetic<T>*mean, *var;                    // of the batch; copies of the running ones in evaluation
  double eps;
  bool relu, training;
  double fraction;  // weight of the batch in the running statistics
  bool unbiased;
  const Dropout* dropout;  // or null; indices are memory indices
};

// From the merged moments of channel c (shifted by its first value) to the batch's and the running ones.
template <class T>
FUSEDSTEP_HD void finish_moments(const BatchNorm<T>& call, std::int64_t c, Arithmetic<T> first, Arithmetic<T> mean,
                                 Arithmetic<T> squares) {
  using A = Arithmetic<T>;
  const A n = static_cast<A>(call.shape.count());
  call.mean[c] = first + mean;
  call.var[c] = squares / n;
  if (!call.running_mean) return;
  const A var = call.unbiased ? squares / (n - A(1)) : call.var[c];
  call.running_mean.set(c, running_average(call.running_mean.get(c), call.mean[c], call.fraction));
  call.running_var.set(c, running_average(call.running_var.get(c), var, call.fraction));
}

template <class T>
void batch_norm(const Context& context, const BatchNorm<T>& call, const T* x, T* y);

// dx may be dy.
template <class T>
void batch_norm_backward(const Context& context, const BatchNorm<T>& call, const T* dy, const T* x, T* dx,
                         ChannelVector<T> dweight, ChannelVector<T> dbias);

template <class T>
void dropout(const Context& context, const T* x, T* y, std::int64_t n, const Dropout& dropout, bool relu);

// Logical C order over any strides, counted in values.
template <class T>
void dropout_strided(const Context& context, const T* x, const std::int64_t* x_strides, T* y,
                     const std::int64_t* y_strides, const std::int64_t* shape, int ndim, const Dropout& dropout,
                     bool relu);

template <class T>
void dropout_relu_backward(const Context& context, const T* dy, const T* y, T* dx, std::int64_t n, double p);

// keep: n bools, or ceil(n / 8) bytes, the first value in the lowest bit.
void dropout_mask(const Context& context, unsigned char* keep, std::int64_t n, const Dropout& dropout, bool packed);

// From here on float and double alone.
template <class T>
void bias_activation(const Context& context, Activation activation, const T* x, const T* bias, T* y, std::int64_t rows,
                     std::int64_t columns, double slope);

// dbias may be null.
template <class T>
void bias_activation_backward(const Context& context, Activation activation, const T* dy, const T* saved, T* dx,
                              T* dbias, std::int64_t rows, std::int64_t columns, double slope);

// One weight a row, or null. Their sum, or the number of rows; on the device the sum of weights is made there.
struct LossWeights {
  const double* weights;
  double total;
};

// `value` receives the mean loss. On the device a label or target that is out of range makes it and its row NaN.
template <class T>
void softmax_cross_entropy(const Context& context, const T* logits, const std::int64_t* labels, LossWeights weights,
                           T* gradient, double* value, std::int64_t rows, std::int64_t classes);

enum class Pairwise { kSigmoidCrossEntropy, kMeanSquaredError };

template <class T>
void pairwise_loss(const Context& context, Pairwise loss, const T* x, const T* target, LossWeights weights, T* gradient,
                   double* value, std::int64_t rows, std::int64_t columns);

// The launchers of a file, instantiated.
#define FUSEDSTEP_INSTANTIATE_STEPS(P, S) \
  template void step<P, S>(const Context&, const Step&, const std::vector<StepArrays<P, S>>&);
#define FUSEDSTEP_INSTANTIATE_NORM(T) \
  template void global_norm<T>(const Context&, const std::vector<Span<T>>&, Result, std::int32_t*);
#define FUSEDSTEP_INSTANTIATE_BATCH_NORM(T)                                                                           \
  template void batch_norm<T>(const Context&, const BatchNorm<T>&, const T*, T*);                                     \
  template void batch_norm_backward<T>(const Context&, const BatchNorm<T>&, const T*, const T*, T*, ChannelVector<T>, \
                                       ChannelVector<T>);
#define FUSEDSTEP_INSTANTIATE_DROPOUT(T)                                                                   \
  template void dropout<T>(const Context&, const T*, T*, std::int64_t, const Dropout&, bool);              \
  template void dropout_strided<T>(const Context&, const T*, const std::int64_t*, T*, const std::int64_t*, \
                                   const std::int64_t*, int, const Dropout&, bool);                        \
  template void dropout_relu_backward<T>(const Context&, const T*, const T*, T*, std::int64_t, double);
#define FUSEDSTEP_INSTANTIATE_LAYERS(T)                                                                            \
  template void bias_activation<T>(const Context&, Activation, const T*, const T*, T*, std::int64_t, std::int64_t, \
                                   double);                                                                        \
  template void bias_activation_backward<T>(const Context&, Activation, const T*, const T*, T*, T*, std::int64_t,  \
                                            std::int64_t, double);
#define FUSEDSTEP_INSTANTIATE_LOSSES(T)                                                                                \
  template void softmax_cross_entropy<T>(const Context&, const T*, const std::int64_t*, LossWeights, T*, double*,      \
                                         std::int64_t, std::int64_t);                                                  \
  template void pairwise_loss<T>(const Context&, Pairwise, const T*, const T*, LossWeights, T*, double*, std::int64_t, \
                                 std::int64_t);

}  // namespace fusedstep::launch
