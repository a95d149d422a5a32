#include <stdexcept>

#include "../cpu/dispatch.h"
#include "../cpu/parallel.h"
#include "arrays.h"

PYBIND11_MODULE(_cpu, m, pybind11::mod_gil_not_used(), pybind11::multiple_interpreters::per_interpreter_gil()) {
  namespace cpu = fusedstep::cpu;
  namespace py = pybind11;
  cpu::install_fork_handler();
  m.doc() = "The kernels on the CPU. Private: call `fusedstep.ops`.";
  m.attr("device") = "cpu";
  m.def("available_isas", [] {
    py::list names;
    for (const std::string& name : cpu::available_isas()) names.append(name);
    return names;
  });
  m.def("get_isa", [] { return cpu::kernels().isa; });
  m.def("set_isa", [](const std::string& name) { cpu::set_isa(name); });  // invalid_argument becomes ValueError
  m.def("get_num_threads", &cpu::num_threads);
  m.def("set_num_threads", &cpu::set_num_threads);
  m.def("get_serial_bytes", &cpu::serial_bytes);
  m.def("set_serial_bytes", &cpu::set_serial_bytes);
#if defined(_OPENMP)
  m.attr("openmp") = true;
#else
  m.attr("openmp") = false;
#endif
  fusedstep::bind_optimizers(m);
  fusedstep::bind_step_plan(m);
  fusedstep::bind_batch_norm(m);
  fusedstep::bind_dropout(m);
  fusedstep::bind_layers(m);
}
