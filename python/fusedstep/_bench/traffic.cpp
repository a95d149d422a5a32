// Ceilings: loops that move the bytes of a kernel and do next to nothing with them. Built by loops.py.
// What a loop updates keeps its values, which others go on with: 0 is added.
#include <omp.h>

#include <cstdint>
#include <cstring>

// Up to so many values, to wake the other threads takes longer than the loop.
constexpr std::int64_t kAlone = 100'000;

// A plain gradient step: two streams read, one written.
extern "C" void update1(float* p, const float* g, std::int64_t n) {
#pragma omp parallel for simd schedule(static) if (parallel : n > kAlone)
  for (std::int64_t i = 0; i < n; ++i) p[i] += 0.0f * g[i];
}

// An AMSGrad step: five streams read, four written.
extern "C" void update4(float* p, const float* g, float* m, float* v, float* w, std::int64_t n) {
#pragma omp parallel for simd schedule(static) if (parallel : n > kAlone)
  for (std::int64_t i = 0; i < n; ++i) {
    const float x = 0.0f * g[i];
    p[i] += x;
    m[i] += x;
    v[i] += x;
    w[i] += x;
  }
}

// An AdamW step: four streams read, three written.
extern "C" void update3(float* p, const float* g, float* m, float* v, std::int64_t n) {
#pragma omp parallel for simd schedule(static) if (parallel : n > kAlone)
  for (std::int64_t i = 0; i < n; ++i) {
    const float x = 0.0f * g[i];
    p[i] += x;
    m[i] += x;
    v[i] += x;
  }
}

// An RMSprop step: three streams read, two written.
extern "C" void update2(float* p, const float* g, float* v, std::int64_t n) {
#pragma omp parallel for simd schedule(static) if (parallel : n > kAlone)
  for (std::int64_t i = 0; i < n; ++i) {
    const float x = 0.0f * g[i];
    p[i] += x;
    v[i] += x;
  }
}

// Threads of the loops from here on; returns how many they had.
extern "C" int set_threads(int n) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(n);
  return before;
}

// Integers, whose sum the compiler may reorder.
extern "C" std::uint32_t read(const std::uint32_t* x, std::int64_t n) {
  std::uint32_t sum = 0;
#pragma omp parallel for simd schedule(static) reduction(+ : sum) if (parallel : n > kAlone)
  for (std::int64_t i = 0; i < n; ++i) sum += x[i];
  return sum;
}

// memcpy writes large arrays around the cache, as dropout and batch norm do.
extern "C" void copy(const float* x, float* y, std::int64_t n) {
#pragma omp parallel if (n > kAlone)
  {
    const std::int64_t parts = omp_get_num_threads(), part = omp_get_thread_num();
    const std::int64_t begin = n * part / parts, end = n * (part + 1) / parts;
    std::memcpy(y + begin, x + begin, static_cast<std::size_t>(end - begin) * sizeof(float));
  }
}
