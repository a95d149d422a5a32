// Python objects that calls use again and again: made once in each interpreter, and never freed, so that it may end in
// any order. Beside them only types outlive a call (exchange_api).
#pragma once

#include <pybind11/gil_safe_call_once.h>
#include <pybind11/pybind11.h>

#include "../launch.h"

namespace fusedstep {

struct Names {
  PyObject *dlpack, *exchange_api, *is_neg;
  PyObject *keywords, *stream_keyword, *version, *no_stream;  // of __dlpack__; no stream_keyword on the CPU
  PyObject *params, *grad, *found_inf, *grad_scale, *pre_hooks, *post_hooks;  // torch's optimizers
};

inline Names make_names() {
  namespace py = pybind11;
  const auto made = [](PyObject* object) {
    if (object == nullptr) throw py::error_already_set();
    return object;
  };
  const auto interned = [&](const char* name) { return made(PyUnicode_InternFromString(name)); };
#if defined(FUSEDSTEP_CUDA_MODULE) && !defined(FUSEDSTEP_CUDA_ON_CPU)
  PyObject* keywords = py::make_tuple("stream", "max_version").release().ptr();
  PyObject* stream_keyword = py::make_tuple("stream").release().ptr();
#else
  PyObject *keywords = py::make_tuple("max_version").release().ptr(), *stream_keyword = nullptr;
#endif
  return {interned("__dlpack__"),
          interned("__dlpack_c_exchange_api__"),
          interned("is_neg"),
          keywords,
          stream_keyword,
          py::make_tuple(1, 0).release().ptr(),
          made(PyLong_FromLong(-1)),
          interned("params"),
          interned("grad"),
          interned("found_inf"),
          interned("grad_scale"),
          interned("_optimizer_step_pre_hooks"),
          interned("_optimizer_step_post_hooks")};
}

inline const Names& names() {
  PYBIND11_CONSTINIT static pybind11::gil_safe_call_once_and_store<Names> storage;
  return storage.call_once_and_store_result(make_names).get_stored();
}

}  // namespace fusedstep
