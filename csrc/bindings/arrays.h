// Arrays from Python, through DLPack, and every check on them. Messages are those of reference/arrays.py.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <list>
#include <string>
#include <utility>
#include <vector>

#include "../launch.h"

namespace fusedstep {

namespace py = pybind11;

enum class Dtype { kFloat16, kBfloat16, kFloat32, kFloat64, kInt32, kInt64, kUint8, kBool, kOther };

// A borrowed view; the capsule keeps the memory alive. Strides count values.
struct Array {
  py::object capsule;  // or the array itself
  const char* name = "";
  std::int64_t index = -1;  // place in a list, or -1
  void* data = nullptr;
  Dtype dtype = Dtype::kOther;
  std::string other_dtype;  // its name, where `dtype` has none for it
  bool readonly = false;
  std::int64_t size = 0;
  std::int64_t itemsize = 0;
  std::vector<std::int64_t> shape, strides;

  int ndim() const { return static_cast<int>(shape.size()); }
  std::string place() const;  // "grads" or "grads[2]"
  std::string label() const;  // the same in quotes
  std::string dtype_text() const;
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

enum class Accept { kValues, kFloats, kAny };  // the four floating types; float32 and float64; whatever there is

// The arrays of one call: takes them in and sees to it that they lie on one device.
class Arrays {
 public:
  // TypeError unless `object` is an array of an accepted dtype, on the module's device and on that of the others.
  Array take(py::handle object, const char* name, Accept accept = Accept::kValues, std::int64_t index = -1);
  // The same, or an empty one for None.
  Array take_optional(py::handle object, const char* name, Accept accept = Accept::kValues);
  // A single array, or a list or tuple of them.
  std::vector<Array> take_list(py::handle object, const char* name);
  // An array of that dtype, whatever its shape; and a 0-d one.
  Array take_of(py::handle object, const char* name, Dtype dtype);
  Array take_scalar(py::handle object, const char* name, Dtype dtype, bool written);

  // A number, or a 0-d array, which the CPU reads at once.
  launch::Scalar number(py::handle object, const char* name);
  enum class CounterType { kInt64, kInt32OrInt64 };
  launch::Counter counter(py::handle object, const char* name, CounterType accepted = CounterType::kInt64);
  // ValueError where such an array shares memory with an output.
  void check_apart(const std::vector<const Array*>& outputs) const;
  bool has_numbers() const { return !numbers_.empty(); }

  launch::Context context() const;

 private:
  void check_device(const Array& array, std::int32_t type, std::int32_t id);
  void note_stream(py::handle object);

  std::list<Array> numbers_;
  const char* first_name_ = nullptr;  // of the first array, and its place in a list
  std::int64_t first_index_ = -1;
  std::int32_t device_ = 0;
  std::vector<PyTypeObject*> types_;
  std::vector<void*> streams_;  // of the libraries that the arrays come from
};

// The C interface of a type whose library has one, or null; looked up once for each type and thread.
struct ExchangeApi;
const ExchangeApi* exchange_api(PyTypeObject* type);
bool has_negative_bit(py::handle object);  // torch's

const char* dtype_name(Dtype dtype);
std::string shape_text(const std::vector<std::int64_t>& shape);
std::string strides_text(const Array& array);  // in bytes, as NumPy gives them

void check_writable(const Array& array);
void check_same_dtype(const Array& array, const Array& other);
// `like`'s dtype, or the one it computes in.
void check_companion_dtype(const Array& array, const Array& like);
void check_same_shape(const Array& array, const Array& other);
void check_same_layout(const Array& array, const Array& other);
void check_dense(const Array& array);  // no gap, no overlap, axes in any order
bool is_c_contiguous(const Array& array);
void check_c_contiguous(const Array& array);
// A contiguous vector of `size` values of `like`'s dtype, or of a companion's; `axis` says what they belong to.
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
auto by_float(const Array& array, F&& f) {
  return array.dtype == Dtype::kFloat32 ? f(float{}) : f(double{});
}

// The same for all four types.
template <class F>
auto by_dtype(const Array& array, F&& f) {
  if (array.dtype == Dtype::kFloat16) return f(Half{});
  if (array.dtype == Dtype::kBfloat16) return f(Bfloat16{});
  return by_float(array, f);
}

void bind_optimizers(py::module_& m);
void bind_step_plan(py::module_& m);
void bind_batch_norm(py::module_& m);
void bind_dropout(py::module_& m);
void bind_layers(py::module_& m);

}  // namespace fusedstep
