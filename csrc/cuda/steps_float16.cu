#include "steps.cuh"

namespace fusedstep::launch {

FUSEDSTEP_LAUNCH_STEPS(Half, Half)
FUSEDSTEP_LAUNCH_STEPS(Half, float)

}  // namespace fusedstep::launch
