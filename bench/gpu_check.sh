#!/usr/bin/env bash
# Builds, tests and measures on a machine with a CUDA GPU: one command, no network, under ten minutes.
#   bench/gpu_check.sh [OUT]     OUT: the folder for the benchmark's JSON, bench/results by default
# Needs nvcc, CMake, Ninja, compute-sanitizer, and a Python (PYTHON, python3 by default) with NumPy, torch, CuPy,
# pybind11, pytest, ml_dtypes, tqdm and safetensors. A part that fails or takes too long does not stop the next one.
# Exit code: 0; 1 if a part failed; 2 if something is missing.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2

stop() {
  printf 'gpu_check: %s\n' "$*" >&2
  exit 2
}

out=${1:-bench/results}
export PYTHON=${PYTHON:-python3}
command -v nvidia-smi >/dev/null || stop "no CUDA device: there is no nvidia-smi, so no driver is installed"
gpus=$(nvidia-smi --query-gpu=name,compute_cap,driver_version --format=csv,noheader) ||
  stop "no CUDA device: nvidia-smi failed: $gpus"
[ -n "$gpus" ] || stop "no CUDA device: nvidia-smi lists none"
[ -d /usr/local/cuda/bin ] && PATH=$PATH:/usr/local/cuda/bin
for program in nvcc cmake ninja compute-sanitizer "$PYTHON"; do
  command -v "$program" >/dev/null || stop "$program was not found"
done
"$PYTHON" -c 'import cupy, ml_dtypes, numpy, pybind11, pytest, safetensors, torch, tqdm' ||
  stop "$PYTHON lacks a module, see above"

gpu=${gpus%%$'\n'*}
name=${gpu%%,*}
capability=$(cut -d, -f2 <<<"$gpu" | tr -d ' .')
json=$out/$(tr 'A-Z ' 'a-z-' <<<"$name").json
printf '%s\n%s\n' "$gpus" "$(nvcc --version | tail -n 1)"

export CAPABILITY=$capability BUILD=$PWD/build/gpu_check SITE=$PWD/build/gpu_check/site
export PYTHONPATH=$SITE${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export COMMAND_LINE='import sys; from fusedstep.cli import main; sys.exit(main())'
mkdir -p "$out" "$BUILD" || stop "cannot make the folders $out and $BUILD"
unset FUSEDSTEP_BACKEND FUSEDSTEP_ISA FUSEDSTEP_NUM_THREADS

# Without pip, which would fetch what the build needs; kept between runs.
build() {
  set -e
  version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' python/fusedstep/__init__.py)
  cmake -S . -B "$BUILD" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX="$SITE" \
    -DSKBUILD_PROJECT_NAME=fusedstep -DSKBUILD_PROJECT_VERSION="$version" \
    -DPython_EXECUTABLE="$(command -v "$PYTHON")" -Dpybind11_DIR="$("$PYTHON" -m pybind11 --cmakedir)" \
    -DFUSEDSTEP_CUDA=ON -DFUSEDSTEP_CUDA_ARCHITECTURES="$CAPABILITY-real"
  cmake --build "$BUILD"
  rm -rf "$SITE"
  mkdir -p "$SITE"
  cp -r python/fusedstep "$SITE"
  find "$SITE" -name '*.so' -delete
  cmake --install "$BUILD"
  "$PYTHON" -c "$COMMAND_LINE" info
  "$PYTHON" -c 'import fusedstep as fs; assert fs.info()["cuda"], fs.info()["cuda_reason"]'
}
export -f build

failed=0
summary=()
part() { # name, seconds, command
  local start=$SECONDS status=passed log=$BUILD/$1.log
  printf '\n== %s\n' "$1"
  timeout --kill-after=5 "$2" "${@:3}" 2>&1 | tee "$log" || {
    status="FAILED with exit code $?"
    failed=1
  }
  summary+=("$(printf '%-10s %4d s  %s: %s' "$1" $((SECONDS - start)) "$status" "$(grep . "$log" | tail -n 1)")")
  printf '== %s: %s\n' "$1" "$status"
}

sanitizer() { # tool; the rest goes to the calls
  part "$1" 55 compute-sanitizer --tool "$1" --error-exitcode 9 "$PYTHON" tests/cuda/sanitized_calls.py "${@:2}"
}

part build 180 bash -c build
if [ "$failed" = 0 ]; then
  # Libraries of that machine may deprecate things that this project's own environment has not met.
  part tests 200 "$PYTHON" -m pytest -q -m cuda -p no:cacheprovider --tb=short --maxfail=100 tests/cuda \
    -W default::DeprecationWarning -W default::FutureWarning
  sanitizer memcheck
  sanitizer racecheck --small
  part benchmark 90 "$PYTHON" -c "$COMMAND_LINE" bench --device cuda --json "$json"
fi

printf '\n== summary\n'
printf '%s\n' "${summary[@]}"
[ -f "$json" ] && printf 'times: %s\n' "$json"
exit "$failed"
