#include <pybind11/pybind11.h>

#include "../cuda/devices.h"
#include "arrays.h"

#if !defined(FUSEDSTEP_MODULE_NAME)
#define FUSEDSTEP_MODULE_NAME _cuda
#endif

#if defined(FUSEDSTEP_CUDA_ON_CPU)
namespace fusedstep {
void bind_emulator(py::module_& m);
}
#endif

// Nothing here touches a device: a child that is forked after the import may use CUDA.
PYBIND11_MODULE(FUSEDSTEP_MODULE_NAME, m, pybind11::mod_gil_not_used(),
                pybind11::multiple_interpreters::per_interpreter_gil()) {
  namespace py = pybind11;
  m.doc() = "The kernels on CUDA devices. Private: call `fusedstep.ops`.";
  m.attr("device") = "cuda";
  m.def("devices", [] {
    py::list list;
    for (const fusedstep::cuda::Device& device : fusedstep::cuda::devices()) {
      py::dict entry;
      entry["name"] = device.name;
      entry["capability"] = device.capability;
      entry["memory"] = device.memory;
      list.append(entry);
    }
    return list;
  });
  m.attr("runtime_version") = fusedstep::cuda::runtime_version();
  m.def("driver_version", &fusedstep::cuda::driver_version);
  fusedstep::bind_optimizers(m);
  fusedstep::bind_step_plan(m);
  fusedstep::bind_batch_norm(m);
  fusedstep::bind_dropout(m);
  fusedstep::bind_layers(m);
#if defined(FUSEDSTEP_CUDA_ON_CPU)
  fusedstep::bind_emulator(m);
#endif
}
