#!/usr/bin/env bash
# Builds the CUDA kernels for this machine's GPU, tests and measures them, in at most nine minutes and without internet.
#
#   benchmarks/gpu_check.sh                 or: make gpu-check
#   PYTHON=.venv/bin/python OUT=/tmp/found benchmarks/gpu_check.sh
#
# Needs a CUDA device, PyTorch 2.11 or newer built for CUDA, numpy, safetensors, setuptools and nvcc. Without pytest,
# hypothesis, matplotlib, rich, scikit-learn or tqdm the tests are left out, without compute-sanitizer its checks, and the
# summary says so. Logs, the table and its numbers go to $OUT; without it, the results to benchmarks/results and the logs
# to build/gpu-check.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
SECONDS=0 LIMIT=${GPU_CHECK_SECONDS:-535} # bash counts SECONDS up
LOGS=${OUT:-build/gpu-check}
summary=() failed=0

refuse() {
  echo "gpu-check: $*" >&2
  exit 1
}

# What is there; the first line is a compute capability.
found=$("$PYTHON" - <<'CODE' 2>&1
import sys
try:
    import torch
except ImportError:
    raise SystemExit(f"PYTHON must name a Python with PyTorch, got {sys.executable}") from None
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
step build 230 env FASTFORGET_CUDA=1 FASTFORGET_CUDA_ARCHS="$ARCH" "$PYTHON" setup.py build_ext --inplace &&
  step loads 40 "$PYTHON" -c "from fastforget import ops; assert ops.cuda_built(), 'the library did not load'"
if [ $? -ne 0 ]; then
  printf '%s\n' "${summary[@]}"
  exit 1
fi

step values 60 "$PYTHON" benchmarks/gpu_values.py

# pytest-benchmark's options in pyproject.toml would stop a pytest without it.
TEST=("$PYTHON" -m pytest -q -o addopts= --import-mode=importlib -ra --maxfail=40 --tb=short -p no:cacheprovider)
if "$PYTHON" -c "import hypothesis, matplotlib, pytest, rich, sklearn, tqdm"; then
  export FASTFORGET_TEST_DEVICE=cuda
  step operators 110 "${TEST[@]}" tests/ops --ignore=tests/ops/test_simd.py
  step library 100 "${TEST[@]}" tests/fisher/test_{layers,uses,unknown_uses,tensors_with_gradients,dtypes,models}.py \
    tests/functional/test_{harmonization,topk}.py \
    tests/class_forgetting/test_{one_shot,one_shot_arguments,only_values_change,floor,rule_equations}.py
  step serving 50 "${TEST[@]}" tests/serving/test_live{,_versions,_failures}.py
  unset FASTFORGET_TEST_DEVICE
  step graphs 50 "${TEST[@]}" tests/serving/engines/test_cuda_graphs.py
else
  skip tests "pytest, hypothesis, matplotlib, rich, scikit-learn and tqdm must be installed"
  failed=1
fi

SANITIZER=$(command -v compute-sanitizer || echo "$(dirname "$NVCC")/compute-sanitizer")
if [ -x "$SANITIZER" ]; then
  # PyTorch's allocator would hide what lies beyond a tensor.
  for tool in memcheck racecheck; do
    step $tool 45 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$SANITIZER" --tool $tool --error-exitcode 9 \
      "$PYTHON" benchmarks/gpu_values.py --operators
  done
else
  skip sanitizer "compute-sanitizer is not installed"
fi

left=$((LIMIT - SECONDS - 3))
LINES_SHOWN=200 step bench "$left" "$PYTHON" benchmarks/gpu_bench.py --seconds $((left - 15)) # the table comes last
printf '%s\n' "" "gpu-check in $SECONDS s:" "${summary[@]}" | tee "$LOGS/summary.txt"
exit $failed
