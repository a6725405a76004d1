#!/usr/bin/env bash
# Builds the CUDA kernels for this machine's GPU, measures and tests them, in two calls of at most nine minutes each and
# without internet. What a GPU is borrowed for comes first: the values, and how fast they come.
#
#   benchmarks/gpu_check.sh                 builds, compares values with the CPU's, measures
#   benchmarks/gpu_check.sh --no-build      tests what was built, and runs it under the sanitizers
#   make gpu-check                          the one and then the other
#   PYTHON=.venv/bin/python OUT=/tmp/found benchmarks/gpu_check.sh
#
# Needs a CUDA device, PyTorch 2.11 or newer built for CUDA, numpy, safetensors, setuptools 77 or newer and nvcc. Without
# pytest, hypothesis, matplotlib, rich, scikit-learn or tqdm the tests are left out, without compute-sanitizer its checks,
# and the summary says so. With pytest-xdist the tests run six at a time. Logs, the names of all tests with their results,
# the table and its numbers go to $OUT; without it, the results to benchmarks/results and the rest to build/gpu-check.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
SECONDS=0 LIMIT=${GPU_CHECK_SECONDS:-535} # bash counts SECONDS up
LOGS=${OUT:-build/gpu-check}
summary=() failed=0 BUILD=yes

refuse() {
  echo "gpu-check: $*" >&2
  exit 1
}

case $#,${1:-} in
  0,) ;;
  1,--no-build) BUILD='' ;;
  *) refuse "the only argument is --no-build, got $*" ;;
esac

# What is there; the first line is a compute capability.
found=$(BUILD=$BUILD "$PYTHON" - <<'CODE' 2>&1
import os, sys
try:
    import torch
except ImportError:
    raise SystemExit(f"PYTHON must name a Python with PyTorch, got {sys.executable}") from None
if os.environ["BUILD"]:
    try:
        from setuptools import __version__ as version
    except ImportError:
        version = "0"
    if int(version.split(".")[0]) < 77:  # the license of pyproject.toml is an expression, which older ones refuse
        raise SystemExit(f"PYTHON must have setuptools 77 or newer to build, got {version if version != '0' else 'none'}")
if not torch.cuda.is_available():
    raise SystemExit(f"there must be a CUDA device that PyTorch sees, got none with PyTorch {torch.__version__}")
major, minor = torch.cuda.get_device_capability()
print(f"{major}{minor}")
print(torch.cuda.get_device_name(), "with PyTorch", torch.__version__)
CODE
) || { last=${found##*$'\n'}; refuse "${last:-PYTHON must name a Python with PyTorch, got $PYTHON}"; }
ARCH=$(tail -n 2 <<<"$found" | head -n 1)
tail -n 1 <<<"$found"
if [ -n "${CUDA_HOME:-}" ]; then NVCC=$CUDA_HOME/bin/nvcc; else NVCC=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc); fi
[ -x "$NVCC" ] || NVCC=$(ls "$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')"/nvidia/cu*/bin/nvcc 2>/dev/null | head -n 1)
[ -n "$NVCC" ] || refuse "there must be nvcc in CUDA_HOME, on the path or beside PyTorch, got none"
mkdir -p "$LOGS"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=PASSIVE

has() { "$PYTHON" -c "import $1" 2>/dev/null; }

# step NAME SECONDS COMMAND...: at most its share, and no more than what is left.
step() {
  local name=$1 share=$2 started=$SECONDS status=0 left=$((LIMIT - SECONDS))
  shift 2
  if [ "$left" -lt 5 ]; then summary+=("$name: not run, out of time") failed=1; return 1; fi
  [ "$share" -lt "$left" ] || share=$left
  echo "== $name (at most $share s)"
  timeout --kill-after=5 "$share" "$@" >"$LOGS/$name.log" 2>&1 || status=$?
  case $status in
    0) summary+=("$name: ok, $((SECONDS - started)) s") ;;
    124 | 137) summary+=("$name: stopped after $share s, see $LOGS/$name.log") failed=1 ;;
    *) summary+=("$name: failed with $status, see $LOGS/$name.log") failed=1 ;;
  esac
  tail -n "${LINES_SHOWN:-6}" "$LOGS/$name.log"
  return "$status"
}

skip() {
  summary+=("$1: not run, $2")
  echo "== ${summary[-1]}"
}

finish() {
  printf '%s\n' "" "gpu-check in $SECONDS s:" "${summary[@]}" | tee "$LOGS/summary${BUILD:+-build}.txt"
  exit $failed
}

# PyTorch carries the headers of pybind11, which is all that setup.py wants of it. Ninja is BuildExtension's to miss: it
# says so and compiles one file after the other.
if ! has pybind11; then
  mkdir -p build/gpu-check-headers
  cat >build/gpu-check-headers/pybind11.py <<'CODE'
"""Stands in for pybind11, which is not installed: its headers come with PyTorch."""
from torch.utils.cpp_extension import include_paths
def get_include():
    return include_paths()[0]
CODE
  export PYTHONPATH=$PYTHONPATH:$PWD/build/gpu-check-headers
  echo "gpu-check: pybind11 is not installed, its headers are taken from PyTorch"
fi
has ninja || command -v ninja >/dev/null || echo "gpu-check: ninja is not installed, the build is slower"
export MAX_JOBS=${MAX_JOBS:-$(nproc)}
if [ -n "$BUILD" ]; then
  step build 230 env FASTFORGET_CUDA=1 FASTFORGET_CUDA_ARCHS="$ARCH" "$PYTHON" setup.py build_ext --inplace || finish
fi
step loads 40 "$PYTHON" -c "from fastforget import ops; assert ops.cuda_built(), 'the library did not load'" || finish

if [ -n "$BUILD" ]; then
  step values 60 "$PYTHON" benchmarks/gpu_values.py
  left=$((LIMIT - SECONDS - 3))
  LINES_SHOWN=200 step bench "$left" "$PYTHON" benchmarks/gpu_bench.py --seconds $((left - 15)) # the table comes last
  finish
fi

# pytest-benchmark's options in pyproject.toml would stop a pytest without it.
TEST=("$PYTHON" -m pytest -v -o addopts= --import-mode=importlib -ra --maxfail=40 --tb=short -p no:cacheprovider)
! has xdist || TEST+=(-n 6)
# tests NAME SECONDS FILES...: leaves the name and result of each test in NAME.xml, also of those before a time-out in the log.
tests() { step "$1" "$2" "${TEST[@]}" --junitxml="$LOGS/$1.xml" "${@:3}"; }
if "$PYTHON" -c "import hypothesis, matplotlib, pytest, rich, sklearn, tqdm"; then
  export FASTFORGET_TEST_DEVICE=cuda
  tests operators 150 tests/ops --ignore=tests/ops/test_simd.py
  tests library 130 tests/fisher/test_{layers,uses,unknown_uses,tensors_with_gradients,dtypes,models}.py \
    tests/functional/test_{harmonization,topk}.py \
    tests/class_forgetting/test_{one_shot,one_shot_arguments,only_values_change,floor,rule_equations}.py
  tests serving 60 tests/serving/test_live{,_versions,_failures}.py
  unset FASTFORGET_TEST_DEVICE
  tests graphs 60 tests/serving/engines/test_cuda_graphs.py tests/functional/test_harmonization_graph.py
else
  skip tests "pytest, hypothesis, matplotlib, rich, scikit-learn and tqdm must be installed"
  failed=1
fi

SANITIZER=$(command -v compute-sanitizer || echo "$(dirname "$NVCC")/compute-sanitizer")
if [ -x "$SANITIZER" ]; then
  # PyTorch's allocator would hide what lies beyond a tensor. Blocks share memory in products and selection alone.
  export PYTORCH_NO_CUDA_MEMORY_CACHING=1
  step memcheck 60 "$SANITIZER" --tool memcheck --error-exitcode 9 "$PYTHON" benchmarks/gpu_values.py --operators
  step racecheck 60 "$SANITIZER" --tool racecheck --error-exitcode 9 "$PYTHON" benchmarks/gpu_values.py --only linear \
    convolution selection
else
  skip sanitizer "compute-sanitizer is not installed"
fi
finish
