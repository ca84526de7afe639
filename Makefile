# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A folder with images and weights for the tests that need them: make test DATA=DIR
DATA ?=

.PHONY: demo test browser lint pytest bench bench-accel bench-energy bench-toggles bench-calibration bench-explore \
  bench-studies zoo soak clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/python -m codesign compare sesr_m5_x2 --size 256x256 --report out/demo
	@echo "The report is out/demo/report.html"

test: $(VENV)/installed browser lint pytest

# The report is tested in a real browser: the system's, or Debian's package of it.
browser:
	@command -v chromium > /dev/null || { \
	  echo "Installing chromium, in which the report is tested"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium > /dev/null; } || { \
	  echo "chromium is missing and could not be installed: install it with your system's packages" >&2; exit 1; }

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

pytest: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 --dist worksteal $(if $(DATA),--data=$(DATA))

bench: $(VENV)/installed
	mkdir -p out
	$(BIN)/python -m pytest benchmarks/test_networks.py --benchmark-only --benchmark-json out/bench.json \
	  $(if $(DATA),--data=$(DATA))
	$(BIN)/python benchmarks/record.py out/bench.json benchmarks/results/spine.json "make bench DATA=DIR"

# Ten networks on the RTL, about fifteen minutes; goes on where it was interrupted.
bench-accel: $(VENV)/installed
	$(BIN)/python benchmarks/accel.py

# Published chips predicted from their public parameters, beside what was published.
bench-energy: $(VENV)/installed
	$(BIN)/python benchmarks/energy.py

# What photographs switch in the array; writes the activity records of the energy account.
bench-toggles: $(VENV)/installed
	$(BIN)/python benchmarks/energy_toggles.py $(if $(DATA),--data=$(DATA))

# The account held against Debian's OSU 180 nm cells (package qflow-tech-osu018); about ten minutes.
bench-calibration: $(VENV)/installed
	$(BIN)/python benchmarks/calibration.py

# How many machines a second the analytical model prices, and how near it is to the cycle model.
bench-explore: $(VENV)/installed
	mkdir -p out
	$(BIN)/python -m pytest benchmarks/test_explore.py --benchmark-only --benchmark-json out/explore.json
	$(BIN)/python benchmarks/record.py out/explore.json benchmarks/results/explore.json "make bench-explore"

# An hour of film, and INT8 against FP16, in six minutes.
bench-studies: $(VENV)/installed
	$(BIN)/python benchmarks/studies.py $(if $(DATA),--data=$(DATA))

# Every architecture that spandrel knows, compiled; goes on where it stopped.
zoo: $(VENV)/installed
	$(BIN)/python benchmarks/zoo.py

# Random networks on the RTL: make soak MINUTES=60, and SEED=N to repeat a run.
soak: $(VENV)/installed
	$(BIN)/python tests/soak.py $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED))

clean:
	rm -rf build out .pytest_cache .mypy_cache .ruff_cache
