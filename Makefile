# Each of `make demo test bench lint sanitize fuzz` is a complete first command after cloning: it installs what it
# needs (system packages when root, a .venv, the build) and is quick the second time.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
FUZZ_SECONDS ?= 60

PACKAGES_PYTHON := python3-venv
PACKAGES_BUILD := build-essential cmake ninja-build ccache python3-dev libzstd-dev libxxhash-dev nlohmann-json3-dev
PACKAGES_TEST := libgtest-dev
PACKAGES_BENCH := libbenchmark-dev
PACKAGES_FUZZ := clang
PACKAGES_MOUNTS := build-essential pkg-config libfuse3-dev fuse3 e2fsprogs xfsprogs

# make powercut: ext4 or xfs, how often, and the first workload; CONTROL=1 (or files, directories): syncs do
# nothing, which must lose; SHUTDOWN=1: the file system is told to stop.
FS ?= ext4
ROUNDS ?= 2000
SEED ?= 1

CPP_SOURCES := $(shell find cpp python/bindings cmake -type f 2>/dev/null) CMakeLists.txt pyproject.toml
CPP_FORMATTED = $(shell find cpp python/bindings tests bench examples -name '*.cc' -o -name '*.h')

.DELETE_ON_ERROR:
.PHONY: help demo test test-cpp test-python test-keras test-versions stress powercut lint format sanitize fuzz clean
.PHONY: bench bench-full bench-incremental bench-setup peers-orbax

help:
	@echo "make demo      train, kill in mid-save, resume, compare bit for bit"
	@echo "make test      C++ and Python tests        make stress    the random ones among them, for half an hour"
	@echo "make test-keras  Keras's Orbax callback and MaxText's way with Grain; a part of make test"
	@echo "make powercut  FS=ext4|xfs ROUNDS=2000: power cuts on that file system; as root    CONTROL=1: they must lose"
	@echo "make bench     C++ micro-benchmarks and the quick comparison with peers    make bench-full    all of it"
	@echo "make bench-incremental    incremental saves on training runs, by kind of array"
	@echo "make lint      ruff, mypy, clang-format        make format    apply them"
	@echo "make test-versions    JAX's tests with every release that is supported (PYTHONS='python3 python3.13')"
	@echo "make peers-orbax SRC=<a checkout of Orbax>    Orbax's own tests, on stock and with Ostraca in its place"
	@echo "make sanitize  tests under ASan + UBSan and under TSan"
	@echo "make fuzz      each fuzzer for FUZZ_SECONDS=$(FUZZ_SECONDS)"

# $(call need,PACKAGES): a recipe line that installs the missing ones, or says which they are.
define need
	@command -v dpkg-query >/dev/null || { echo "not a Debian system: assuming $(1)"; exit 0; }; \
	missing=$$(for package in $(1); do \
	  dpkg-query -W -f='$${db:Status-Status}\n' $$package 2>/dev/null | grep -qx installed || echo $$package; done); \
	test -n "$$missing" || exit 0; \
	if test $$(id -u) -ne 0; then \
	  echo "missing system packages, install them first:"; echo "  sudo apt-get install" $$missing; exit 1; fi; \
	apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $$missing
endef

# --- The virtual environment and the build --------------------------------------------------------------------

$(VENV)/.created:
	$(call need,$(PACKAGES_PYTHON))
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade "pip>=25.1"
	@touch $@

$(VENV)/.lint: $(VENV)/.created pyproject.toml
	$(PY) -m pip install --quiet --group lint
	@touch $@

# In place and without isolation, so that a changed C++ file costs an incremental build.
$(VENV)/.built: $(VENV)/.created $(CPP_SOURCES)
	$(call need,$(PACKAGES_BUILD))
	$(PY) -m pip install --quiet "scikit-build-core>=0.11" "pybind11>=3.0"
	$(PY) -m pip install --quiet --no-build-isolation --editable .
	@touch $@

$(VENV)/.jax $(VENV)/.test $(VENV)/.bench: $(VENV)/.%: pyproject.toml | $(VENV)/.built
	$(PY) -m pip install --quiet --no-build-isolation --editable ".[$*]"
	@touch $@

# --- Commands ---------------------------------------------------------------------------------------------------

demo: $(VENV)/.built $(VENV)/.jax
	$(PY) examples/demo.py

test: test-cpp test-python test-keras

test-cpp:
	$(call need,$(PACKAGES_BUILD) $(PACKAGES_TEST))
	cmake --preset dev --log-level=WARNING
	cmake --build --preset dev
	ctest --preset dev

# Only root can mount disks whose power can be cut, and install what that takes; for others those tests are skipped.
test-python: $(VENV)/.built $(VENV)/.test
	$(call need,$(if $(filter 0,$(shell id -u)),$(PACKAGES_MOUNTS)))
	$(PY) -m pytest

# Programs of others that save through Orbax: Keras's callback, and Grain's iterators in MaxText's way. Their environment
# sees .venv and adds to it, so that no other test can come to need them.
KERAS := build/environments/keras

$(KERAS)/.created: pyproject.toml | $(VENV)/.built $(VENV)/.test
	$(PY) -m venv $(KERAS)
	$(KERAS)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(PY) -c "import sysconfig; print('import site; site.addsitedir(%r)' % sysconfig.get_path('purelib'))" \
	  > $$($(KERAS)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/ostraca-tests.pth
	$(KERAS)/bin/python -m pip install --quiet --group keras
	@touch $@

test-keras: $(KERAS)/.created
	KERAS_BACKEND=jax $(KERAS)/bin/python -m pytest tests/python/test_orbax_keras.py tests/python/test_orbax_maxtext.py

# Each release in an environment of its own below build/versions; PYTHONS adds interpreters: the newest need another.
PYTHONS ?= $(PYTHON)
test-versions: $(VENV)/.built
	$(PY) tests/versions.py $(foreach python,$(PYTHONS),--python $(python))

# An environment that sees .venv and adds a dependency group, so that no other test can come to need it.
build/environments/%/.created: pyproject.toml | $(VENV)/.built $(VENV)/.test
	$(PY) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(PY) -c "import sysconfig; print('import site; site.addsitedir(%r)' % sysconfig.get_path('purelib'))" \
	  > $$($(@D)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/ostraca-tests.pth
	$(@D)/bin/python -m pip install --quiet --group $*
	@touch $@

# Orbax's own tests, which its package leaves out; FILES chooses among them.
peers-orbax: build/environments/peers-orbax/.created
	@test -n "$(SRC)" || { echo "which tests? make peers-orbax SRC=<a checkout of Orbax's repository>"; exit 2; }
	$(<D)/bin/python tests/peers/compare_orbax.py --src $(SRC) $(FILES)

# Everybody against each other for ten minutes; then random saves, prunes, kills and damage, and several processes at
# once: longer than `make test` has time for.
stress: $(VENV)/.built $(VENV)/.test
	OSTRACA_STRESS=1 $(PY) -m pytest tests/python/test_stress.py tests/python/test_incremental_machine.py \
	  tests/python/test_between_calls.py tests/python/test_hostile_run.py \
	  tests/python/test_two_processes.py tests/python/test_many_processes.py

powercut: $(VENV)/.built
	$(call need,$(PACKAGES_MOUNTS))
	$(PY) tests/powercut $(FS) --rounds $(ROUNDS) --seed $(SEED) \
	  $(if $(CONTROL),--control $(CONTROL:1=all)) $(if $(SHUTDOWN),--shutdown)

# Results go to build/bench-results/. bench is under five minutes, bench-full an hour; leave the machine alone meanwhile.
bench-setup: $(VENV)/.built $(VENV)/.bench
	$(call need,$(PACKAGES_BUILD) $(PACKAGES_BENCH))
	cmake --preset release --log-level=WARNING
	cmake --build --preset release

bench: bench-setup
	build/release/bench/cpp/ostraca_bench --benchmark_min_time=0.02
	$(PY) bench/compare.py --quick --check

bench-full: bench-setup
	build/release/bench/cpp/ostraca_bench
	$(PY) bench/train_weights.py
	$(PY) -m pytest bench --benchmark-json=build/bench-results/pytest.json
	$(PY) bench/compare.py --check

# Trains for some minutes the first time; the snapshots stay in build/bench-data/incremental/.
bench-incremental: bench-setup
	$(PY) bench/incremental.py --check

lint: $(VENV)/.lint
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(PY) tests/structure.py
	$(VENV)/bin/clang-format --dry-run --Werror $(CPP_FORMATTED)

format: $(VENV)/.lint
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i $(CPP_FORMATTED)

# The Python part runs an instrumented module in an uninstrumented interpreter: the run-time library is preloaded, and
# -S keeps the editable install from serving the ordinary module. Address randomisation confuses older libtsan.
sanitize: $(VENV)/.built
	$(call need,$(PACKAGES_BUILD) $(PACKAGES_TEST))
	for preset in asan-ubsan tsan; do \
	  cmake --preset $$preset --log-level=WARNING && cmake --build --preset $$preset && ctest --preset $$preset || exit 1; \
	done
	cmake -S . -B build/tsan-python -G Ninja --log-level=WARNING -DCMAKE_BUILD_TYPE=RelWithDebInfo \
	  -DOSTRACA_SANITIZE=thread -DOSTRACA_BUILD_PYTHON=ON -DPython_EXECUTABLE=$(abspath $(PY)) \
	  -Dpybind11_DIR=$$($(PY) -m pybind11 --cmakedir)
	cmake --build build/tsan-python
	rm -rf build/tsan-python/site && mkdir -p build/tsan-python/site && cp -r python/ostraca build/tsan-python/site/
	cmake --install build/tsan-python --component python --prefix build/tsan-python/site
	PYTHONPATH=build/tsan-python/site:$$($(PY) -c "import sysconfig; print(sysconfig.get_path('purelib'))") \
	LD_PRELOAD=$$(c++ -print-file-name=libtsan.so) TSAN_OPTIONS="halt_on_error=1 ignore_noninstrumented_modules=1" \
	OPENBLAS_NUM_THREADS=1 $$(setarch -R true 2>/dev/null && echo setarch -R) \
	  $(PY) -S tests/python/threaded_check.py

fuzz:
	$(call need,$(PACKAGES_BUILD) $(PACKAGES_FUZZ))
	cmake --preset fuzz --log-level=WARNING
	cmake --build --preset fuzz
	for fuzzer in build/fuzz/fuzzers/*_fuzz; do \
	  corpus=build/fuzz/corpus/$$(basename $$fuzzer) && mkdir -p $$corpus && echo "== $$fuzzer" && \
	  $$fuzzer -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 -artifact_prefix=build/fuzz/ $$corpus || exit 1; \
	done

clean:
	rm -rf build $(VENV)
