# `make demo` and `make test` start from a bare clone: Python 3.10 or newer and a C++ compiler.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -c constraints.txt
TORCH ?= 2.13.0
OTHER := $(VENV)-$(TORCH)

.PHONY: demo test bench gpu tune gpu-wheels lint format wheel test-other-torch clean

demo: $(VENV)/installed
	$(BIN)/dynamask demo

# The operator tests run once per instruction set and once on a device that only says it is CUDA,
# Triton kernels in the interpreter and then through the compiler; everything else runs once.
test: $(VENV)/installed
	OMP_NUM_THREADS=1 DYNAMASK_SIMD=baseline $(BIN)/python -m pytest -q -n auto tests/ops
	OMP_NUM_THREADS=1 DYNAMASK_SIMD=avx2 $(BIN)/python -m pytest -q -n auto tests/ops
	OMP_NUM_THREADS=1 DYNAMASK_SIMD=avx512 $(BIN)/python -m pytest -q -n auto tests/ops
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --pretend-cuda -k pretend tests
	OMP_NUM_THREADS=1 TRITON_INTERPRET=1 $(BIN)/python -m pytest -q -n auto tests/kernels
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto tests

bench: $(VENV)/installed
	$(BIN)/python -m pytest benchmarks --write

# On a machine with a GPU and a CUDA torch, without a network: STEPS=build,test for some of the
# steps, DEVICE=cpu to try it all without a GPU, ARGS for the rest (benchmarks/gpu.py --help).
gpu:
	$(PYTHON) benchmarks/gpu.py $(if $(STEPS),--steps $(STEPS)) $(if $(DEVICE),--device $(DEVICE)) $(ARGS)

# Other block sizes for the Triton kernels, timed where `make gpu STEPS=build` has been:
# ARGS='--only deform_conv2d --minutes 5' for some of them (benchmarks/tune.py --help).
tune:
	build/gpu/venv/bin/python -m dynamask.benchmarks.tune $(ARGS)

# What `make gpu` takes of packages that are missing there: wheels for Python 3.12 on Linux.
gpu-wheels:
	$(PYTHON) -m pip download -c constraints.txt -d wheels --only-binary=:all: --python-version 3.12 \
	  --implementation cp $(foreach n,28 27 24 17 12 5,--platform manylinux_2_$(n)_x86_64) \
	  --platform manylinux2014_x86_64 --platform manylinux1_x86_64 \
	  'setuptools>=70.1' cmake ninja pybind11 safetensors faster-coco-eval pyyaml rich \
	  'pytest>=8' 'pytest-benchmark>=5' 'pytest-xdist>=3.6' hypothesis pycocotools

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'csrc/*.cpp' 'csrc/*.h' 'csrc/*.cu*')

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files 'csrc/*.cpp' 'csrc/*.h' 'csrc/*.cu*')

# One wheel for every torch from 2.11 on (per Python version, for the pybind11 module).
wheel: $(VENV)/installed
	rm -rf dist
	$(BIN)/python -m pip wheel --no-build-isolation --no-deps -w dist .

# The wheel of this torch, tested on another: make test-other-torch TORCH=2.13.0
test-other-torch: wheel
	$(PYTHON) -m venv $(OTHER)
	$(OTHER)/bin/python -m pip install -q torch==$(TORCH) 'numpy<2.4' pytest pytest-xdist pycocotools hypothesis
	$(OTHER)/bin/python -m pip install -q --no-deps --force-reinstall dist/*.whl
	rm -rf $(OTHER)/tests && mkdir $(OTHER)/tests && cp -r tests/conftest.py tests/ops $(OTHER)/tests
	cd $(OTHER)/tests && OMP_NUM_THREADS=1 ../bin/python -m pytest -q -n auto --import-mode=importlib .

# The stamp holds what was installed; a change of these files installs again. These architectures
# serve every GPU from Ampere on; a wheel has three more, which take as long again to build.
$(VENV)/installed: pyproject.toml setup.py CMakeLists.txt constraints.txt $(shell find csrc -type f 2>/dev/null)
	@command -v c++ >/dev/null || command -v g++ >/dev/null || \
	  { echo "dynamask: no C++ compiler found. Install one, for example: apt install g++"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "dynamask: $(PYTHON) cannot make a virtual environment. Install its venv module, for example: apt install python3-venv"; exit 2; }
	$(PIP) torch torchvision numpy
	$(PIP) 'setuptools>=70.1' cmake ninja pybind11
	TORCH_CUDA_ARCH_LIST="$${TORCH_CUDA_ARCH_LIST:-8.0;9.0;10.0+PTX}" $(PIP) --no-build-isolation -e '.[dev]'
	@touch $@

clean:
	rm -rf build dist *.egg-info dynamask/*.so
