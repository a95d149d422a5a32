#pragma once

#include <optional>

#include "arrays.h"

namespace fusedstep {

// None, or (p, seed, offset), checked in Python.
std::optional<launch::Dropout> optional_dropout(Arrays& arrays, py::handle object);

// RuntimeError where a captured graph would repeat the mask of an offset that is a number.
void check_offset(const launch::Dropout& dropout, const launch::Context& context);

}  // namespace fusedstep
