// The CUDA devices of this machine.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fusedstep::cuda {

struct Device {
  std::string name;
  std::string capability;  // "9.0"
  std::int64_t memory;     // bytes
};

// std::runtime_error with the driver's words where there is none. Initializes CUDA in this process.
std::vector<Device> devices();
int driver_version();
int runtime_version();

}  // namespace fusedstep::cuda
