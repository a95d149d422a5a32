// What is asked of arrays once they are in, and how messages name them. Twin: reference/arrays.py.
#include <algorithm>
#include <cstdlib>

#include "arrays.h"

namespace fusedstep {

const char* dtype_name(Dtype t) {
  switch (t) {
    case Dtype::kFloat16:
      return "float16";
    case Dtype::kBfloat16:
      return "bfloat16";
    case Dtype::kFloat32:
      return "float32";
    case Dtype::kFloat64:
      return "float64";
    case Dtype::kInt32:
      return "int32";
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

std::string Array::dtype_text() const { return dtype == Dtype::kOther ? other_dtype : dtype_name(dtype); }

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

void check_writable(const Array& array) {
  if (array.readonly) throw py::value_error(array.label() + " is read-only and would be written");
}

void check_same_dtype(const Array& array, const Array& other) {
  if (array.dtype == other.dtype) return;
  throw py::type_error(array.label() + " has dtype " + dtype_name(array.dtype) + " but " + other.label() + " has " +
                       dtype_name(other.dtype) + "; they must be the same");
}

void check_companion_dtype(const Array& array, const Array& like) {
  const bool half = like.dtype == Dtype::kFloat16 || like.dtype == Dtype::kBfloat16;
  if (!half) return check_same_dtype(array, like);
  if (array.dtype == like.dtype || array.dtype == Dtype::kFloat32) return;
  throw py::type_error(array.label() + " has dtype " + dtype_name(array.dtype) + " but " + like.label() + " has " +
                       dtype_name(like.dtype) + "; it must be " + dtype_name(like.dtype) + " or float32");
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
  check_companion_dtype(array, like);
  if (writable) check_writable(array);
  if (array.ndim() != 1 || array.shape[0] != size) {
    throw py::value_error(array.label() + " has shape " + shape_text(array.shape) + " but " + like.label() + " has " +
                          std::to_string(size) + " " + axis);
  }
  check_dense(array);
}

namespace {

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
