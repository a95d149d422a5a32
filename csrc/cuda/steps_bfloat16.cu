#include "steps.cuh"

namespace fusedstep::launch {

FUSEDSTEP_LAUNCH_STEPS(Bfloat16, Bfloat16)
FUSEDSTEP_LAUNCH_STEPS(Bfloat16, float)

}  // namespace fusedstep::launch
