// Marks scalar code that runs on host and device. Everything in csrc/math stands in an anonymous namespace: these
// headers are compiled once per instruction set, and no copy may be shared between them by the linker, which is what an
// anonymous namespace is for where a compiler takes 'inline' as a wish, as MSVC does.
#pragma once

// For what is called through many thunks: in them, it would be there as many times.
#if defined(_MSC_VER) && !defined(__clang__)
#define FUSEDSTEP_NOINLINE __declspec(noinline)
#else
#define FUSEDSTEP_NOINLINE __attribute__((noinline))
#endif

#if defined(__CUDACC__)
#define FUSEDSTEP_HD __host__ __device__ __forceinline__
#define FUSEDSTEP_HD_CALL inline __host__ __device__ FUSEDSTEP_NOINLINE
#elif defined(_MSC_VER)
#define FUSEDSTEP_HD __forceinline
#else
#define FUSEDSTEP_HD inline __attribute__((always_inline))
#endif

// Long code on numbers, which kernels of a GPU call instead of having it once for each value of a thread.
#if !defined(FUSEDSTEP_HD_CALL)
#define FUSEDSTEP_HD_CALL FUSEDSTEP_HD
#endif

// SSE2, which MSVC has on x86-64 without a macro that says so.
#if defined(__SSE2__) || defined(_M_X64)
#define FUSEDSTEP_SSE2
#endif
