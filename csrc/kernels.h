// The one table of kernels: what a device offers for each dtype. Ranges and leaves, no threads; launchers cut the work.
// Only plain types here: this header is compiled once per instruction set.
#pragma once

#include <cstdint>

namespace fusedstep {

// What a step folds from its hyper-parameters, each rounded once to the arithmetic type.
template <class T>
struct StepScalars {
  T multiplier;     // of the gradient, negative to maximize
  T weight_decay;   // L2
  T keep;           // 1 - lr * weight_decay, decoupled; else 1
  T lr;             // corrected where the method corrects it
  T decay1, gain1;  // first state: momentum or beta1, and what the gradient is multiplied by
  T decay2, gain2;  // average of squares: alpha or beta2, and 1 - it
  T root_scale;     // bias correction of the root
  T eps;
};

// The rules of math/optimizers.h. To add one: csrc/README.md.
#define FUSEDSTEP_RULES(X)   \
  X(Sgd)                     \
  X(SgdMomentum)             \
  X(SgdNesterov)             \
  X(Adagrad)                 \
  X(Rmsprop)                 \
  X(RmspropMomentum)         \
  X(RmspropCentered)         \
  X(RmspropMomentumCentered) \
  X(Adam)                    \
  X(AdamEpsInside)           \
  X(AdamAmsgrad)             \
  X(AdamAmsgradEpsInside)

#define FUSEDSTEP_ACTIVATIONS(X) X(Identity) X(Relu) X(LeakyRelu) X(Tanh) X(Sigmoid) X(Gelu)

#define FUSEDSTEP_ENUMERATOR(name) k##name,
enum Rule : int { FUSEDSTEP_RULES(FUSEDSTEP_ENUMERATOR) kRuleCount };
enum Activation : int { FUSEDSTEP_ACTIVATIONS(FUSEDSTEP_ENUMERATOR) kActivationCount };
#undef FUSEDSTEP_ENUMERATOR

// Sums are cut into leaves of kLeaf values, each added in kLanes lanes (reference/reduction.py says how).
constexpr int kLeaf = 512;
constexpr int kLanes = 32;
// Channels that stand side by side in memory are walked this many at a time.
constexpr int kWidth = 64;

constexpr std::int64_t leaf_count(std::int64_t n) { return (n + kLeaf - 1) / kLeaf; }

// Memory as (outer, channels, inner); inner == 1 is channels-last.
struct ChannelShape {
  std::int64_t outer, channels, inner;
  std::int64_t size() const { return outer * channels * inner; }
  std::int64_t count() const { return outer * inner; }  // values a channel
};

// Vectors of one value a channel.
template <class T>
struct ChannelScalars {
  const T *mean, *invstd, *weight, *bias;
};

struct DropoutKey {
  std::uint64_t seed, offset;
  std::uint32_t threshold;
};

template <class T>
struct KernelsOf {
  // Optimizers; [rule][L2 decay or not]. Unused states are null.
  void (*step[kRuleCount][2])(T* p, const T* g, T* s0, T* s1, T* s2, std::int64_t n, StepScalars<T> s);
  void (*average)(T* e, const T* p, std::int64_t n, T decay, T gain);
  void (*square_leaves)(const T* x, std::int64_t n, double* leaves);

  // Batch norm. Leaves write [leaf * channels + c] for the channels [c0, c1), at most kWidth of them; ranges are of
  // memory indices.
  void (*moment_leaf)(const T* x, ChannelShape shape, std::int64_t leaf, std::int64_t c0, std::int64_t c1, T* means,
                      T* squares);
  void (*normalize[2])(const T* x, T* y, ChannelShape shape, std::int64_t begin, std::int64_t end,
                       ChannelScalars<T> s);  // [relu]
  void (*gradient_leaf[2])(const T* dy, const T* x, ChannelShape shape, std::int64_t leaf, std::int64_t c0,
                           std::int64_t c1, ChannelScalars<T> s, T* sums_t, T* sums_t_xhat);  // [relu]
  // mean_t and mean_t_xhat are null in evaluation; s.weight is then still the affine weight, scale = weight * invstd.
  void (*input_gradient[2])(const T* dy, const T* x, T* dx, ChannelShape shape, std::int64_t begin, std::int64_t end,
                            ChannelScalars<T> s, const T* scale, const T* mean_t, const T* mean_t_xhat);  // [relu]

  // Dropout of the indices [begin, end), pointers to index 0; begin is a multiple of 8.
  void (*dropout[2])(const T* x, T* y, std::int64_t begin, std::int64_t end, DropoutKey key, T scale);  // [relu]
  void (*dropout_strided[2])(const T* x, std::int64_t x_stride, T* y, std::int64_t y_stride, std::int64_t first_index,
                             std::int64_t n, DropoutKey key, T scale);
  void (*dropout_relu_backward)(const T* dy, const T* y, T* dx, std::int64_t n, T scale);

  // Bias (or null) and activation on rows of `columns` values.
  void (*bias_activation[kActivationCount])(const T* x, const T* bias, T* y, std::int64_t rows, std::int64_t columns,
                                            T slope);
  void (*activation_backward[kActivationCount])(const T* dy, const T* saved, T* dx, std::int64_t n, T slope);
  void (*activation_backward_leaf[kActivationCount])(const T* dy, const T* saved, T* dx, std::int64_t rows,
                                                     std::int64_t columns, std::int64_t leaf, std::int64_t c0,
                                                     std::int64_t c1, T slope, T* sums);

  // Losses of rows [begin, end): the value of each row and the gradient; scales: one a row, or one for all.
  void (*softmax_cross_entropy)(const T* logits, const std::int64_t* labels, T* gradient, double* values,
                                std::int64_t begin, std::int64_t end, std::int64_t classes, const T* scales,
                                bool scale_each);
  using PairwiseLoss = void (*)(const T* x, const T* target, T* gradient, double* values, std::int64_t begin,
                                std::int64_t end, std::int64_t columns, const T* scales, bool scale_each);
  PairwiseLoss sigmoid_cross_entropy, mean_squared_error;
};

struct Kernels {
  const char* isa;
  KernelsOf<float> of_float;
  KernelsOf<double> of_double;
  void (*dropout_keep)(unsigned char* keep, std::int64_t begin, std::int64_t end,
                       DropoutKey key);  // bools; keep: of `begin`
  double (*tree_sum)(const double* values, std::int64_t n);

  template <class T>
  const KernelsOf<T>& of() const;
};

template <>
inline const KernelsOf<float>& Kernels::of<float>() const {
  return of_float;
}
template <>
inline const KernelsOf<double>& Kernels::of<double>() const {
  return of_double;
}

}  // namespace fusedstep
