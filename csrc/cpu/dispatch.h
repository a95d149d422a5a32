// Which table of kernels is in use.
#pragma once

#include <string>
#include <vector>

#include "../kernels.h"

namespace fusedstep::cpu {

const Kernels& kernels();
std::vector<std::string> available_isas();
// std::invalid_argument for a name that is unknown, or that this processor or build lacks.
void set_isa(const std::string& name);

}  // namespace fusedstep::cpu
