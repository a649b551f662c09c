# Two commands: `make demo` and `make test`. They need python3 (3.10 to 3.13) and, for the compiled room, g++.

PYTHON ?= python3
TORCH  ?= torch==2.13.0
BIN    := .venv/bin
STAMP  := .venv/.installed
NATIVE := $(wildcard src/strobe/backends/cpu/*.cpp src/strobe/backends/cpu/*.hpp src/strobe/backends/cpu/*.h \
                     src/strobe/backends/cpu/isa/*.cpp src/strobe/backends/cpu/isa/*.hpp)

.PHONY: demo test lint clean
.DEFAULT_GOAL := demo

demo: $(STAMP)
	$(BIN)/strobe demo

test: $(STAMP)
	tools/check

lint: $(STAMP)
	tools/check lint

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache .hypothesis src/strobe_attention.egg-info src/strobe/backends/cpu/_cpu*.so
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv .venv

$(STAMP): $(BIN)/python pyproject.toml setup.py $(NATIVE)
	@if $(BIN)/python -c 'import torch' 2>/dev/null; then \
	    echo "torch is here: $$($(BIN)/python -c 'import torch; print(torch.__version__)')"; \
	else \
	    $(BIN)/pip install --quiet "$(TORCH)"; \
	fi
	@command -v $${CXX:-g++} >/dev/null 2>&1 || echo "no C++ compiler: the cpu room is not built, torch's kernel runs instead"
	$(BIN)/pip install --quiet --editable '.[test]'
	@touch $@
