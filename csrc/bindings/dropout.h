#pragma once

#include <pybind11/pybind11.h>

#include <optional>

#include "../cpu/launch.h"

namespace fusedstep {

// None, or (p, seed, offset), checked in Python.
inline std::optional<cpu::Dropout> optional_dropout(pybind11::handle object) {
  if (object.is_none()) return std::nullopt;
  const auto t = object.cast<pybind11::tuple>();
  return cpu::Dropout{t[0].cast<double>(), t[1].cast<std::uint64_t>(), t[2].cast<std::uint64_t>()};
}

}  // namespace fusedstep
