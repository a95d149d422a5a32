#include "steps.cuh"

namespace fusedstep::launch {

FUSEDSTEP_LAUNCH_STEPS(double, double)

}  // namespace fusedstep::launch
