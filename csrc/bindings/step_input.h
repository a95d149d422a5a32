// The arrays of an optimizer step, imported and checked, and what its hyper-parameters are to the rules.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "arrays.h"

namespace fusedstep {

enum class Presence { kRequired, kOptional };

struct Column {
  const char* name;
  py::object arrays;
  std::size_t count;

  // A list is copied: it must not change under the checks.
  Column(const char* column, py::handle given) : name(column) {
    const bool many = PyList_Check(given.ptr()) || PyTuple_Check(given.ptr());
    arrays = many ? py::reinterpret_steal<py::object>(PySequence_Tuple(given.ptr()))
                  : py::reinterpret_borrow<py::object>(given);
    if (!arrays) throw py::error_already_set();
    count = many ? py::len(arrays) : 1;
  }
};

struct State {
  const char* name;
  py::handle arrays;  // None: not there, if it is optional
  Presence presence = Presence::kRequired;
};

// The arrays of a step, imported and checked: column 0 the parameters, 1 the gradients, then the states.
class StepInput {
 public:
  StepInput(Arrays& arrays, py::handle params, py::handle grads, const std::vector<State>& states, py::handle ema) {
    std::vector<Column> given;
    given.reserve(states.size() + 3);
    given.emplace_back("params", params);
    given.emplace_back("grads", grads);
    for (const State& state : states) {
      if (state.presence == Presence::kRequired || !state.arrays.is_none())
        given.emplace_back(state.name, state.arrays);
    }
    states_ = given.size() - 2;
    if (!ema.is_none()) given.emplace_back("ema_params", ema);
    for (const Column& column : given) {
      if (column.count == given[0].count) continue;
      throw py::value_error("'params' has " + std::to_string(given[0].count) + " arrays but '" + column.name +
                            "' has " + std::to_string(column.count));
    }
    columns_.reserve(given.size());
    for (const Column& column : given) columns_.push_back(arrays.take_list(column.arrays, column.name));
    check();
  }

  std::size_t count() const { return columns_[0].size(); }
  const std::vector<Array>& column(std::size_t c) const { return columns_[c]; }
  std::size_t columns() const { return columns_.size(); }
  const Array& first() const { return columns_[0][0]; }

  // A state, or where there is none the first parameter.
  const Array& first_state() const { return columns_.size() > 2 ? columns_[2][0] : first(); }

  template <class P, class S>
  std::vector<launch::StepArrays<P, S>> rows() const {
    std::vector<launch::StepArrays<P, S>> rows(count());
    for (std::size_t i = 0; i < count(); ++i) {
      launch::StepArrays<P, S>& row = rows[i];
      row = {columns_[0][i].as<P>(), columns_[1][i].as<const P>(), {}, nullptr, columns_[0][i].size};
      for (std::size_t s = 0; s < states_; ++s) row.states[s] = columns_[2 + s][i].as<S>();
      if (columns_.size() > 2 + states_) row.ema = columns_.back()[i].as<S>();
    }
    return rows;
  }

  std::vector<const Array*> outputs() const {
    std::vector<const Array*> list;
    for (std::size_t c = 0; c < columns_.size(); ++c) {
      for (const Array& array : columns_[c]) {
        if (c != 1) list.push_back(&array);
      }
    }
    return list;
  }

 private:
  void check() const {
    std::vector<const Array*> outputs, inputs;
    outputs.reserve(count() * columns_.size());
    inputs.reserve(count());
    for (std::size_t i = 0; i < count(); ++i) {
      const Array& p = columns_[0][i];
      for (std::size_t c = 0; c < columns_.size(); ++c) {
        const Array& array = columns_[c][i];
        if (c < 2) {
          check_same_dtype(array, first());
        } else if (&array == &first_state()) {
          check_companion_dtype(array, first());
        } else {
          check_same_dtype(array, first_state());
        }
        if (c != 1) check_writable(array);
        if (c == 0) {
          check_dense(array);
        } else {
          check_same_shape(array, p);
          check_same_layout(array, p);
        }
        (c == 1 ? inputs : outputs).push_back(&array);
      }
    }
    check_overlap(outputs, inputs);
  }

  std::vector<std::vector<Array>> columns_;
  std::size_t states_ = 0;
};

// Calls f(P{}, S{}) with the types of parameters and states.
template <class F>
void by_step_types(const StepInput& input, const F& f) {
  const bool widened = input.first_state().dtype == Dtype::kFloat32;
  by_dtype(input.first(), [&](auto zero) {
    using P = decltype(zero);
    if constexpr (sizeof(P) == 2) {
      if (widened) return f(zero, float{});
    }
    f(zero, zero);
  });
}

// From what Python hands over: (lr, weight_decay, decoupled_weight_decay, maximize, ...).
inline void configure_common(launch::Step& call, const py::tuple& common) {
  call.options.weight_decay = common[1].cast<double>();
  call.options.decoupled = py::bool_(common[2]);
  call.options.maximize = py::bool_(common[3]);
}

inline void configure_sgd(launch::Step& call, bool buffers, double momentum, double dampening, bool nesterov) {
  call.rule = !buffers ? kSgd : nesterov ? kSgdNesterov : kSgdMomentum;
  call.options.decay1 = momentum;
  call.options.damping1 = dampening;
}

inline void configure_adagrad(launch::Step& call, double lr_decay, double eps) {
  call.rule = kAdagrad;
  call.options.lr_decay = lr_decay;
  call.options.eps = eps;
}

inline void configure_rmsprop(launch::Step& call, bool buffers, bool centered, double alpha, double eps,
                              double momentum) {
  const Rule rules[2][2] = {{kRmsprop, kRmspropCentered}, {kRmspropMomentum, kRmspropMomentumCentered}};
  call.rule = rules[buffers][centered];
  call.options.decay1 = momentum;
  call.options.decay2 = alpha;
  call.options.eps = eps;
}

// Adam and what is like it.
inline void configure_moments(launch::Step& call, Rule rule, double beta1, double beta2, double eps,
                              bool bias_correction) {
  call.rule = rule;
  call.options.decay1 = call.options.damping1 = beta1;
  call.options.decay2 = beta2;
  call.options.eps = eps;
  call.options.bias_correction = bias_correction;
}

inline void configure_adam(launch::Step& call, bool amsgrad, double beta1, double beta2, double eps,
                           bool bias_correction, bool eps_inside) {
  const Rule rules[2][2] = {{kAdam, kAdamEpsInside}, {kAdamAmsgrad, kAdamAmsgradEpsInside}};
  configure_moments(call, rules[amsgrad][eps_inside], beta1, beta2, eps, bias_correction);
}

// L2 decay is LARS' and LAMB's own. decay: that of the ratio's divisor.
inline void configure_trust(launch::Step& call, bool adapt, double coefficient, double decay, double eps) {
  call.options.trust = {adapt, true, coefficient, call.options.decoupled ? 0 : decay, eps};
}

inline void check_step_is_fresh(const launch::Step& call, const launch::Context& context, const char* method) {
  if (!call.options.reads_step() || call.step.data != nullptr || !launch::is_capturing(context)) return;
  throw std::runtime_error(std::string("[") + method +
                           "] 'step' is a number, which the graph that is being captured would repeat: "
                           "pass a 0-d int64 array on the device, and advance it in the graph");
}

}  // namespace fusedstep
