# What each compiler calls the flags of this project: GCC, clang and AppleClang, MSVC, and clang-cl, which takes MSVC's.
# FUSEDSTEP_NUMERIC_FLAGS  the promise of equal bits rests on them: no contraction; never fast-math. And loops with
#                          roots and selections may be vectorized, without changing a bit: no errno, no traps
# FUSEDSTEP_KERNEL_FLAGS   `omp simd`, and optimization in every build type
# FUSEDSTEP_BASELINE_FLAGS, FUSEDSTEP_AVX2_FLAGS, FUSEDSTEP_AVX512_FLAGS; FUSEDSTEP_X86: whether there are any
# FUSEDSTEP_WARNING_FLAGS, FUSEDSTEP_WERROR_FLAGS
include(CheckCXXSourceCompiles)

# By the compiler's own word: CMAKE_SYSTEM_PROCESSOR is the host's where macOS builds for its other architecture.
check_cxx_source_compiles("#if !defined(__x86_64__) && !defined(_M_X64)\n#error\n#endif\nint main() {}" FUSEDSTEP_X86)

if(MSVC)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "MSVC")
    # /fp:precise contracts before Visual Studio 2022 (19.30), which made that /fp:contract; /fp:strict never does.
    # There is no flag for errno: a root that stays a call has the same bits. Traps are off (/fp:except-).
    set(FUSEDSTEP_NUMERIC_FLAGS /fp:precise)
    if(CMAKE_CXX_COMPILER_VERSION VERSION_LESS 19.30)
      set(FUSEDSTEP_NUMERIC_FLAGS /fp:strict)
    endif()
    set(FUSEDSTEP_KERNEL_FLAGS /openmp:experimental)  # the only one with `omp simd` that needs no LLVM runtime
  else()
    set(FUSEDSTEP_NUMERIC_FLAGS /clang:-ffp-contract=off /clang:-fno-math-errno /clang:-fno-trapping-math)
    set(FUSEDSTEP_KERNEL_FLAGS /clang:-fopenmp-simd)
  endif()
  set(FUSEDSTEP_AVX2_FLAGS /arch:AVX2)
  set(FUSEDSTEP_AVX512_FLAGS /arch:AVX512)
  set(FUSEDSTEP_WARNING_FLAGS /W3)
  set(FUSEDSTEP_WERROR_FLAGS /WX)
else()
  set(FUSEDSTEP_NUMERIC_FLAGS -ffp-contract=off -fno-math-errno -fno-trapping-math)
  # -O3 in every build type: below it GCC vectorizes less, and without optimization inline functions become symbols
  # that the linker would share between instruction sets.
  set(FUSEDSTEP_KERNEL_FLAGS -O3 -fopenmp-simd)
  set(FUSEDSTEP_AVX2_FLAGS -mavx2)
  if(FUSEDSTEP_X86)  # few processors run it there: a wheel is 0.1 MB smaller, batch norm and norms a fifth to a half slower
    set(FUSEDSTEP_BASELINE_FLAGS -O2)
  endif()
  set(FUSEDSTEP_AVX512_FLAGS -mavx512f -mavx512dq -mavx512bw -mavx512vl -mprefer-vector-width=512)
  set(FUSEDSTEP_WARNING_FLAGS -Wall -Wextra)
  set(FUSEDSTEP_WERROR_FLAGS -Werror)
endif()
