// Division by a product, as the kernels do it, against division.
#include <cstdio>
#include <initializer_list>

#define FUSEDSTEP_CUDA_MODULE
#define FUSEDSTEP_CUDA_ON_CPU
#include "../../csrc/cuda/elementwise.cuh"

int main() {
  const std::int64_t top = (std::int64_t{1} << 31) - 1;
  long checked = 0;
  for (const std::int64_t largest : {top, std::int64_t{1} << 40}) {
    for (std::int64_t base : {1, 3, 7, 64, 127, 1000, 65536, 1 << 20, (1 << 30) - 1, 1 << 30}) {
      for (std::int64_t divisor = base > 2 ? base - 2 : 1; divisor <= base + 2; ++divisor) {
        const fusedstep::cuda::Divider by(divisor, largest);
        for (std::int64_t multiple :
             {std::int64_t{0}, divisor, 2 * divisor, largest / 2, largest, largest / divisor * divisor}) {
          for (std::int64_t n = multiple - 2; n <= multiple + 2; ++n) {
            if (n < 0 || n > largest) continue;
            if (by.divide(n) != n / divisor || by.remainder(n) != n % divisor) {
              std::printf("%lld / %lld\n", static_cast<long long>(n), static_cast<long long>(divisor));
              return 1;
            }
            ++checked;
          }
        }
      }
    }
  }
  std::printf("checked %ld\n", checked);
  return checked == 0;
}
