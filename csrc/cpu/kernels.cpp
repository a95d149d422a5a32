// Fills the table of kernels for one instruction set. Compiled several times, with FUSEDSTEP_ISA_NAME set and that
// instruction set's flags; only the getter has a name that the linker sees.
#include "../kernels.h"

#include "batch_norm.h"
#include "dropout.h"
#include "elementwise.h"
#include "losses.h"
#include "reduce.h"

#define FUSEDSTEP_JOIN_(a, b) a##b
#define FUSEDSTEP_JOIN(a, b) FUSEDSTEP_JOIN_(a, b)
#define FUSEDSTEP_STRING_(a) #a
#define FUSEDSTEP_STRING(a) FUSEDSTEP_STRING_(a)

namespace fusedstep {
namespace {

template <class P, class S>
constexpr StepKernels<P, S> step_kernels() {
  StepKernels<P, S> k{};
#define FUSEDSTEP_FILL(rule)                           \
  k.step[k##rule][0] = &step_range<rule, false, P, S>; \
  k.step[k##rule][1] = &step_range<rule, true, P, S>;
  FUSEDSTEP_RULES(FUSEDSTEP_FILL)
#undef FUSEDSTEP_FILL
  k.average = &average_range<P, S>;
#define FUSEDSTEP_FILL(rule) k.trust_leaves[k##rule] = &trust_leaves<rule, P, S>;
  FUSEDSTEP_TRUST_RULES(FUSEDSTEP_FILL)
#undef FUSEDSTEP_FILL
  return k;
}

template <class T>
constexpr ValueKernels<T> value_kernels() {
  ValueKernels<T> k{};
  k.square_leaves = &square_leaves<T>;
  k.moment_leaves = &moment_leaves<T>;
  k.normalize[0] = &normalize_range<false, T>;
  k.normalize[1] = &normalize_range<true, T>;
  k.normalize_streamed[0] = &normalize_streamed<false, T>;
  k.normalize_streamed[1] = &normalize_streamed<true, T>;
  k.gradient_leaves[0] = &gradient_leaves<false, T>;
  k.gradient_leaves[1] = &gradient_leaves<true, T>;
  k.input_gradient[0] = &input_gradient_range<false, T>;
  k.input_gradient[1] = &input_gradient_range<true, T>;
  k.input_gradient_streamed[0] = &input_gradient_streamed<false, T>;
  k.input_gradient_streamed[1] = &input_gradient_streamed<true, T>;
  k.dropout[0] = &dropout_range<false, false, T>;
  k.dropout[1] = &dropout_range<true, false, T>;
  k.dropout_streamed[0] = &dropout_range<false, true, T>;
  k.dropout_streamed[1] = &dropout_range<true, true, T>;
  k.dropout_strided[0] = &dropout_strided<false, T>;
  k.dropout_strided[1] = &dropout_strided<true, T>;
  k.dropout_relu_backward = &dropout_relu_backward<T>;
  return k;
}

template <class T>
constexpr LayerKernels<T> layer_kernels() {
  LayerKernels<T> k{};
#define FUSEDSTEP_FILL(activation)                                                  \
  k.bias_activation[k##activation] = &bias_activation_range<activation, T>;         \
  k.activation_backward[k##activation] = &activation_backward_range<activation, T>; \
  k.activation_backward_leaf[k##activation] = &activation_backward_leaf<activation, T>;
  FUSEDSTEP_ACTIVATIONS(FUSEDSTEP_FILL)
#undef FUSEDSTEP_FILL
  k.softmax_cross_entropy = &softmax_cross_entropy_rows<T>;
  k.sigmoid_cross_entropy = &pairwise_loss_rows<SigmoidCrossEntropy, T>;
  k.mean_squared_error = &pairwise_loss_rows<MeanSquaredError, T>;
  return k;
}

constexpr Kernels make_table() {
  Kernels k{};
#define FUSEDSTEP_FILL(P, S) static_cast<StepKernels<P, S>&>(k) = step_kernels<P, S>();
  FUSEDSTEP_STEP_TYPES(FUSEDSTEP_FILL)
#undef FUSEDSTEP_FILL
#define FUSEDSTEP_FILL(T) static_cast<ValueKernels<T>&>(k) = value_kernels<T>();
  FUSEDSTEP_TYPES(FUSEDSTEP_FILL)
#undef FUSEDSTEP_FILL
  static_cast<LayerKernels<float>&>(k) = layer_kernels<float>();
  static_cast<LayerKernels<double>&>(k) = layer_kernels<double>();
  k.isa = FUSEDSTEP_STRING(FUSEDSTEP_ISA_NAME);
  k.dropout_keep = &dropout_keep;
  k.tree_sum = &tree_sum<double>;
  return k;
}

constexpr Kernels table = make_table();

}  // namespace

const Kernels& FUSEDSTEP_JOIN(kernels_, FUSEDSTEP_ISA_NAME)() { return table; }

}  // namespace fusedstep
