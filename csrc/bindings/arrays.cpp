#include "arrays.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace fusedstep {
namespace {

// The DLPack 1.0 interface, from its specification.
struct DLDevice {
  std::int32_t device_type, device_id;
};
struct DLDataType {
  std::uint8_t code, bits;
  std::uint16_t lanes;
};
struct DLTensor {
  void* data;
  DLDevice device;
  std::int32_t ndim;
  DLDataType dtype;
  std::int64_t *shape, *strides;
  std::uint64_t byte_offset;
};
struct DLManagedTensor {
  DLTensor tensor;
  void* context;
  void (*deleter)(DLManagedTensor*);
};
struct DLManagedTensorVersioned {
  std::uint32_t major, minor;
  void* context;
  void (*deleter)(DLManagedTensorVersioned*);
  std::uint64_t flags;
  DLTensor tensor;
};
constexpr std::uint64_t kReadOnly = 1;
constexpr int kDeviceCpu = 1, kDeviceCudaHost = 3;
enum DLTypeCode { kInt = 0, kUint = 1, kFloat = 2, kBfloat = 4, kComplex = 5, kBool = 6 };

std::string type_name(py::handle object) { return py::str(py::type::handle_of(object).attr("__name__")); }

std::string dtype_name(DLDataType t) {
  if (t.code == kBool) return "bool";
  const char* kinds[] = {"int", "uint", "float", "opaque", "bfloat", "complex"};
  return (t.code < 6 ? kinds[t.code] : "unknown") + std::to_string(t.bits);
}

const char* dtype_name(Dtype t) {
  switch (t) {
    case Dtype::kFloat32:
      return "float32";
    case Dtype::kFloat64:
      return "float64";
    case Dtype::kInt64:
      return "int64";
    case Dtype::kUint8:
      return "uint8";
    case Dtype::kBool:
      return "bool";
    default:
      return "another dtype";
  }
}

Dtype dtype_of(DLDataType t) {
  if (t.lanes != 1) return Dtype::kOther;
  if (t.code == kFloat && t.bits == 32) return Dtype::kFloat32;
  if (t.code == kFloat && t.bits == 64) return Dtype::kFloat64;
  if (t.code == kInt && t.bits == 64) return Dtype::kInt64;
  if (t.code == kUint && t.bits == 8) return Dtype::kUint8;
  if (t.code == kBool && t.bits == 8) return Dtype::kBool;
  return Dtype::kOther;
}

[[noreturn]] void not_accepted(const Array& array, const std::string& dtype) {
  throw py::type_error(array.label() + " has dtype " + dtype + "; accepted are float32 and float64");
}

[[noreturn]] void not_aligned(const Array& array) {
  throw py::value_error(array.label() + " is not aligned in memory; pass numpy.copy(" + array.place() + ")");
}

// Interned once; never freed, so that the interpreter may end in any order.
struct Names {
  PyObject *dlpack, *keywords, *version;
};

const Names& names() {
  static const Names instance{PyUnicode_InternFromString("__dlpack__"), py::make_tuple("max_version").release().ptr(),
                              py::make_tuple(1, 0).release().ptr()};
  return instance;
}

// The capsule, or null with a Python error set.
PyObject* export_capsule(PyObject* object) {
  PyObject* arguments[] = {object, names().version};
  PyObject* capsule =
      PyObject_VectorcallMethod(names().dlpack, arguments, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET, names().keywords);
  if (capsule != nullptr || !PyErr_ExceptionMatches(PyExc_TypeError)) return capsule;
  PyErr_Clear();  // a producer older than DLPack 1.0
  return PyObject_VectorcallMethod(names().dlpack, arguments, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr);
}

// Arrays whose values are not what their memory holds.
void check_plain(py::handle object, const Array& array) {
  if (std::strcmp(Py_TYPE(object.ptr())->tp_name, "numpy.ndarray") == 0) return;
  const std::string type = type_name(object);
  if (type == "MaskedArray" || type == "matrix") {
    throw py::type_error(array.label() + " must be a plain array but got " + type);
  }
  if (py::hasattr(object, "is_neg") && py::bool_(object.attr("is_neg")())) {
    throw py::value_error(array.label() + " has torch's negative bit set; pass " + array.place() + ".resolve_neg()");
  }
}

py::object capsule_of(py::handle object, const Array& array, bool detached = false) {
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
    return capsule_of(object.attr("detach")(), array, true);
  }
  if (!py::hasattr(object, "dtype")) throw error;
  const std::string dtype = py::str(object.attr("dtype"));
  const bool accepted = dtype.find("float32") != std::string::npos || dtype.find("float64") != std::string::npos;
  if (!accepted) not_accepted(array, dtype);
  // NumPy exports no strides other than multiples of the item size.
  const py::object flags = py::getattr(object, "flags", py::none());
  if (py::hasattr(flags, "aligned") && !py::bool_(flags.attr("aligned"))) not_aligned(array);
  throw error;
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

// [first byte, last byte + 1)
std::pair<const char*, const char*> byte_span(const Array& array) {
  const char *low = array.as<const char>(), *high = low + array.itemsize;
  for (int axis = 0; axis < array.ndim(); ++axis) {
    const std::int64_t reach = (array.shape[axis] - 1) * array.strides[axis] * array.itemsize;
    (reach < 0 ? low : high) += reach;
  }
  return {low, high};
}

}  // namespace

std::string Array::place() const { return name + (index < 0 ? "" : "[" + std::to_string(index) + "]"); }

std::string Array::label() const { return "'" + place() + "'"; }

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + (shape.size() == 1 ? ",)" : ")");
}

std::string strides_text(const Array& array) {
  std::vector<std::int64_t> bytes(array.strides);
  for (std::int64_t& stride : bytes) stride *= array.itemsize;
  return shape_text(bytes);
}

Array import_array(py::handle object, const char* name, Accept accept, std::int64_t index) {
  Array array;
  array.name = name;
  array.index = index;
  array.capsule = capsule_of(object, array);
  const DLTensor& t = tensor_of(array);
  if (t.device.device_type != kDeviceCpu && t.device.device_type != kDeviceCudaHost) {
    throw py::type_error(array.label() + " is on another device than the CPU, for which this build has no kernels");
  }
  array.dtype = dtype_of(t.dtype);
  if (accept == Accept::kFloating && array.dtype != Dtype::kFloat32 && array.dtype != Dtype::kFloat64) {
    not_accepted(array, dtype_name(t.dtype));
  }
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
  if (array.size != 0 && reinterpret_cast<std::uintptr_t>(array.data) % array.itemsize != 0) not_aligned(array);
  return array;
}

std::vector<Array> import_arrays(py::handle object, const char* name) {
  std::vector<Array> arrays;
  if (!PyList_Check(object.ptr()) && !PyTuple_Check(object.ptr())) {
    arrays.push_back(import_array(object, name));
    return arrays;
  }
  const auto items = py::reinterpret_borrow<py::sequence>(object);
  const auto count = static_cast<std::int64_t>(items.size());
  arrays.reserve(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    arrays.push_back(import_array(py::object(items[i]), name, Accept::kFloating, i));
  }
  return arrays;
}

void check_writable(const Array& array) {
  if (array.readonly) throw py::value_error(array.label() + " is read-only and would be written");
}

void check_same_dtype(const Array& array, const Array& other) {
  if (array.dtype == other.dtype) return;
  throw py::type_error(array.label() + " has dtype " + dtype_name(array.dtype) + " but " + other.label() + " has " +
                       dtype_name(other.dtype) + "; they must be the same");
}

void check_same_shape(const Array& array, const Array& other) {
  if (array.shape == other.shape) return;
  throw py::value_error(array.label() + " has shape " + shape_text(array.shape) + " but " + other.label() +
                        " has shape " + shape_text(other.shape));
}

void check_same_layout(const Array& array, const Array& other) {
  if (array.size == 0) return;
  for (int axis = 0; axis < array.ndim(); ++axis) {
    if (other.shape[axis] == 1 || array.strides[axis] == other.strides[axis]) continue;
    throw py::value_error(array.label() + " is laid out in memory otherwise than " + other.label() + " (strides " +
                          strides_text(array) + " and " + strides_text(other) +
                          "); copy it into the same layout: copy = numpy.empty_like(" + other.place() +
                          "); copy[...] = " + array.place());
  }
}

std::vector<int> memory_order(const Array& array) {
  std::vector<int> axes;
  for (int axis = 0; axis < array.ndim(); ++axis) {
    if (array.shape[axis] != 1) axes.push_back(axis);
  }
  std::stable_sort(axes.begin(), axes.end(), [&](int a, int b) { return array.strides[a] > array.strides[b]; });
  return axes;
}

bool is_dense(const Array& array) {
  const std::vector<int> order = memory_order(array);
  std::int64_t expected = 1;
  for (auto axis = order.rbegin(); axis != order.rend(); ++axis) {
    if (array.strides[*axis] != expected) return false;
    expected *= array.shape[*axis];
  }
  return true;
}

void check_dense(const Array& array) {
  if (is_c_contiguous(array) || is_dense(array)) return;  // the first is the cheap and usual case
  throw py::value_error(array.label() + " has gaps in memory (strides " + strides_text(array) +
                        ") and cannot be walked in place; work on a copy, numpy.ascontiguousarray(" + array.place() +
                        "), and write that back");
}

void check_distinct(const Array& array) {
  if (array.size == 0) return;
  std::vector<int> axes = memory_order(array);
  std::sort(axes.begin(), axes.end(),
            [&](int a, int b) { return std::abs(array.strides[a]) < std::abs(array.strides[b]); });
  std::int64_t reach = 0;  // of the axes so far, in values
  for (int axis : axes) {
    const std::int64_t stride = std::abs(array.strides[axis]);
    if (stride <= reach) {
      throw py::value_error(array.label() + " has values that share memory (strides " + strides_text(array) + ")");
    }
    reach += stride * (array.shape[axis] - 1);
  }
}

bool is_c_contiguous(const Array& array) {
  std::int64_t expected = 1;
  for (int axis = array.ndim() - 1; axis >= 0; --axis) {
    if (array.shape[axis] != 1 && array.strides[axis] != expected) return array.size == 0;
    expected *= array.shape[axis];
  }
  return true;
}

void check_c_contiguous(const Array& array) {
  if (is_c_contiguous(array)) return;
  throw py::value_error(array.label() + " is not C-contiguous (strides " + strides_text(array) +
                        "); pass numpy.ascontiguousarray(" + array.place() + ")");
}

void check_vector(const Array& array, const Array& like, std::int64_t size, const char* axis, bool writable) {
  check_same_dtype(array, like);
  if (writable) check_writable(array);
  if (array.ndim() != 1 || array.shape[0] != size) {
    throw py::value_error(array.label() + " has shape " + shape_text(array.shape) + " but " + like.label() + " has " +
                          std::to_string(size) + " " + axis);
  }
  check_dense(array);
}

bool same_memory(const Array& a, const Array& b) {
  return a.data == b.data && a.shape == b.shape && a.strides == b.strides;
}

void check_overlap(const std::vector<const Array*>& outputs, const std::vector<const Array*>& inputs) {
  struct Span {
    const char *begin, *end;
    const Array* array;
    bool output;
  };
  std::vector<Span> spans;
  spans.reserve(outputs.size() + inputs.size());
  for (const auto* list : {&outputs, &inputs}) {
    for (const Array* array : *list) {
      if (array == nullptr || array->size == 0) continue;
      const auto [begin, end] = byte_span(*array);
      spans.push_back({begin, end, array, list == &outputs});
    }
  }
  std::stable_sort(spans.begin(), spans.end(), [](const Span& a, const Span& b) { return a.begin < b.begin; });
  // Of what began before, the output and the input that reach furthest.
  const Span *last_output = nullptr, *last_input = nullptr;
  for (const Span& span : spans) {
    const Span* hit = last_output && last_output->end > span.begin ? last_output : nullptr;
    if (hit == nullptr && span.output && last_input && last_input->end > span.begin) hit = last_input;
    if (hit != nullptr) {
      throw py::value_error(hit->array->label() + " and " + span.array->label() + " overlap in memory");
    }
    const Span*& last = span.output ? last_output : last_input;
    if (last == nullptr || span.end > last->end) last = &span;
  }
}

}  // namespace fusedstep
