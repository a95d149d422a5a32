# The CUDA module: kernels in a static library, without pybind11; the CUDA runtime is linked in, so that one wheel serves
# machines with and without a driver.
if(NOT FUSEDSTEP_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "FUSEDSTEP_CUDA must be AUTO, ON or OFF but is '${FUSEDSTEP_CUDA}'")
endif()
if(FUSEDSTEP_CUDA_FROM_PYPI)
  # The wheels of nvcc, nvvm, crt, runtime and cccl share a folder, which has lib where nvcc looks for lib64.
  execute_process(COMMAND ${Python_EXECUTABLE} -c "import nvidia.cu13 as m; print(list(m.__path__)[0])"
                  OUTPUT_VARIABLE _toolkit OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  if(NOT EXISTS "${_toolkit}/lib64")
    file(CREATE_LINK lib "${_toolkit}/lib64" SYMBOLIC)
  endif()
  set(CMAKE_CUDA_COMPILER "${_toolkit}/bin/nvcc" CACHE FILEPATH "nvcc" FORCE)
  set(CUDAToolkit_ROOT "${_toolkit}")
endif()
if(FUSEDSTEP_CUDA STREQUAL "OFF")
  message(STATUS "CUDA: off")
  return()
endif()
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  if(FUSEDSTEP_CUDA STREQUAL "ON")
    message(FATAL_ERROR "FUSEDSTEP_CUDA=ON but no CUDA compiler was found: install nvcc, set FUSEDSTEP_CUDA_FROM_PYPI=1 "
                        "to take it from wheels, or set FUSEDSTEP_CUDA=OFF")
  endif()
  message(STATUS "CUDA: no nvcc was found; building the CPU module alone")
  return()
endif()

execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --version OUTPUT_VARIABLE _nvcc_version)
string(REGEX MATCH "release ([0-9.]+)" _nvcc_version "${_nvcc_version}")
if(CMAKE_MATCH_1 VERSION_LESS 12.8)
  if(FUSEDSTEP_CUDA STREQUAL "ON")
    message(FATAL_ERROR "FUSEDSTEP_CUDA=ON needs nvcc 12.8 or newer but found ${CMAKE_MATCH_1}")
  endif()
  message(STATUS "CUDA: nvcc ${CMAKE_MATCH_1} is too old (12.8 is needed); building the CPU module alone")
  return()
endif()

set(CMAKE_CUDA_ARCHITECTURES ${FUSEDSTEP_CUDA_ARCHITECTURES})
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)
enable_language(CUDA)
message(STATUS "CUDA: ${CMAKE_CUDA_COMPILER_VERSION}, architectures ${CMAKE_CUDA_ARCHITECTURES}")

file(GLOB _cuda_sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/csrc/cuda/*.cu")
add_library(fusedstep_cuda STATIC ${_cuda_sources})
set_target_properties(fusedstep_cuda PROPERTIES POSITION_INDEPENDENT_CODE ON CUDA_SEPARABLE_COMPILATION OFF
                      CUDA_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
# Without contraction, as on the CPU: equal bits rest on it. Never fast math. Compressed, the many instances of a
# kernel take a tenth of the space.
target_compile_options(fusedstep_cuda PRIVATE --fmad=false --compress-mode=size
                       -Xcompiler=-Wall,-Wextra,-ffp-contract=off)
if(FUSEDSTEP_WERROR)
  target_compile_options(fusedstep_cuda PRIVATE -Werror all-warnings)
endif()
target_compile_definitions(fusedstep_cuda PUBLIC FUSEDSTEP_CUDA_MODULE)

pybind11_add_module(_cuda csrc/bindings/cuda_module.cpp ${_bindings})
target_link_libraries(_cuda PRIVATE fusedstep_cuda fusedstep_numeric fusedstep_warnings)
target_link_options(_cuda PRIVATE -Wl,--exclude-libs,ALL)
install(TARGETS _cuda DESTINATION ${SKBUILD_PROJECT_NAME})
