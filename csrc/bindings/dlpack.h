// The DLPack 1.0 interface, from its specification.
#pragma once

#include <cstdint>

namespace fusedstep {

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
// Of libraries that export from C, in a fraction of the time; the capsule hangs on the type.
struct ExchangeApi {
  std::uint32_t major, minor;
  ExchangeApi* previous;
  void *allocate, *to_managed, *from_managed;
  int (*to_tensor)(void* object, DLTensor* out);  // borrowed; may be null
  int (*current_stream)(std::int32_t device_type, std::int32_t device, void** stream);
};
constexpr std::uint64_t kReadOnly = 1;
constexpr std::int32_t kDeviceCpu = 1, kDeviceCuda = 2, kDeviceCudaHost = 3, kDeviceCudaManaged = 13;
enum DLTypeCode { kInt = 0, kUint = 1, kFloat = 2, kBfloat = 4, kComplex = 5, kBool = 6 };

}  // namespace fusedstep
