// A tensor that was checked, to be compared with what it is now.
#pragma once

#include <cstdint>
#include <vector>

#include "arrays.h"
#include "dlpack.h"

namespace fusedstep {

inline bool export_now(const ExchangeApi* api, PyObject* tensor, DLTensor& now) {
  if (api == nullptr) return false;
  if (api->to_tensor(tensor, &now) == 0) return true;
  PyErr_Clear();
  return false;
}

// What a tensor was when it was checked.
class KnownTensor {
 public:
  explicit KnownTensor(py::handle tensor) : type_(py::type::of(tensor)), api_(exchange_api(Py_TYPE(tensor.ptr()))) {
    DLTensor now;
    if (!export_now(api_, tensor.ptr(), now) || now.strides == nullptr) return;
    is_known_ = true;
    data_ = address(now);
    dtype_ = now.dtype;
    device_ = now.device;
    shape_.assign(now.shape, now.shape + now.ndim);
    strides_.assign(now.strides, now.strides + now.ndim);
  }

  bool is_known() const { return is_known_; }

  // Another tensor's dtype, device, shape and strides are these; `now` gets its address.
  bool resembles(PyObject* tensor, DLTensor& now) const {
    const ExchangeApi* api =
        type_.is(py::handle(reinterpret_cast<PyObject*>(Py_TYPE(tensor)))) ? api_ : exchange_api(Py_TYPE(tensor));
    if (!export_now(api, tensor, now)) return false;
    bool same = now.ndim == static_cast<std::int32_t>(shape_.size()) && now.strides != nullptr &&
                now.dtype.code == dtype_.code && now.dtype.bits == dtype_.bits && now.dtype.lanes == dtype_.lanes &&
                now.device.device_type == device_.device_type && now.device.device_id == device_.device_id;
    // Not std::equal, which calls memcmp: most have one or two axes.
    for (std::size_t i = 0; same && i < shape_.size(); ++i) {
      same = now.shape[i] == shape_[i] && now.strides[i] == strides_[i];
    }
    return same;
  }
  bool is_unchanged(PyObject* tensor) const {
    DLTensor now;
    return resembles(tensor, now) && address(now) == data_;
  }

  static void* address(const DLTensor& t) { return static_cast<char*>(t.data) + t.byte_offset; }

 private:
  py::object type_;
  const ExchangeApi* api_;
  bool is_known_ = false;
  void* data_ = nullptr;
  DLDataType dtype_{};
  DLDevice device_{};
  std::vector<std::int64_t> shape_, strides_;
};

}  // namespace fusedstep
