// Optimizer steps and the global norm. Hyper-parameters are checked in Python (reference/scalars.py).
#include "../math/optimizers.h"

#include <cmath>
#include <initializer_list>

#include "../cpu/launch.h"
#include "../cpu/parallel.h"
#include "arrays.h"

namespace fusedstep {
namespace {

struct Common {
  StepOptions options;
  double ema_decay;

  // (lr, weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_decay)
  explicit Common(const py::tuple& t)
      : options{t[0].cast<double>(), t[1].cast<double>(), py::bool_(t[2]), py::bool_(t[3]), t[4].cast<double>()},
        ema_decay(t[5].cast<double>()) {}
};

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
  StepInput(py::handle params, py::handle grads, std::initializer_list<State> states, py::handle ema) {
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
    for (const Column& column : given) columns_.push_back(import_arrays(column.arrays, column.name));
    check();
  }

  std::size_t count() const { return columns_[0].size(); }
  const Array& first() const { return columns_[0][0]; }

  template <class T>
  std::vector<cpu::StepArrays<T>> rows() const {
    std::vector<cpu::StepArrays<T>> rows(count());
    for (std::size_t i = 0; i < count(); ++i) {
      cpu::StepArrays<T>& row = rows[i];
      row = {columns_[0][i].as<T>(), columns_[1][i].as<const T>(), {}, nullptr, columns_[0][i].size};
      for (std::size_t s = 0; s < states_; ++s) row.states[s] = columns_[2 + s][i].as<T>();
      if (columns_.size() > 2 + states_) row.ema = columns_.back()[i].as<T>();
    }
    return rows;
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
        check_same_dtype(array, first());
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

// scalars(T{}) folds the hyper-parameters for the arithmetic type T.
template <class Scalars>
void run(const StepInput& input, Rule rule, const Common& common, const Scalars& scalars) {
  if (input.count() == 0) return;
  by_dtype(input.first(), [&](auto zero) {
    using T = decltype(zero);
    const auto rows = input.rows<T>();
    const py::gil_scoped_release unlocked;
    const cpu::DefaultFloatMode mode;
    cpu::step<T>(rule, common.options.l2(), rows, scalars(zero), common.ema_decay);
  });
}

void sgd_step(py::handle params, py::handle grads, py::handle momentum_buffers, py::handle ema, const py::tuple& t,
              double momentum, double dampening, bool nesterov) {
  const Common common(t);
  const StepInput input(params, grads, {{"momentum_buffers", momentum_buffers, Presence::kOptional}}, ema);
  const Rule rule = momentum_buffers.is_none() ? kSgd : nesterov ? kSgdNesterov : kSgdMomentum;
  run(input, rule, common, [&](auto zero) { return sgd_scalars<decltype(zero)>(common.options, momentum, dampening); });
}

void adagrad_step(py::handle params, py::handle grads, py::handle sums, py::handle ema, const py::tuple& t,
                  std::uint64_t step, double lr_decay, double eps) {
  const Common common(t);
  const StepInput input(params, grads, {{"state_sums", sums}}, ema);
  run(input, kAdagrad, common,
      [&](auto zero) { return adagrad_scalars<decltype(zero)>(common.options, step, lr_decay, eps); });
}

void rmsprop_step(py::handle params, py::handle grads, py::handle squares, py::handle momentum_buffers,
                  py::handle grad_avgs, py::handle ema, const py::tuple& t, double alpha, double eps, double momentum) {
  const Common common(t);
  const StepInput input(params, grads,
                        {{"square_avgs", squares},
                         {"momentum_buffers", momentum_buffers, Presence::kOptional},
                         {"grad_avgs", grad_avgs, Presence::kOptional}},
                        ema);
  const Rule rules[2][2] = {{kRmsprop, kRmspropCentered}, {kRmspropMomentum, kRmspropMomentumCentered}};
  run(input, rules[!momentum_buffers.is_none()][!grad_avgs.is_none()], common,
      [&](auto zero) { return rmsprop_scalars<decltype(zero)>(common.options, alpha, eps, momentum); });
}

void adam_step(py::handle params, py::handle grads, py::handle exp_avgs, py::handle exp_avg_sqs, py::handle max_sqs,
               py::handle ema, const py::tuple& t, std::uint64_t step, double beta1, double beta2, double eps,
               bool bias_correction, bool eps_inside) {
  const Common common(t);
  const StepInput input(
      params, grads,
      {{"exp_avgs", exp_avgs}, {"exp_avg_sqs", exp_avg_sqs}, {"max_exp_avg_sqs", max_sqs, Presence::kOptional}}, ema);
  const Rule rules[2][2] = {{kAdam, kAdamEpsInside}, {kAdamAmsgrad, kAdamAmsgradEpsInside}};
  run(input, rules[!max_sqs.is_none()][eps_inside], common, [&](auto zero) {
    return adam_scalars<decltype(zero)>(common.options, step, beta1, beta2, eps, bias_correction);
  });
}

double global_norm(py::handle grads, py::handle out) {
  const std::vector<Array> arrays = import_arrays(grads, "grads");
  for (const Array& array : arrays) {
    check_same_dtype(array, arrays[0]);
    check_dense(array);
  }
  Array target;
  if (!out.is_none()) {
    target = import_array(out, "out");
    check_writable(target);
    if (target.ndim() != 0) {
      throw py::value_error("'out' must be 0-dimensional but has shape " + shape_text(target.shape));
    }
  }
  std::vector<const Array*> inputs;
  for (const Array& array : arrays) inputs.push_back(&array);
  if (!out.is_none()) check_overlap({&target}, inputs);
  double norm = 0;
  if (!arrays.empty()) {
    norm = by_dtype(arrays[0], [&](auto zero) {
      using T = decltype(zero);
      std::vector<cpu::Span<T>> spans;
      spans.reserve(arrays.size());
      for (const Array& array : arrays) spans.push_back({array.as<const T>(), array.size});
      const py::gil_scoped_release unlocked;
      return cpu::global_norm<T>(spans);
    });
  }
  if (!out.is_none()) {
    by_dtype(target, [&](auto zero) { *target.as<decltype(zero)>() = static_cast<decltype(zero)>(norm); });
  }
  return norm;
}

}  // namespace

void bind_optimizers(py::module_& m) {
  m.def("sgd_step", &sgd_step);
  m.def("adagrad_step", &adagrad_step);
  m.def("rmsprop_step", &rmsprop_step);
  m.def("adam_step", &adam_step);
  m.def("global_norm", &global_norm);
}

}  // namespace fusedstep
