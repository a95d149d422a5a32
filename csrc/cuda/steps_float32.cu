#include "steps.cuh"

namespace fusedstep::launch {

FUSEDSTEP_LAUNCH_STEPS(float, float)

}  // namespace fusedstep::launch
