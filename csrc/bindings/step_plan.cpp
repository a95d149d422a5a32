// A whole step of an optimizer whose tensors hang on Python dicts, as torch's do, in one crossing: what was checked
// once is only compared afterwards.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <optional>
#include <unordered_map>

#include "known_tensor.h"
#include "step_bucket.h"
#include "step_settings.h"

namespace fusedstep {
namespace {

#define FUSEDSTEP_STATE_COUNT(rule) rule::states,
constexpr std::size_t kStateCounts[] = {FUSEDSTEP_RULES(FUSEDSTEP_STATE_COUNT)};
#undef FUSEDSTEP_STATE_COUNT

enum class Method { kSgd, kAdagrad, kRmsprop, kAdam };

Method method_of(const std::string& name) {
  if (name == "SGD") return Method::kSgd;
  if (name == "Adagrad") return Method::kAdagrad;
  if (name == "RMSprop") return Method::kRmsprop;
  return Method::kAdam;
}

// One group's options: (lr, weight_decay, decoupled, maximize), then the method's own.
launch::Step configure(Method method, const py::tuple& options) {
  launch::Step call{};
  configure_common(call, options);
  const auto number = [&](std::size_t i) { return options[4 + i].cast<double>(); };
  const auto flag = [&](std::size_t i) { return static_cast<bool>(py::bool_(options[4 + i])); };
  switch (method) {
    case Method::kSgd:
      configure_sgd(call, number(0) != 0, number(0), number(1), flag(2));
      break;
    case Method::kAdagrad:
      configure_adagrad(call, number(0), number(1));
      break;
    case Method::kRmsprop:
      configure_rmsprop(call, number(2) != 0, flag(3), number(0), number(1), number(2));
      break;
    case Method::kAdam:
      configure_adam(call, flag(3), number(0), number(1), number(2), true, false);
      break;
  }
  return call;
}

// A step that writes no more, some 20 us, keeps Python's lock: to give it back and take it again costs 0.15 us.
constexpr std::int64_t kLockedBytes = 1 << 20;

// What a step has besides its options: numbers, or 0-d arrays where the device is to read them.
struct StepExtras {
  py::handle multiplier, max_norm, skip;
  double ema_decay;
};

class Busy {
 public:
  Busy(std::atomic<bool>& flag, const std::string& method) : flag_(flag) {
    if (flag_.exchange(true)) {
      throw std::runtime_error("[" + method + "] a step of this optimizer is running in another thread");
    }
  }
  ~Busy() { flag_ = false; }
  Busy(const Busy&) = delete;
  Busy& operator=(const Busy&) = delete;

 private:
  std::atomic<bool>& flag_;
};

class StepPlan {
 public:
  // buckets: [(group, params, grads, [(name, tensors), ...], ema or None, step counters or None), ...]
  StepPlan(const std::string& method, const py::list& buckets, const py::tuple& options)
      : name_(method), method_(method_of(method)) {
    read_options(options);
    for (const py::handle item : buckets) add_bucket(py::reinterpret_borrow<py::tuple>(item));
  }

  // The step on the tensors that the plan was made of.
  void run(const StepExtras& extras) {
    const Busy busy(busy_, name_);
    execute(extras);
  }

  // Notes where the tensors hang, so that the next steps can find them: params of all groups, the optimizer's state and
  // the keys of a row's states in the buckets' order. False where the tensors' library cannot be asked from C.
  bool attach(const py::list& groups, const py::dict& state, const py::list& keys) {
    std::size_t row = 0;
    for (const py::handle group : groups) {
      const auto params = py::reinterpret_borrow<py::dict>(group)["params"].cast<py::list>();
      group_sizes_.push_back(params.size());
      for (const py::handle p : params) {
        const bool has_gradient = !p.attr("grad").is_none();
        places_.push_back({py::reinterpret_borrow<py::object>(p), has_gradient, 0});
      }
    }
    for (const auto& [param, dict] : state) {
      entries_.emplace_back(py::reinterpret_borrow<py::object>(param), py::reinterpret_borrow<py::object>(dict));
    }
    // Buckets hold the rows of a group by their types: each parameter is looked up.
    std::unordered_multimap<PyObject*, Place*> waiting;
    for (Place& place : places_) {
      if (place.has_gradient) waiting.emplace(place.param.ptr(), &place);
    }
    for (std::size_t b = 0; b < columns_.size(); ++b) {
      const auto names = py::reinterpret_borrow<py::tuple>(keys[b]);
      for (std::size_t i = 0; i < buckets_[b]->count(); ++i, ++row) {
        const py::object& p = columns_[b][0][i];
        const auto found = waiting.find(p.ptr());
        if (found == waiting.end()) return false;
        rows_.push_back({b, i, KnownTensor(p), KnownTensor(columns_[b][1][i]), nullptr});
        found->second->row = rows_.size();
        waiting.erase(found);
        if (!rows_.back().param.is_known() || !rows_.back().gradient.is_known()) return false;
        if (names.empty()) continue;
        const py::object dict = state[p];
        for (std::size_t k = 0; k < names.size(); ++k) {
          const py::object tensor = dict[names[k]];
          states_.push_back({dict, py::reinterpret_borrow<py::object>(names[k]), tensor, KnownTensor(tensor)});
          if (!states_.back().known.is_known()) return false;
        }
      }
    }
    note_written();
    for (auto& columns : columns_) columns[1].clear();  // gradients belong to their parameters
    return true;
  }

  // The step on the gradients of now. False, and nothing done, where anything else has changed.
  bool run_attached(const py::list& groups, const py::dict& state, const py::tuple& options, const StepExtras& extras) {
    const Busy busy(busy_, name_);
    std::vector<py::object> gradients;  // held while the kernels run
    gradients.reserve(rows_.size());
    if (!groups_match(groups, gradients) || !state_matches(state) || !counters_count()) return false;
    if (!options_match(options)) return false;
    execute(extras);
    return true;
  }

  // What `run_attached` was just called with, on the optimizer that the plan is attached to.
  void remember(const py::dict& attributes, const py::tuple& keys, const py::tuple& hooks) {
    settings_.remember(attributes, keys, hooks);
  }

  // The step on the gradients of now, where the optimizer's settings are the remembered ones too.
  bool run_again(const py::dict& attributes) {
    if (!settings_.are_those_of(attributes)) return false;
    const py::object max_norm = settings_.max_norm();
    return run_attached(settings_.groups(), settings_.state(), options_,
                        {one_, max_norm, py::none(), settings_.ema_decay()});
  }

  // For Python's collector: f(object) for each that is held. A parameter may lead back to its optimizer.
  template <class F>
  void visit(const F& f) const {
    f(options_), f(one_);
    for (const auto& bucket : columns_) {
      for (const auto& column : bucket) std::for_each(column.begin(), column.end(), f);
    }
    std::for_each(steps_.begin(), steps_.end(), f);
    std::for_each(extra_.begin(), extra_.end(), f);
    for (const Place& place : places_) f(place.param);
    for (const StateTensor& s : states_) f(s.dict), f(s.key), f(s.tensor);
    for (const auto& [param, dict] : entries_) f(param), f(dict);
    settings_.visit(f);
  }

 private:
  struct Place {
    py::object param;
    bool has_gradient;
    std::size_t row;  // from 1
  };
  struct Row {
    std::size_t bucket, index;
    KnownTensor param, gradient;
    const void* gradient_data;  // at the last step, when it was found apart from all that is written
  };
  struct StateTensor {
    py::object dict, key, tensor;
    KnownTensor known;
  };

  void read_options(const py::tuple& options) {
    std::vector<launch::Step> calls;
    for (const py::handle group : options) {
      calls.push_back(configure(method_, py::reinterpret_borrow<py::tuple>(group)));
    }
    calls_ = std::move(calls);
    options_ = options;
    settings_.forget();  // they had other options
  }

  void add_bucket(const py::tuple& given) {
    const auto states = given[3].cast<py::list>();
    std::vector<std::string> names;
    for (const py::handle pair : states) names.push_back(pair[py::int_(0)].cast<std::string>());
    std::vector<State> columns;
    for (std::size_t i = 0; i < names.size(); ++i) {
      columns.push_back({names[i].c_str(), states[i][py::int_(1)], Presence::kRequired});
    }
    Arrays arrays;
    const StepInput input(arrays, given[1], given[2], columns, given[4]);
    context_ = arrays.context();
    const auto group = given[0].cast<std::size_t>();
    const Rule rule = calls_[group].rule;
    if (kStateCounts[rule] != names.size()) throw std::logic_error("a plan's states are not those of its rule");
    by_step_types(input, [&](auto p, auto s) {
      buckets_.push_back(std::make_unique<BucketOf<decltype(p), decltype(s)>>(input.rows<decltype(p), decltype(s)>()));
    });
    Bucket& bucket = *buckets_.back();
    bucket.group = group;
    bucket.rule = rule;
    if (!given[5].is_none()) {
      for (const py::handle counter : given[5]) {
        bucket.counters.emplace_back(counter);
        if (bucket.counters.back().is_count()) continue;
        throw py::value_error("[" + name_ + "] 'step' of a parameter's state must be a count but got " +
                              std::to_string(bucket.counters.back().get()));
      }
    }
    columns_.emplace_back();
    for (std::size_t c = 0; c < input.columns(); ++c) {
      columns_.back().emplace_back();
      for (const Array& array : input.column(c)) {
        const char* begin = array.as<const char>();
        if (c == 1 || array.size == 0) continue;
        written_.emplace_back(begin, begin + array.size * array.itemsize);
        written_bytes_ += array.size * array.itemsize;
      }
    }
    for (std::size_t c = 0; c < 2; ++c) {
      for (const py::handle tensor : given[c + 1]) {
        columns_.back()[c].push_back(py::reinterpret_borrow<py::object>(tensor));
      }
    }
    steps_.push_back(given[5]);
    extra_.push_back(given);  // keeps every tensor alive
  }

  void note_written() {
    std::sort(written_.begin(), written_.end());
    extra_.clear();
  }

  // Whether a gradient shares memory with nothing that is written; what is written never overlaps itself.
  bool is_apart(const void* data, std::int64_t bytes) const {
    const char *begin = static_cast<const char*>(data), *end = begin + bytes;
    const auto after = std::upper_bound(written_.begin(), written_.end(), std::make_pair(begin, begin));
    if (after != written_.end() && after->first < end) return false;
    return after == written_.begin() || std::prev(after)->second <= begin;
  }

  bool groups_match(const py::list& groups, std::vector<py::object>& gradients) {
    const Names& n = names();
    if (groups.size() != group_sizes_.size()) return false;
    auto place = places_.begin();
    for (std::size_t g = 0; g < group_sizes_.size(); ++g) {
      PyObject* group = PyList_GET_ITEM(groups.ptr(), static_cast<Py_ssize_t>(g));
      PyObject* params = PyDict_Check(group) ? PyDict_GetItemWithError(group, n.params) : nullptr;
      if (params == nullptr || !PyList_Check(params)) return false;
      if (PyList_GET_SIZE(params) != static_cast<Py_ssize_t>(group_sizes_[g])) return false;
      for (std::size_t i = 0; i < group_sizes_[g]; ++i, ++place) {
        PyObject* p = PyList_GET_ITEM(params, static_cast<Py_ssize_t>(i));
        if (p != place->param.ptr()) return false;
        auto gradient = py::reinterpret_steal<py::object>(PyObject_GetAttr(p, n.grad));
        if (!gradient) throw py::error_already_set();
        if (gradient.is_none() == place->has_gradient) return false;
        if (!place->has_gradient) continue;
        Row& row = rows_[place->row - 1];
        DLTensor now;
        if (!row.param.is_unchanged(p) || !row.gradient.resembles(gradient.ptr(), now)) return false;
        if (has_negative_bit(gradient)) return false;
        const void* data = KnownTensor::address(now);
        if (data != row.gradient_data) {
          std::int64_t bytes = now.dtype.bits / 8;
          for (int axis = 0; axis < now.ndim; ++axis) bytes *= now.shape[axis];
          if (bytes != 0 && (data == nullptr || reinterpret_cast<std::uintptr_t>(data) % (now.dtype.bits / 8) != 0 ||
                             !is_apart(data, bytes))) {
            return false;
          }
          row.gradient_data = data;
          buckets_[row.bucket]->set_gradient(row.index, data);
        }
        gradients.push_back(std::move(gradient));
      }
    }
    return true;
  }

  bool state_matches(const py::dict& state) const {
    Py_ssize_t position = 0;
    PyObject *key, *value;
    auto entry = entries_.begin();
    while (PyDict_Next(state.ptr(), &position, &key, &value)) {
      if (entry == entries_.end() || entry->first.ptr() != key || entry->second.ptr() != value) return false;
      ++entry;
    }
    if (entry != entries_.end()) return false;
    for (const StateTensor& s : states_) {
      if (PyDict_GetItemWithError(s.dict.ptr(), s.key.ptr()) != s.tensor.ptr()) return false;
      if (!s.known.is_unchanged(s.tensor.ptr())) return false;
    }
    return true;
  }

  // Their values may have been set in place.
  bool counters_count() const {
    return std::all_of(buckets_.begin(), buckets_.end(), [](const auto& bucket) {
      return std::all_of(bucket->counters.begin(), bucket->counters.end(), [](const auto& c) { return c.is_count(); });
    });
  }

  // The rules must stay those that the states were made for.
  bool options_match(const py::tuple& options) {
    bool same = options.size() == options_.size();
    for (std::size_t g = 0; same && g < options.size(); ++g) {
      same = PyTuple_GET_ITEM(options.ptr(), static_cast<Py_ssize_t>(g)) ==
             PyTuple_GET_ITEM(options_.ptr(), static_cast<Py_ssize_t>(g));
    }
    if (same) return true;
    if (options.size() != options_.size()) return false;
    read_options(options);
    return std::all_of(buckets_.begin(), buckets_.end(),
                       [&](const auto& bucket) { return bucket->rule == calls_[bucket->group].rule; });
  }

  // The norm of all gradients together. Each type has its own sum, whose order is fixed by the sizes.
  double norm(const launch::Context& context) const {
    GradientSpans spans;
    for (const auto& bucket : buckets_) bucket->add_gradients(spans);
    double total = 0, largest = 0;
    int types = 0;
    const auto add = [&](const auto& list) {
      if (list.empty()) return;
      double value = 0;
      launch::global_norm(context, list, {&value, true}, nullptr);
      total += value * value;
      largest = value;
      ++types;
    };
    std::apply([&](const auto&... lists) { (add(lists), ...); }, spans);
    return types == 1 ? largest : std::sqrt(total);
  }

  launch::Context context() const {
    launch::Context now = context_;
#if defined(FUSEDSTEP_CUDA_MODULE) && !defined(FUSEDSTEP_CUDA_ON_CPU)
    if (!rows_.empty()) {
      const ExchangeApi* api = exchange_api(Py_TYPE(places_[0].param.ptr()));
      if (api->current_stream(kDeviceCuda, now.device, &now.stream) != 0) throw py::error_already_set();
    }
#endif
    return now;
  }

  Py_ssize_t group_at(std::size_t bucket) const { return static_cast<Py_ssize_t>(buckets_[bucket]->group); }

  void execute(const StepExtras& extras) {
    Arrays arrays;
    std::vector<launch::Step> calls;
    calls.reserve(buckets_.size());
    const launch::Context context = this->context();
    const launch::Scalar multiplier = arrays.number(extras.multiplier, "grad_multiplier");
    Array skip;
    if (!extras.skip.is_none()) skip = arrays.take_scalar(extras.skip, "skip", Dtype::kInt32, false);
    for (std::size_t b = 0; b < buckets_.size(); ++b) {
      launch::Step call = calls_[buckets_[b]->group];
      call.lr = arrays.number(PyTuple_GET_ITEM(PyTuple_GET_ITEM(options_.ptr(), group_at(b)), 0), "lr");
      call.multiplier = multiplier;
      call.ema_decay = extras.ema_decay;
      call.skip = skip.as<const std::int32_t>();
      check_step_is_fresh(call, context, name_.c_str());
      calls.push_back(call);
    }
    const bool clips = !extras.max_norm.is_none();
    const double max_norm = clips ? extras.max_norm.cast<double>() : 0;
    std::optional<py::gil_scoped_release> unlocked;
    if (written_bytes_ > kLockedBytes) unlocked.emplace();
    const launch::Scope scope(context);
    const double factor = clips ? clipping_factor(max_norm, norm(context) * std::fabs(multiplier.value)) : 1;
    for (std::size_t b = 0; b < buckets_.size(); ++b) {
      if (clips) calls[b].multiplier.value *= factor;
      buckets_[b]->step(context, calls[b]);
    }
  }

  std::string name_;
  Method method_;
  py::tuple options_;
  std::vector<launch::Step> calls_;  // one a group
  std::vector<std::unique_ptr<Bucket>> buckets_;
  std::vector<std::vector<std::vector<py::object>>> columns_;  // of each bucket: parameters and gradients
  std::vector<py::object> steps_, extra_;
  std::vector<std::pair<const char*, const char*>> written_;
  std::int64_t written_bytes_ = 0;
  std::vector<std::size_t> group_sizes_;
  std::vector<Place> places_;
  std::vector<Row> rows_;
  std::vector<StateTensor> states_;
  std::vector<std::pair<py::object, py::object>> entries_;
  StepSettings settings_;
  py::float_ one_{1.0};
  launch::Context context_;
  std::atomic<bool> busy_{false};
};

// An optimizer holds its plan in its __dict__, which the collector clears: to be seen is enough.
int traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  if (!py::detail::is_holder_constructed(self)) return 0;
  int result = 0;
  // Not by a cast, which takes pybind11's lock: the collector may have stopped the thread that holds it.
  const auto value = reinterpret_cast<py::detail::instance*>(self)->get_value_and_holder();
  value.value_ptr<StepPlan>()->visit([&](const py::handle& object) {
    if (result == 0 && object) result = visit(object.ptr(), arg);
  });
  return result;
}

void collect(PyHeapTypeObject* type) {
  type->ht_type.tp_flags |= Py_TPFLAGS_HAVE_GC;
  type->ht_type.tp_traverse = traverse;
}

}  // namespace

void bind_step_plan(py::module_& m) {
  py::class_<StepPlan>(m, "StepPlan", py::module_local(), py::custom_type_setup(collect))
      .def(py::init<const std::string&, const py::list&, const py::tuple&>())
      .def("attach", &StepPlan::attach)
      .def("remember", &StepPlan::remember)
      .def("run_again", &StepPlan::run_again)
      .def("run", [](StepPlan& plan, py::handle multiplier, py::handle max_norm, double ema_decay,
                     py::handle skip) { plan.run({multiplier, max_norm, skip, ema_decay}); })
      .def("run_attached", [](StepPlan& plan, const py::list& groups, const py::dict& state, const py::tuple& options,
                              py::handle multiplier, py::handle max_norm, double ema_decay, py::handle skip) {
        return plan.run_attached(groups, state, options, {multiplier, max_norm, skip, ema_decay});
      });
}

}  // namespace fusedstep
