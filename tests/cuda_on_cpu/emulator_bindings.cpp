// The emulator's controls for tests in Python: the submodule `emulator` of _cuda_on_cpu.
#include <cuda_runtime.h>
#include <pybind11/pybind11.h>

namespace fusedstep {

namespace py = pybind11;

void bind_emulator(py::module_& m) {
  py::module_ emulator = m.def_submodule("emulator");
  const auto size = [](const dim3& d) { return py::make_tuple(d.x, d.y, d.z); };
  emulator.def("set_seed", &emulator::set_seed, py::arg("seed"));
  emulator.def("set_capturing", &emulator::set_capturing, py::arg("capturing"));
  emulator.def("set_device_count", &emulator::set_device_count, py::arg("count"));
  emulator.def(
      "fail_next_launch", [](int error) { emulator::fail_next_launch(static_cast<cudaError_t>(error)); },
      py::arg("error"));
  emulator.def("launches", &emulator::launches);
  emulator.def("last_launches", [size] {  // (kernel, grid, block, device, stream), oldest first
    py::list launches;
    for (const emulator::Launch& launch : emulator::last_launches()) {
      launches.append(py::make_tuple(launch.kernel, size(launch.grid), size(launch.block), launch.device,
                                     reinterpret_cast<std::uintptr_t>(launch.stream)));
    }
    return launches;
  });
  emulator.def("outstanding_allocations", &emulator::outstanding_allocations);
}

}  // namespace fusedstep
