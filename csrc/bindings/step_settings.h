// What a torch optimizer's step read besides tensors when it was last checked, on the optimizer's own dicts.
#pragma once

#include <pybind11/pybind11.h>

#include <utility>
#include <vector>

#include "names.h"

namespace fusedstep {

namespace py = pybind11;

// Compared by identity: only what cannot change in place may be remembered.
class StepSettings {
 public:
  // attributes: the optimizer's __dict__; keys: hyper-parameters of a group; hooks: the hooks of all optimizers.
  // Nothing where one is not there, or hangs on a subclass of dict: it may be computed.
  void remember(const py::dict& attributes, const py::tuple& keys, const py::tuple& hooks) {
    forget();
    Values values;
    for (const char* name : {"max_norm", "ema_decay", "param_groups", "state"}) {
      if (!add(attributes, interned(name), values)) return;
    }
    hooks_ = hooks;
    groups_.clear();
    for (const py::handle item : py::reinterpret_borrow<py::list>(values[2].second)) {
      groups_.push_back({py::reinterpret_borrow<py::dict>(item), {}});
      for (const py::handle key : keys) {
        if (!add(groups_.back().first, py::reinterpret_borrow<py::object>(key), groups_.back().second)) return;
      }
    }
    values_ = std::move(values);
  }

  void forget() { values_.clear(); }

  bool are_those_of(const py::dict& attributes) const {
    const Names& n = names();
    if (values_.empty() || !hold(attributes, values_)) return false;
    if (!is_none(attributes, n.found_inf) || !is_none(attributes, n.grad_scale))
      return false;  // torch.amp.GradScaler's
    if (!is_empty(attributes, n.pre_hooks) || !is_empty(attributes, n.post_hooks)) return false;
    for (const py::handle each : hooks_) {
      if (PyDict_GET_SIZE(each.ptr()) != 0) return false;
    }
    const py::list now = groups();
    if (now.size() != groups_.size()) return false;
    for (std::size_t i = 0; i < groups_.size(); ++i) {
      const auto& [group, values] = groups_[i];
      if (PyList_GET_ITEM(now.ptr(), static_cast<Py_ssize_t>(i)) != group.ptr() || !hold(group, values)) return false;
    }
    return true;
  }

  // For Python's collector: f(object) for each that is held.
  template <class F>
  void visit(const F& f) const {
    const auto visit_values = [&](const Values& values) {
      for (const auto& [key, value] : values) f(key), f(value);
    };
    visit_values(values_);
    for (const auto& [group, values] : groups_) f(group), visit_values(values);
    f(hooks_);
  }

  py::object max_norm() const { return values_[0].second; }
  double ema_decay() const { return values_[1].second.is_none() ? 0 : values_[1].second.cast<double>(); }
  py::list groups() const { return py::reinterpret_borrow<py::list>(values_[2].second); }
  py::dict state() const { return py::reinterpret_borrow<py::dict>(values_[3].second); }

 private:
  using Values = std::vector<std::pair<py::object, py::object>>;

  static py::str interned(const char* name) { return py::reinterpret_steal<py::str>(PyUnicode_InternFromString(name)); }
  // Borrowed; null where it is not there.
  static PyObject* find(const py::dict& dict, py::handle key) {
    PyObject* value = PyDict_GetItemWithError(dict.ptr(), key.ptr());
    if (value == nullptr && PyErr_Occurred()) throw py::error_already_set();
    return value;
  }
  static bool add(const py::dict& dict, const py::object& key, Values& values) {
    PyObject* value = PyDict_CheckExact(dict.ptr()) ? find(dict, key) : nullptr;
    if (value != nullptr) values.emplace_back(key, py::reinterpret_borrow<py::object>(value));
    return value != nullptr;
  }
  static bool hold(const py::dict& dict, const Values& values) {
    for (const auto& [key, value] : values) {
      if (find(dict, key) != value.ptr()) return false;
    }
    return true;
  }
  static bool is_none(const py::dict& dict, py::handle key) {
    PyObject* value = find(dict, key);
    return value == nullptr || value == Py_None;
  }
  static bool is_empty(const py::dict& dict, py::handle key) {
    PyObject* value = find(dict, key);
    return value != nullptr && PyDict_Check(value) && PyDict_GET_SIZE(value) == 0;
  }

  Values values_;
  std::vector<std::pair<py::dict, Values>> groups_;
  py::tuple hooks_;
};

}  // namespace fusedstep
