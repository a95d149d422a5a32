// Optimizer steps and the global norm. Hyper-parameters are checked in Python (reference/scalars.py).
#include <stdexcept>

#include "step_input.h"

namespace fusedstep {
namespace {

// What all steps have: (lr, weight_decay, decoupled_weight_decay, maximize, grad_multiplier, ema_decay), checked in
// Python, and `skip`, an int32 array or None.
struct Common {
  Arrays arrays;
  launch::Step call{};
  Array skip;

  void read(const py::tuple& t, py::handle skip_) {
    call.lr = arrays.number(t[0], "lr");
    configure_common(call, t);
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
  check_step_is_fresh(call, context, method);
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
  configure_sgd(common.call, !momentum_buffers.is_none(), momentum, dampening, nesterov);
  run(common, input, "SGD");
}

void adagrad_step(py::handle params, py::handle grads, py::handle sums, py::handle ema, const py::tuple& t,
                  py::handle skip, py::handle step, double lr_decay, double eps) {
  Common common;
  const StepInput input(common.arrays, params, grads, {{"state_sums", sums}}, ema);
  common.read(t, skip);
  configure_adagrad(common.call, lr_decay, eps);
  common.call.step = common.arrays.counter(step, "step", Arrays::CounterType::kInt32OrInt64);
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
  configure_rmsprop(common.call, !momentum_buffers.is_none(), !grad_avgs.is_none(), alpha, eps, momentum);
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
  configure_adam(common.call, !max_sqs.is_none(), beta1, beta2, eps, bias_correction, eps_inside);
  common.call.step = common.arrays.counter(step, "step", Arrays::CounterType::kInt32OrInt64);
  run(common, input, "Adam");
}

void nadam_step(py::handle params, py::handle grads, py::handle exp_avgs, py::handle exp_avg_sqs, py::handle ema,
                const py::tuple& t, py::handle skip, py::handle step, double beta1, double beta2, double eps,
                double momentum_schedule) {
  Common common;
  const StepInput input(common.arrays, params, grads, {{"exp_avgs", exp_avgs}, {"exp_avg_sqs", exp_avg_sqs}}, ema);
  common.read(t, skip);
  configure_moments(common.call, kNadam, beta1, beta2, eps, true);
  common.call.options.scheduled = true;
  common.call.options.momentum_schedule = momentum_schedule;
  common.call.step = common.arrays.counter(step, "step", Arrays::CounterType::kInt32OrInt64);
  run(common, input, "NAdam");
}

void radam_step(py::handle params, py::handle grads, py::handle exp_avgs, py::handle exp_avg_sqs, py::handle ema,
                const py::tuple& t, py::handle skip, py::handle step, double beta1, double beta2, double eps) {
  Common common;
  const StepInput input(common.arrays, params, grads, {{"exp_avgs", exp_avgs}, {"exp_avg_sqs", exp_avg_sqs}}, ema);
  common.read(t, skip);
  configure_moments(common.call, kRadam, beta1, beta2, eps, true);
  common.call.options.rectified = true;
  common.call.step = common.arrays.counter(step, "step", Arrays::CounterType::kInt32OrInt64);
  run(common, input, "RAdam");
}

void adamax_step(py::handle params, py::handle grads, py::handle exp_avgs, py::handle exp_infs, py::handle ema,
                 const py::tuple& t, py::handle skip, py::handle step, double beta1, double beta2, double eps) {
  Common common;
  const StepInput input(common.arrays, params, grads, {{"exp_avgs", exp_avgs}, {"exp_infs", exp_infs}}, ema);
  common.read(t, skip);
  configure_moments(common.call, kAdamax, beta1, beta2, eps, true);
  common.call.step = common.arrays.counter(step, "step", Arrays::CounterType::kInt32OrInt64);
  run(common, input, "Adamax");
}

void adadelta_step(py::handle params, py::handle grads, py::handle square_avgs, py::handle acc_deltas, py::handle ema,
                   const py::tuple& t, py::handle skip, double rho, double eps) {
  Common common;
  const StepInput input(common.arrays, params, grads, {{"square_avgs", square_avgs}, {"acc_deltas", acc_deltas}}, ema);
  common.read(t, skip);
  configure_moments(common.call, kAdadelta, 0, rho, eps, false);
  run(common, input, "Adadelta");
}

void lion_step(py::handle params, py::handle grads, py::handle exp_avgs, py::handle ema, const py::tuple& t,
               py::handle skip, double beta1, double beta2) {
  Common common;
  const StepInput input(common.arrays, params, grads, {{"exp_avgs", exp_avgs}}, ema);
  common.read(t, skip);
  configure_moments(common.call, kLion, beta1, beta2, 0, false);
  run(common, input, "Lion");
}

void lars_step(py::handle params, py::handle grads, py::handle momentum_buffers, py::handle ema, const py::tuple& t,
               py::handle skip, double momentum, double trust_coefficient, double eps, bool adapt) {
  Common common;
  const StepInput input(common.arrays, params, grads, {{"momentum_buffers", momentum_buffers}}, ema);
  common.read(t, skip);
  configure_moments(common.call, kLars, momentum, 0, 0, false);
  configure_trust(common.call, adapt, trust_coefficient, common.call.options.weight_decay, eps);
  run(common, input, "LARS");
}

void lamb_step(py::handle params, py::handle grads, py::handle exp_avgs, py::handle exp_avg_sqs, py::handle ema,
               const py::tuple& t, py::handle skip, py::handle step, double beta1, double beta2, double eps,
               bool bias_correction, bool adapt) {
  Common common;
  const StepInput input(common.arrays, params, grads, {{"exp_avgs", exp_avgs}, {"exp_avg_sqs", exp_avg_sqs}}, ema);
  common.read(t, skip);
  configure_moments(common.call, kLamb, beta1, beta2, eps, bias_correction);
  configure_trust(common.call, adapt, 1, 0, 0);
  common.call.step = common.arrays.counter(step, "step", Arrays::CounterType::kInt32OrInt64);
  run(common, input, "LAMB");
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
  m.def("nadam_step", &nadam_step);
  m.def("radam_step", &radam_step);
  m.def("adamax_step", &adamax_step);
  m.def("adadelta_step", &adadelta_step);
  m.def("lion_step", &lion_step);
  m.def("lars_step", &lars_step);
  m.def("lamb_step", &lamb_step);
  m.def("global_norm", &global_norm);
  m.def("prepare_step", &prepare_step);
}

}  // namespace fusedstep
