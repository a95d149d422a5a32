// Arrays from Python, through DLPack, and every check on them. Messages are those of reference/arrays.py.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace fusedstep {

namespace py = pybind11;

enum class Dtype { kFloat32, kFloat64, kInt64, kUint8, kBool, kOther };

// A borrowed view; the capsule keeps the memory alive. Strides count values.
struct Array {
  py::object capsule;
  const char* name = "";
  std::int64_t index = -1;  // place in a list, or -1
  void* data = nullptr;
  Dtype dtype = Dtype::kOther;
  bool readonly = false;
  std::int64_t size = 0;
  std::int64_t itemsize = 0;
  std::vector<std::int64_t> shape, strides;

  int ndim() const { return static_cast<int>(shape.size()); }
  std::string place() const;  // "grads" or "grads[2]"
  std::string label() const;  // the same in quotes
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

// TypeError unless `object` is an array on the CPU of one of the accepted kinds of dtype.
enum class Accept { kFloating, kAny };
Array import_array(py::handle object, const char* name, Accept accept = Accept::kFloating, std::int64_t index = -1);

// A single array, or a list or tuple of them.
std::vector<Array> import_arrays(py::handle object, const char* name);

std::string shape_text(const std::vector<std::int64_t>& shape);
std::string strides_text(const Array& array);  // in bytes, as NumPy gives them

void check_writable(const Array& array);
void check_same_dtype(const Array& array, const Array& other);
void check_same_shape(const Array& array, const Array& other);
void check_same_layout(const Array& array, const Array& other);
void check_dense(const Array& array);  // no gap, no overlap, axes in any order
bool is_c_contiguous(const Array& array);
void check_c_contiguous(const Array& array);
// A contiguous vector of `size` values of `like`'s dtype; `axis` says what they belong to.
void check_vector(const Array& array, const Array& like, std::int64_t size, const char* axis, bool writable = false);
// Axes of length other than 1, from the outermost in memory to the innermost.
std::vector<int> memory_order(const Array& array);
bool is_dense(const Array& array);
void check_distinct(const Array& array);  // no two values in the same memory, any strides

// Refuses outputs that share memory with each other or with an input. Null pointers are passed over.
void check_overlap(const std::vector<const Array*>& outputs, const std::vector<const Array*>& inputs);
// Exactly the same memory, walked the same way.
bool same_memory(const Array& a, const Array& b);

// Calls f(float{}) or f(double{}), by the array's dtype.
template <class F>
auto by_dtype(const Array& array, F&& f) {
  return array.dtype == Dtype::kFloat32 ? f(float{}) : f(double{});
}

void bind_optimizers(py::module_& m);
void bind_batch_norm(py::module_& m);
void bind_dropout(py::module_& m);
void bind_layers(py::module_& m);

}  // namespace fusedstep
