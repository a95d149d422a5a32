// The one table of kernels: what a device offers for each dtype. Ranges and leaves, no threads; launchers cut the work.
// Only plain types here: this header is compiled once per instruction set.
#pragma once

#include <cstdint>

#include "math/hd.h"

namespace fusedstep {

// 16 bits in memory; math/half.h converts.
struct Half {
  std::uint16_t bits;
};
struct Bfloat16 {
  std::uint16_t bits;
};

// What values of a type are computed in.
template <class T>
struct ArithmeticOf {
  using type = T;
};
template <>
struct ArithmeticOf<Half> {
  using type = float;
};
template <>
struct ArithmeticOf<Bfloat16> {
  using type = float;
};
template <class T>
using Arithmetic = typename ArithmeticOf<T>::type;

// Types of values, and of parameters with their states.
#define FUSEDSTEP_TYPES(X) X(float) X(double) X(Half) X(Bfloat16)
#define FUSEDSTEP_STEP_TYPES(X) \
  X(float, float) X(double, double) X(Half, Half) X(Half, float) X(Bfloat16, Bfloat16) X(Bfloat16, float)

// LARS and LAMB multiply each array's update by coefficient * |p| / (|direction| + decay * |p| + eps); the rule says
// which direction.
struct Trust {
  bool adapts;       // else by 1
  bool rule_decays;  // L2 decay is the rule's own
  double coefficient, decay, eps;
};

// The hyper-parameters of a step that are numbers of the host; all methods share them.
struct StepOptions {
  double weight_decay;
  bool decoupled, maximize;
  double decay1, damping1;  // first state: momentum or beta1; its gradient is multiplied by 1 - damping1
  double decay2;            // average of squares: alpha or beta2
  double eps;
  double lr_decay;  // AdaGrad's
  bool bias_correction;
  bool rectified;  // RAdam
  bool scheduled;  // NAdam: its momentum rises by momentum_schedule ** step
  double momentum_schedule;
  Trust trust;

  bool l2() const { return weight_decay != 0 && !decoupled && !trust.rule_decays; }
  bool reads_step() const { return bias_correction || lr_decay != 0; }
};

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
  T lr_gradient;  // NAdam's second step size
  T correction1;  // LAMB's bias correction of the first state
  T trust;        // LARS' and LAMB's factor of an array
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
  X(AdamAmsgradEpsInside)    \
  X(Nadam)                   \
  X(Radam)                   \
  X(Adamax)                  \
  X(Adadelta)                \
  X(Lion)                    \
  X(Lars)                    \
  X(Lamb)

// Those of them that have a direction, and so may have a factor for each array.
#define FUSEDSTEP_TRUST_RULES(X) X(Lars) X(Lamb)

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

FUSEDSTEP_HD constexpr std::int64_t leaf_count(std::int64_t n) { return (n + kLeaf - 1) / kLeaf; }

// Memory as (outer, channels, inner); inner == 1 is channels-last.
struct ChannelShape {
  std::int64_t outer, channels, inner;
  FUSEDSTEP_HD std::int64_t size() const { return outer * channels * inner; }
  FUSEDSTEP_HD std::int64_t count() const { return outer * inner; }  // values a channel
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

// Optimizer steps: parameters and gradients of type P, states of type S.
template <class P, class S>
struct StepKernels {
  using A = Arithmetic<P>;
  using StepRange = void (*)(P* p, const P* g, S* s0, S* s1, S* s2, std::int64_t n, StepScalars<A> s);
  StepRange step[kRuleCount][2];  // [rule][L2 decay or not]; unused states are null
  void (*average)(S* e, const P* p, std::int64_t n, A decay, A gain);
  // Sums of squares of parameters and directions, one a leaf; n values from the start of a leaf. Null without one.
  void (*trust_leaves[kRuleCount])(const P* p, const P* g, const S* s0, const S* s1, std::int64_t n, StepScalars<A> s,
                                   double* parameters, double* directions);
};

template <class T>
struct ValueKernels {
  using A = Arithmetic<T>;
  void (*square_leaves)(const T* x, std::int64_t n, double* leaves);

  // Batch norm. The leaves [leaf0, leaf1) write [leaf * channels + c] for the channels [c0, c1), at most kWidth of
  // them; ranges are of memory indices.
  void (*moment_leaves)(const T* x, ChannelShape shape, std::int64_t leaf0, std::int64_t leaf1, std::int64_t c0,
                        std::int64_t c1, A* means, A* squares);
  // Those that stream write around the cache and may not be in place.
  using Normalize = void (*)(const T* x, T* y, ChannelShape shape, std::int64_t begin, std::int64_t end,
                             ChannelScalars<A> s);
  Normalize normalize[2], normalize_streamed[2];  // [relu]
  void (*gradient_leaves[2])(const T* dy, const T* x, ChannelShape shape, std::int64_t leaf0, std::int64_t leaf1,
                             std::int64_t c0, std::int64_t c1, ChannelScalars<A> s, A* sums_t,
                             A* sums_t_xhat);  // [relu]
  // mean_t and mean_t_xhat are null in evaluation; s.weight is then still the affine weight, scale = weight * invstd.
  using InputGradient = void (*)(const T* dy, const T* x, T* dx, ChannelShape shape, std::int64_t begin,
                                 std::int64_t end, ChannelScalars<A> s, const A* scale, const A* mean_t,
                                 const A* mean_t_xhat);
  InputGradient input_gradient[2], input_gradient_streamed[2];  // [relu]

  // Dropout of the indices [begin, end), pointers to index 0. `dropout_streamed` writes around the cache, not in place.
  void (*dropout[2])(const T* x, T* y, std::int64_t begin, std::int64_t end, DropoutKey key, A scale);  // [relu]
  void (*dropout_streamed[2])(const T* x, T* y, std::int64_t begin, std::int64_t end, DropoutKey key, A scale);
  void (*dropout_strided[2])(const T* x, std::int64_t x_stride, T* y, std::int64_t y_stride, std::int64_t first_index,
                             std::int64_t n, DropoutKey key, A scale);
  void (*dropout_relu_backward)(const T* dy, const T* y, T* dx, std::int64_t n, A scale);
};

// float and double.
template <class T>
struct LayerKernels {
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

#define FUSEDSTEP_STEP_BASE(P, S) StepKernels<P, S>,
#define FUSEDSTEP_BASE(T) ValueKernels<T>,
struct Kernels : FUSEDSTEP_STEP_TYPES(FUSEDSTEP_STEP_BASE) FUSEDSTEP_TYPES(FUSEDSTEP_BASE) LayerKernels<float>,
                 LayerKernels<double> {
  const char* isa;
  void (*dropout_keep)(unsigned char* keep, std::int64_t begin, std::int64_t end,
                       DropoutKey key);  // bools; keep: of `begin`
  double (*tree_sum)(const double* values, std::int64_t n);

  template <class P, class S>
  const StepKernels<P, S>& steps() const {
    return *this;
  }
  template <class T>
  const ValueKernels<T>& values() const {
    return *this;
  }
  template <class T>
  const LayerKernels<T>& layers() const {
    return *this;
  }
};
#undef FUSEDSTEP_STEP_BASE
#undef FUSEDSTEP_BASE

}  // namespace fusedstep
