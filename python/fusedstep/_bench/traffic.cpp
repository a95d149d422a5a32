// Ceilings: loops that move the bytes of a kernel and do next to nothing with them. Built by loops.py.
// What a loop updates keeps its values, which others go on with: 0 is added.
#include <omp.h>

#include <cstdint>
#include <cstring>
#if defined(__SSE__)
#include <immintrin.h>
#endif

// Up to so many values, to wake the other threads takes longer than the loop.
constexpr std::int64_t kAlone = 100'000;

// From so many values on a copy goes around the cache.
constexpr std::int64_t kStreamed = 1'000'000;

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

// Stores whole vectors around the cache while any is left, and returns how many values it wrote; 0 where the compiler
// knows no such store.
static std::int64_t stream(const float* x, float* y, std::int64_t n) {
  std::int64_t i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= n; i += 16) _mm512_stream_ps(y + i, _mm512_loadu_ps(x + i));
#elif defined(__AVX__)
  for (; i + 8 <= n; i += 8) _mm256_stream_ps(y + i, _mm256_loadu_ps(x + i));
#elif defined(__SSE__)
  for (; i + 4 <= n; i += 4) _mm_stream_ps(y + i, _mm_loadu_ps(x + i));
#endif
#if defined(__SSE__)
  _mm_sfence();
#endif
  return i;
}

// Large results go around the cache: an ordinary store first reads the line it writes. memcpy does so, too, but in some
// libraries only from 200 MB on.
extern "C" void copy(const float* x, float* y, std::int64_t n) {
#pragma omp parallel if (n > kAlone)
  {
    const std::int64_t parts = omp_get_num_threads(), part = omp_get_thread_num();
    std::int64_t i = n * part / parts;
    const std::int64_t end = n * (part + 1) / parts;
    if (n >= kStreamed) {
      for (; i < end && reinterpret_cast<std::uintptr_t>(y + i) % 64 != 0; ++i) y[i] = x[i];
      i += stream(x + i, y + i, end - i);
    }
    std::memcpy(y + i, x + i, static_cast<std::size_t>(end - i) * sizeof(float));
  }
}
