// Optimizer steps and the global norm. Hyper-parameters are checked in Python (reference/scalars.py).
#include <initializer_list>
#include <stdexcept>

#include "arrays.h"

namespace fusedstep {
namespace {

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
  StepInput(Arrays& arrays, py::handle params, py::handle grads, std::initializer_list<State> states, py::handle ema) {
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

// What all steps have: (lr, weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_decay), checked in
// Python, and `skip`, an int32 array or None.
struct Common {
  Arrays arrays;
  launch::Step call{};
  Array skip;

  void read(const py::tuple& t, py::handle skip_) {
    call.lr = arrays.number(t[0], "lr");
    call.options.weight_decay = t[1].cast<double>();
    call.options.decoupled = py::bool_(t[2]);
    call.options.maximize = py::bool_(t[3]);
    call.multiplier = arrays.number(t[4], "grad_multiplier");
    call.ema_decay = t[5].cast<double>();
    if (skip_.is_none()) return;
    skip = arrays.take_scalar(skip_, "skip", Dtype::kInt32, false);
    call.skip = skip.as<const std::int32_t>();
  }
};

void run(Common& common, const StepInput& input, const char* method) {
  const launch::Step& call = common.call;
  if (common.arrays.has_numbers()) common.arrays.check_apart(input.outputs());
  if (call.skip != nullptr) check_overlap(input.outputs(), {&common.skip});
  const launch::Context context = common.arrays.context();
  if (call.options.reads_step() && call.step.data == nullptr && launch::is_capturing(context)) {
    throw std::runtime_error(std::string("[") + method +
                             "] 'step' is a number, which the graph that is being captured would repeat: "
                             "pass a 0-d int64 array on the device, and advance it in the graph");
  }
  if (input.count() == 0) return;
  by_step_types(input, [&](auto p, auto s) {
    const auto rows = input.rows<decltype(p), decltype(s)>();
    const py::gil_scoped_release unlocked;
    const launch::Scope scope(context);
    launch::step(context, call, rows);
  });
}

void sgd_step(py::handle params, py::handle grads, py::handle momentum_buffers, py::handle ema, const py::tuple& t,
              py::handle skip, double momentum, double dampening, bool nesterov) {
  Common common;
  const StepInput input(common.arrays, params, grads, {{"momentum_buffers", momentum_buffers, Presence::kOptional}},
                        ema);
  common.read(t, skip);
  common.call.rule = momentum_buffers.is_none() ? kSgd : nesterov ? kSgdNesterov : kSgdMomentum;
  common.call.options.decay1 = momentum;
  common.call.options.damping1 = dampening;
  run(common, input, "SGD");
}

void adagrad_step(py::handle params, py::handle grads, py::handle sums, py::handle ema, const py::tuple& t,
                  py::handle skip, py::handle step, double lr_decay, double eps) {
  Common common;
  const StepInput input(common.arrays, params, grads, {{"state_sums", sums}}, ema);
  common.read(t, skip);
  common.call.rule = kAdagrad;
  common.call.step = common.arrays.counter(step, "step", Arrays::CounterType::kInt32OrInt64);
  common.call.options.lr_decay = lr_decay;
  common.call.options.eps = eps;
  run(common, input, "Adagrad");
}

void rmsprop_step(py::handle params, py::handle grads, py::handle squares, py::handle momentum_buffers,
                  py::handle grad_avgs, py::handle ema, const py::tuple& t, py::handle skip, double alpha, double eps,
                  double momentum) {
  Common common;
  const StepInput input(common.arrays, params, grads,
                        {{"square_avgs", squares},
                         {"momentum_buffers", momentum_buffers, Presence::kOptional},
                         {"grad_avgs", grad_avgs, Presence::kOptional}},
                        ema);
  common.read(t, skip);
  const Rule rules[2][2] = {{kRmsprop, kRmspropCentered}, {kRmspropMomentum, kRmspropMomentumCentered}};
  common.call.rule = rules[!momentum_buffers.is_none()][!grad_avgs.is_none()];
  common.call.options.decay1 = momentum;
  common.call.options.decay2 = alpha;
  common.call.options.eps = eps;
  run(common, input, "RMSprop");
}

void adam_step(py::handle params, py::handle grads, py::handle exp_avgs, py::handle exp_avg_sqs, py::handle max_sqs,
               py::handle ema, const py::tuple& t, py::handle skip, py::handle step, double beta1, double beta2,
               double eps, bool bias_correction, bool eps_inside) {
  Common common;
  const StepInput input(
      common.arrays, params, grads,
      {{"exp_avgs", exp_avgs}, {"exp_avg_sqs", exp_avg_sqs}, {"max_exp_avg_sqs", max_sqs, Presence::kOptional}}, ema);
  common.read(t, skip);
  const Rule rules[2][2] = {{kAdam, kAdamEpsInside}, {kAdamAmsgrad, kAdamAmsgradEpsInside}};
  common.call.rule = rules[!max_sqs.is_none()][eps_inside];
  common.call.step = common.arrays.counter(step, "step", Arrays::CounterType::kInt32OrInt64);
  common.call.options.decay1 = common.call.options.damping1 = beta1;
  common.call.options.decay2 = beta2;
  common.call.options.eps = eps;
  common.call.options.bias_correction = bias_correction;
  run(common, input, "Adam");
}

// On the device the norm goes to `out` alone.
double global_norm(py::handle grads, py::handle out, py::handle nonfinite_) {
  Arrays arrays;
  const std::vector<Array> given = arrays.take_list(grads, "grads");
  std::vector<const Array*> inputs;
  inputs.reserve(given.size());
  for (const Array& array : given) {
    check_same_dtype(array, given[0]);
    check_dense(array);
    inputs.push_back(&array);
  }
  Array target, nonfinite;
  if (!out.is_none()) {
    target = arrays.take(out, "out", Accept::kFloats);
    check_writable(target);
    if (target.ndim() != 0) {
      throw py::value_error("'out' must be 0-dimensional but has shape " + shape_text(target.shape));
    }
  }
  if (!nonfinite_.is_none()) nonfinite = arrays.take_scalar(nonfinite_, "nonfinite", Dtype::kInt32, true);
  check_overlap({out.is_none() ? nullptr : &target, nonfinite_.is_none() ? nullptr : &nonfinite}, inputs);
  double norm = 0;
  const bool is_double = target.dtype == Dtype::kFloat64;
  const launch::Result result =
      launch::kOnDevice ? launch::Result{target.data, is_double} : launch::Result{&norm, true};
  const launch::Context context = arrays.context();
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    std::vector<launch::Span<T>> spans;
    spans.reserve(given.size());
    for (const Array& array : given) spans.push_back({array.as<const T>(), array.size});
    const py::gil_scoped_release unlocked;
    const launch::Scope scope(context);
    launch::global_norm<T>(context, spans, result, nonfinite.as<std::int32_t>());
  };
  if (given.empty()) {
    run(float{});
  } else {
    by_dtype(given[0], run);
  }
  if (!launch::kOnDevice && !out.is_none()) {
    by_float(target, [&](auto zero) { *target.as<decltype(zero)>() = static_cast<decltype(zero)>(norm); });
  }
  return norm;
}

void prepare_step(py::handle step_, py::handle multiplier_, py::handle skip_, py::handle norm_, py::handle nonfinite_,
                  py::handle grad_multiplier, py::handle max_norm, py::handle skipped_) {
  Arrays arrays;
  const auto optional = [&](py::handle object, const char* name, Dtype dtype, bool written) {
    return object.is_none() ? Array{} : arrays.take_scalar(object, name, dtype, written);
  };
  const Array step = arrays.take_scalar(step_, "step", Dtype::kInt64, true);
  const Array multiplier = arrays.take_scalar(multiplier_, "multiplier", Dtype::kFloat64, true);
  const Array skip = optional(skip_, "skip", Dtype::kInt32, true);
  const Array norm = optional(norm_, "norm", Dtype::kFloat64, false);
  const Array nonfinite = optional(nonfinite_, "nonfinite", Dtype::kInt32, false);
  const Array skipped = optional(skipped_, "skipped", Dtype::kInt64, true);
  check_overlap({&step, &multiplier, &skip, &skipped}, {&norm, &nonfinite});
  launch::Scalar number = arrays.number(grad_multiplier, "grad_multiplier");
  arrays.check_apart({&step, &multiplier, &skip, &skipped});
  launch::PrepareStep call{step.as<std::int64_t>(),
                           multiplier.as<double>(),
                           skip.as<std::int32_t>(),
                           norm.as<const double>(),
                           nonfinite.as<const std::int32_t>(),
                           skipped.as<std::int64_t>(),
                           number,
                           0,
                           !max_norm.is_none()};
  if (call.clips) call.max_norm = max_norm.cast<double>();
  const launch::Context context = arrays.context();
  const py::gil_scoped_release unlocked;
  const launch::Scope scope(context);
  launch::prepare_step(context, call);
}

}  // namespace

void bind_optimizers(py::module_& m) {
  m.def("sgd_step", &sgd_step);
  m.def("adagrad_step", &adagrad_step);
  m.def("rmsprop_step", &rmsprop_step);
  m.def("adam_step", &adam_step);
  m.def("global_norm", &global_norm);
  m.def("prepare_step", &prepare_step);
}

}  // namespace fusedstep
