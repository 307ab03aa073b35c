# The verbs of the project; `make help` lists them. CONTRIBUTING.md says what each needs besides Python 3.11.
PYTHON := $(shell command -v python3.11 || command -v python3)
UV := uv==0.13.9
# A program by itself: what it needs would not fit what the pipeline needs.
CHECKOV := checkov==3.3.30
BIN := .venv/bin
STAMP := .venv/.installed
# Where make image-test keeps Debian, buildah's storage and the image: tests/image/building.py.
IMAGE_TEST := /var/tmp/nightshift-image-test

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-cluster chaos mutants check bench docs image image-test terraform-test checkov template lock clean

##@ Start here
help:  ## list the verbs
	@awk -F ':.*## ' '/^##@ / {printf "%s%s\n", gap, substr($$0, 5); gap = "\n"} /^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## make .venv from the lock file, if it is not up to date

$(STAMP): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info[:2] == (3, 11) else "Python 3.11 is needed; found " + sys.version.split()[0])'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check '$(UV)'
	@# Compiled here: where Python may not write beside its modules, each process would compile 3,800 of them anew, for two thirds of its start.
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes --compile-bytecode requirements-dev.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup  ## train a small model, predict, show the result
	@$(BIN)/python -m examples.demo

clean:  ## remove all that the verbs made, .venv too
	rm -rf .venv demo build *.egg-info benchmarks/data .pytest_cache .ruff_cache .mypy_cache .hypothesis '$(IMAGE_TEST)'
	find pipeline transforms tests benchmarks examples docs -name __pycache__ -prune -exec rm -rf {} +

##@ At every commit
test: setup  ## run all tests, in two processes side by side
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile -p no:cacheprovider

check: setup  ## check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: setup  ## write the generated tables and the template's metadata
	$(BIN)/python docs/generate.py

lock: setup  ## write the lock files; locked versions stay
	$(BIN)/uv pip compile -q --python-version 3.11 --generate-hashes --no-header --no-emit-index-url pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile -q --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock

##@ Longer tests
test-cluster: setup  ## run the same jobs on Prism (Go) and Flink (Java)
	$(BIN)/python tests/cluster/engines.py fetch
	NIGHTSHIFT_CLUSTER=1 $(BIN)/python -m pytest tests/cluster

# RUNS=100 SEED=… EVERY=true (each operation of three small jobs) LOG=build/chaos.jsonl, at whose end it goes on.
chaos: setup  ## play scenarios of faults; RUNS= SEED= EVERY= LOG=
	mkdir -p build
	NIGHTSHIFT_CHAOS_RUNS=$(or $(RUNS),100) NIGHTSHIFT_CHAOS_SEED=$(or $(SEED),20261130) NIGHTSHIFT_CHAOS_EVERY=$(EVERY) NIGHTSHIFT_CHAOS_LOG=$(or $(LOG),build/chaos.jsonl) $(BIN)/python -m pytest tests/chaos
	PYTHONPATH=tests $(BIN)/python -m chaos.summary $(or $(LOG),build/chaos.jsonl)

# Changes the modules that carry the promise in MUTANTS=400 small ways, by SEED=, and shows whether the tests notice; an hour or so.
mutants: setup  ## mutation tests; MUTANTS= SEED=
	$(BIN)/python tests/mutants/run.py --mutants=$(or $(MUTANTS),400) --seed=$(or $(SEED),20261130)

bench: setup  ## measure, write RESULTS.md; QUICK=true: a short run
	$(BIN)/python -m benchmarks.run $(if $(QUICK),--quick)
	$(BIN)/python -m benchmarks.scaling $(if $(QUICK),--quick)
	$(BIN)/python -m benchmarks.many_run $(if $(QUICK),--quick)
	$(BIN)/python -m benchmarks.formats $(if $(QUICK),--quick)
	$(BIN)/python -m benchmarks.bigquery $(if $(QUICK),--quick)
	$(BIN)/python -m benchmarks.serve $(if $(QUICK),--quick)

##@ Image and deployment
image: setup  ## build IMAGE=; VARIANT=gpu for CUDA, DOCKER= builder
	@test -n "$(IMAGE)" || { echo "make image: name it, such as IMAGE=us-docker.pkg.dev/PROJECT/nightshift/nightshift:0.1.0" >&2; exit 2; }
	$(or $(DOCKER),docker) build -f templates/Dockerfile -t '$(IMAGE)' --build-arg 'VARIANT=$(or $(VARIANT),cpu)' .

# Without a registry: Debian's buildah and debootstrap, as root; 15 GB of disk, minutes.
image-test: setup  ## build the image with buildah, as root, and predict in it
	$(BIN)/python tests/image/building.py
	NIGHTSHIFT_IMAGE=1 $(BIN)/python -m pytest -v tests/image

template: docs  ## write the Flex Template of IMAGE= to TEMPLATE=
	@test -n "$(IMAGE)" || { echo "make template: name the image that was pushed, such as IMAGE=us-docker.pkg.dev/PROJECT/nightshift/nightshift:0.1.0" >&2; exit 2; }
	$(BIN)/python -m pipeline.dataflow.template '$(IMAGE)' '$(or $(TEMPLATE),build/nightshift.json)'

terraform-test: setup  ## check Terraform's files against the provider's schema
	NIGHTSHIFT_TERRAFORM=1 $(BIN)/python -m pytest tests/test_operations.py -k "terraform or provider or schedules"

checkov: setup  ## look through what is deployed for what is unsafe
	$(BIN)/uv tool run --quiet --python 3.11 --from '$(CHECKOV)' checkov --quiet --compact --skip-download --directory templates \
	  --framework dockerfile kubernetes terraform secrets --skip-path cloudrun  # Cloud Run's files are no Kubernetes' ones
