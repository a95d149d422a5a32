#include "arrays.h"

#include <algorithm>
#include <cstring>

#include "dlpack.h"
#include "names.h"

namespace fusedstep {
namespace {

std::string type_name(py::handle object) { return py::str(py::type::handle_of(object).attr("__name__")); }

std::string dtype_name(DLDataType t) {
  if (t.code == kBool) return "bool";
  const char* kinds[] = {"int", "uint", "float", "opaque", "bfloat", "complex"};
  return (t.code < 6 ? kinds[t.code] : "unknown") + std::to_string(t.bits);
}

Dtype dtype_of(DLDataType t) {
  if (t.lanes != 1) return Dtype::kOther;
  if (t.code == kFloat && t.bits == 32) return Dtype::kFloat32;
  if (t.code == kFloat && t.bits == 64) return Dtype::kFloat64;
  if (t.code == kFloat && t.bits == 16) return Dtype::kFloat16;
  if (t.code == kBfloat && t.bits == 16) return Dtype::kBfloat16;
  if (t.code == kInt && t.bits == 32) return Dtype::kInt32;
  if (t.code == kInt && t.bits == 64) return Dtype::kInt64;
  if (t.code == kUint && t.bits == 8) return Dtype::kUint8;
  if (t.code == kBool && t.bits == 8) return Dtype::kBool;
  return Dtype::kOther;
}

bool is_accepted(Dtype dtype, Accept accept) {
  const bool half = dtype == Dtype::kFloat16 || dtype == Dtype::kBfloat16;
  const bool floating = dtype == Dtype::kFloat32 || dtype == Dtype::kFloat64;
  return accept == Accept::kAny || floating || (half && accept == Accept::kValues);
}

std::string accepted_text(Accept accept) {
  const bool halves = accept == Accept::kValues;
  return std::string("accepted are ") + (halves ? "float16, bfloat16, float32 and float64" : "float32 and float64");
}

[[noreturn]] void not_accepted(const Array& array, const std::string& dtype, const std::string& accepted) {
  throw py::type_error(array.label() + " has dtype " + dtype + "; " + accepted);
}

std::string device_name(std::int32_t type, std::int32_t id) {
  if (type == kDeviceCpu || type == kDeviceCudaHost) return "the CPU";
  const bool cuda = type == kDeviceCuda || type == kDeviceCudaManaged;
  return cuda ? "cuda:" + std::to_string(id) : "a device of DLPack's type " + std::to_string(type);
}

bool is_ours(std::int32_t type) {
#if defined(FUSEDSTEP_CUDA_ON_CPU)
  return type == kDeviceCpu;
#else
  if (launch::kOnDevice) return type == kDeviceCuda || type == kDeviceCudaManaged;
  return type == kDeviceCpu || type == kDeviceCudaHost;
#endif
}

[[noreturn]] void not_aligned(const Array& array) {
  throw py::value_error(array.label() + " is not aligned in memory; pass numpy.copy(" + array.place() + ")");
}

// The capsule, or null with a Python error set. On the device stream=-1: we run on the producer's own stream, so that
// there is nothing to wait for.
PyObject* export_capsule(PyObject* object) {
  const Names& n = names();
  const bool stream = n.stream_keyword != nullptr;
  PyObject* arguments[] = {object, stream ? n.no_stream : n.version, n.version};
  PyObject* capsule = PyObject_VectorcallMethod(n.dlpack, arguments, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET, n.keywords);
  if (capsule != nullptr || !PyErr_ExceptionMatches(PyExc_TypeError)) return capsule;
  PyErr_Clear();  // a producer older than DLPack 1.0
  return PyObject_VectorcallMethod(n.dlpack, arguments, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET, n.stream_keyword);
}

[[noreturn]] void refuse_negative_bit(const Array& array) {
  throw py::value_error(array.label() + " has torch's negative bit set; pass " + array.place() + ".resolve_neg()");
}

// Arrays whose values are not what their memory holds.
void check_plain(py::handle object, const Array& array) {
  if (std::strcmp(Py_TYPE(object.ptr())->tp_name, "numpy.ndarray") == 0) return;
  const std::string type = type_name(object);
  if (type == "MaskedArray" || type == "matrix") {
    throw py::type_error(array.label() + " must be a plain array but got " + type);
  }
  if (py::hasattr(object, "is_neg") && py::bool_(object.attr("is_neg")())) {
    refuse_negative_bit(array);
  }
}

bool is_bfloat16(const std::string& dtype) { return dtype.find("bfloat16") != std::string::npos; }

// `bfloat16`: set where such an array had to be taken in as integers.
py::object capsule_of(py::handle object, const Array& array, Accept accept, bool& bfloat16, bool detached = false) {
  PyObject* capsule = export_capsule(object.ptr());
  if (capsule != nullptr) {
    const auto exported = py::reinterpret_steal<py::object>(capsule);
    check_plain(object, array);
    return exported;
  }
  py::error_already_set error;
  if (!py::hasattr(object, "__dlpack__")) {
    throw py::type_error(array.label() + " must be an array but got " + type_name(object));
  }
  // torch does not export what autograd tracks; the step is meant to stay outside the graph.
  if (!detached && py::bool_(py::getattr(object, "requires_grad", py::bool_(false)))) {
    return capsule_of(object.attr("detach")(), array, accept, bfloat16, true);
  }
  const py::object reason = py::module_::import("fusedstep.backend").attr("why_unreadable")(object);
  if (!reason.is_none()) throw py::type_error(array.label() + " " + reason.cast<std::string>());
  if (!py::hasattr(object, "dtype")) throw error;
  const std::string dtype = py::str(object.attr("dtype"));
  // ml_dtypes' bfloat16 is exported neither through DLPack nor as a buffer.
  if (is_bfloat16(dtype) && accept != Accept::kFloats && !bfloat16 && py::hasattr(object, "view")) {
    bfloat16 = true;
    check_plain(object, array);
    return capsule_of(object.attr("view")("uint16"), array, accept, bfloat16, detached);
  }
  const bool floating = dtype.find("float32") != std::string::npos || dtype.find("float64") != std::string::npos;
  const bool half = dtype.find("float16") != std::string::npos;
  if (!floating && !(half && accept == Accept::kValues)) not_accepted(array, dtype, accepted_text(accept));
  // NumPy exports no strides other than multiples of the item size.
  const py::object flags = py::getattr(object, "flags", py::none());
  if (py::hasattr(flags, "aligned") && !py::bool_(flags.attr("aligned"))) not_aligned(array);
  throw error;
}

// Of an array whose library exports from C: what autograd tracks too, as the step is meant to stay outside the graph.
// False where it cannot, which __dlpack__ says in better words.
bool export_tensor(py::handle object, const ExchangeApi& api, Array& array, DLTensor& tensor) {
  if (api.to_tensor(object.ptr(), &tensor) != 0) {
    PyErr_Clear();
    return false;
  }
  if (has_negative_bit(object)) refuse_negative_bit(array);
  array.capsule = py::reinterpret_borrow<py::object>(object);
  return true;
}

const DLTensor& tensor_of(Array& array) {
  PyObject* capsule = array.capsule.ptr();
  const char* name = PyCapsule_GetName(capsule);
  if (name == nullptr) throw py::error_already_set();
  if (std::strcmp(name, "dltensor_versioned") == 0) {
    auto* managed = static_cast<DLManagedTensorVersioned*>(PyCapsule_GetPointer(capsule, name));
    if (managed->major != 1) throw py::buffer_error(array.label() + " is exported by an unsupported version of DLPack");
    array.readonly = (managed->flags & kReadOnly) != 0;
    return managed->tensor;
  }
  if (std::strcmp(name, "dltensor") == 0) {
    return static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule, name))->tensor;
  }
  throw py::buffer_error(array.label() + " gave something other than a fresh DLPack capsule");
}

}  // namespace

const ExchangeApi* exchange_api(PyTypeObject* type) {
  thread_local std::vector<std::pair<PyTypeObject*, const ExchangeApi*>> known;
  for (const auto& [seen, api] : known) {
    if (seen == type) return api;
  }
  const ExchangeApi* found = nullptr;
  const auto capsule =
      py::reinterpret_steal<py::object>(PyObject_GetAttr(reinterpret_cast<PyObject*>(type), names().exchange_api));
  if (capsule) {
    found = static_cast<const ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    while (found != nullptr && found->major != 1) found = found->previous;
    if (found != nullptr && found->to_tensor == nullptr) found = nullptr;
  }
  PyErr_Clear();
  Py_INCREF(type);  // a type that is named here must not give its address to another
  known.emplace_back(type, found);
  return found;
}

bool has_negative_bit(py::handle object) {
  const auto negative = py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(object.ptr(), names().is_neg));
  if (!negative) PyErr_Clear();  // another library than torch
  return negative.ptr() == Py_True;
}

void Arrays::check_device(const Array& array, std::int32_t type, std::int32_t id) {
  if (is_ours(type) && (first_name_ == nullptr || !launch::kOnDevice || id == device_)) {
    if (first_name_ != nullptr) return;
    device_ = id;
    first_name_ = array.name;
    first_index_ = array.index;
    return;
  }
  const std::string ours = launch::kOnDevice ? device_name(kDeviceCuda, device_) : "the CPU";
  const std::string theirs = device_name(type, id);
  if (first_name_ == nullptr) {
    throw py::type_error(array.label() + " is on " + theirs + ", for which there are no kernels");
  }
  Array first;
  first.name = first_name_;
  first.index = first_index_;
  throw py::type_error(array.label() + " is on " + theirs + " but " + first.label() + " is on " + ours +
                       "; the arrays of a call must be on one device");
}

#if defined(FUSEDSTEP_CUDA_MODULE)
void Arrays::note_stream(py::handle object) {
  PyTypeObject* type = Py_TYPE(object.ptr());
  if (std::find(types_.begin(), types_.end(), type) != types_.end()) return;
  types_.push_back(type);
  if (const ExchangeApi* api = exchange_api(type)) {
    void* stream = nullptr;
    if (api->current_stream(kDeviceCuda, device_, &stream) != 0) throw py::error_already_set();
    if (std::find(streams_.begin(), streams_.end(), stream) == streams_.end()) streams_.push_back(stream);
    return;
  }
  const py::object current_stream = py::module_::import("fusedstep.backend").attr("current_stream");
  void* stream = reinterpret_cast<void*>(current_stream(object, device_).cast<std::uintptr_t>());
  if (std::find(streams_.begin(), streams_.end(), stream) == streams_.end()) streams_.push_back(stream);
}

launch::Context Arrays::context() const {
  if (streams_.empty()) return {device_, nullptr, {}};
  return {device_, streams_[0], {streams_.begin() + 1, streams_.end()}};
}
#else
void Arrays::note_stream(py::handle) {}

launch::Context Arrays::context() const { return {}; }
#endif

Array Arrays::take(py::handle object, const char* name, Accept accept, std::int64_t index) {
  Array array;
  array.name = name;
  array.index = index;
  bool bfloat16 = false;
  DLTensor t;
  const ExchangeApi* api = exchange_api(Py_TYPE(object.ptr()));
  if (api == nullptr || !export_tensor(object, *api, array, t)) {
    array.capsule = capsule_of(object, array, accept, bfloat16);
    t = tensor_of(array);
  }
  check_device(array, t.device.device_type, t.device.device_id);
  array.dtype = bfloat16 ? Dtype::kBfloat16 : dtype_of(t.dtype);
  if (array.dtype == Dtype::kOther) array.other_dtype = dtype_name(t.dtype);
  if (!is_accepted(array.dtype, accept)) not_accepted(array, array.dtype_text(), accepted_text(accept));
  array.data = static_cast<char*>(t.data) + t.byte_offset;
  array.itemsize = t.dtype.bits / 8;
  array.shape.assign(t.shape, t.shape + t.ndim);
  array.size = 1;
  for (std::int64_t n : array.shape) array.size *= n;
  if (t.strides != nullptr) {
    array.strides.assign(t.strides, t.strides + t.ndim);
  } else {
    array.strides.resize(array.shape.size());
    std::int64_t stride = 1;
    for (int axis = t.ndim - 1; axis >= 0; --axis) {
      array.strides[axis] = stride;
      stride *= array.shape[axis];
    }
  }
  if (array.size != 0 && t.data == nullptr) {
    throw py::value_error(array.label() +
                          " has no memory of its own (a fake or a wrapping tensor, or one of zeros that are nowhere)");
  }
  const bool bytes = t.dtype.bits % 8 == 0;
  if (bytes && array.size != 0 && reinterpret_cast<std::uintptr_t>(array.data) % array.itemsize != 0) {
    not_aligned(array);
  }
  note_stream(object);
  return array;
}

Array Arrays::take_optional(py::handle object, const char* name, Accept accept) {
  return object.is_none() ? Array{} : take(object, name, accept);
}

std::vector<Array> Arrays::take_list(py::handle object, const char* name) {
  std::vector<Array> arrays;
  if (!PyList_Check(object.ptr()) && !PyTuple_Check(object.ptr())) {
    arrays.push_back(take(object, name));
    return arrays;
  }
  const auto items = py::reinterpret_borrow<py::sequence>(object);
  const auto count = static_cast<std::int64_t>(items.size());
  arrays.reserve(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) arrays.push_back(take(py::object(items[i]), name, Accept::kValues, i));
  return arrays;
}

namespace {

void check_scalar(const Array& array) {
  if (array.ndim() == 0) return;
  throw py::value_error(array.label() + " must be 0-dimensional but has shape " + shape_text(array.shape));
}

}  // namespace

Array Arrays::take_of(py::handle object, const char* name, Dtype dtype) {
  Array array = take(object, name, Accept::kAny);
  if (array.dtype == dtype) return array;
  not_accepted(array, array.dtype_text(), std::string("accepted is ") + dtype_name(dtype));
}

Array Arrays::take_scalar(py::handle object, const char* name, Dtype dtype, bool written) {
  Array array = take_of(object, name, dtype);
  if (written) check_writable(array);
  check_scalar(array);
  return array;
}

launch::Scalar Arrays::number(py::handle object, const char* name) {
  if (PyFloat_Check(object.ptr()) || !py::hasattr(object, "__dlpack__")) return {object.cast<double>(), nullptr, {}};
  const Array& array = numbers_.emplace_back(take(object, name, Accept::kFloats));
  check_scalar(array);
  const bool wide = array.dtype == Dtype::kFloat64;
  if (launch::kOnDevice) {
    return {0, array.data, wide ? launch::ScalarType::kFloat64 : launch::ScalarType::kFloat32};
  }
  return {wide ? *array.as<double>() : double{*array.as<float>()}, nullptr, {}};
}

launch::Counter Arrays::counter(py::handle object, const char* name, CounterType accepted) {
  if (PyLong_Check(object.ptr()) || !py::hasattr(object, "__dlpack__")) {
    return {object.cast<std::uint64_t>(), nullptr, {}};
  }
  const Array& array = numbers_.emplace_back(take(object, name, Accept::kAny));
  const bool wide = array.dtype == Dtype::kInt64, both = accepted == CounterType::kInt32OrInt64;
  if (!wide && !(both && array.dtype == Dtype::kInt32)) {
    not_accepted(array, array.dtype_text(), both ? "accepted are int32 and int64" : "accepted is int64");
  }
  check_scalar(array);
  if (launch::kOnDevice) return {0, array.data, wide ? launch::ScalarType::kInt64 : launch::ScalarType::kInt32};
  const std::int64_t value = wide ? *array.as<std::int64_t>() : *array.as<std::int32_t>();
  return {static_cast<std::uint64_t>(value), nullptr, {}};
}

void Arrays::check_apart(const std::vector<const Array*>& outputs) const {
  if (numbers_.empty()) return;
  std::vector<const Array*> inputs;
  for (const Array& array : numbers_) inputs.push_back(&array);
  check_overlap(outputs, inputs);
}

}  // namespace fusedstep
