# The verbs of the project; `make help` lists them.
PYTHON := $(shell command -v python3.11 || command -v python3)
UV := uv==0.13.9
# A program by itself: what it needs would not fit what the pipeline needs.
CHECKOV := checkov==3.3.30
BIN := .venv/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-cluster chaos mutants check bench docs image image-test terraform-test checkov template lock clean

help:  ## list the verbs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(STAMP)  ## make .venv from the lock file; nothing to do when it stands

$(STAMP): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info[:2] == (3, 11) else "Python 3.11 is needed; found " + sys.version.split()[0])'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check '$(UV)'
	@# Compiled here: where Python may not write beside its modules, each process would compile 3,800 of them anew, for two thirds of its start.
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes --compile-bytecode requirements-dev.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup  ## train a small real model, predict on real data, show the result
	@$(BIN)/python -m examples.demo

test: setup  ## run all tests
	$(BIN)/python -m pytest

test-cluster: setup  ## run the same jobs on engines whose workers are processes of their own: Prism (Go), Flink (Java, Maven)
	$(BIN)/python tests/cluster/engines.py fetch
	NIGHTSHIFT_CLUSTER=1 $(BIN)/python -m pytest tests/cluster

chaos: setup  ## scenarios of faults by chance, each to its end; RUNS=… SEED=… EVERY=true; goes on where LOG (build/chaos.jsonl) ends
	mkdir -p build
	NIGHTSHIFT_CHAOS_RUNS=$(or $(RUNS),100) NIGHTSHIFT_CHAOS_SEED=$(or $(SEED),20261130) NIGHTSHIFT_CHAOS_EVERY=$(EVERY) NIGHTSHIFT_CHAOS_LOG=$(or $(LOG),build/chaos.jsonl) $(BIN)/python -m pytest tests/chaos
	PYTHONPATH=tests $(BIN)/python -m chaos.summary $(or $(LOG),build/chaos.jsonl)

mutants: setup  ## change the modules that carry the promise in MUTANTS=400 small ways, by SEED=, and see whether the tests notice; an hour or so
	$(BIN)/python tests/mutants/run.py --mutants=$(or $(MUTANTS),400) --seed=$(or $(SEED),20261130)

check: setup  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: setup  ## measure against hand-written loops and what else there is; writes benchmarks/RESULTS.md
	$(BIN)/python -m benchmarks.run
	$(BIN)/python -m benchmarks.scaling
	$(BIN)/python -m benchmarks.many_run
	$(BIN)/python -m benchmarks.formats
	$(BIN)/python -m benchmarks.bigquery
	$(BIN)/python -m benchmarks.serve

docs: setup  ## write the generated tables into README.md and docs/, and the template's metadata
	$(BIN)/python docs/generate.py

image: setup  ## build the image of launcher and worker; IMAGE=… names it, VARIANT=gpu adds CUDA, DOCKER=… another builder
	@test -n "$(IMAGE)" || { echo "make image: name it, such as IMAGE=us-docker.pkg.dev/PROJECT/nightshift/nightshift:0.1.0" >&2; exit 2; }
	$(or $(DOCKER),docker) build -f templates/Dockerfile -t '$(IMAGE)' --build-arg 'VARIANT=$(or $(VARIANT),cpu)' .

image-test: setup  ## build the image without a registry and predict in it: Debian's buildah and debootstrap, as root, 15 GB of disk
	$(BIN)/python tests/image/building.py
	NIGHTSHIFT_IMAGE=1 $(BIN)/python -m pytest tests/image

terraform-test: setup  ## check Terraform's files against the provider's schema, fetched from npm
	NIGHTSHIFT_TERRAFORM=1 $(BIN)/python -m pytest tests/test_operations.py -k "terraform or provider or schedules"

checkov: setup  ## look through what is deployed (Dockerfile, Kubernetes, Terraform) for what is unsafe, with checkov, which uv fetches
	$(BIN)/uv tool run --quiet --python 3.11 --from '$(CHECKOV)' checkov --quiet --compact --skip-download --directory templates \
	  --framework dockerfile kubernetes terraform secrets --skip-path cloudrun  # Cloud Run's files are no Kubernetes' ones

template: docs  ## write the Flex Template's container spec; IMAGE=… names the image, TEMPLATE=… the file, local or gs://
	@test -n "$(IMAGE)" || { echo "make template: name the image that was pushed, such as IMAGE=us-docker.pkg.dev/PROJECT/nightshift/nightshift:0.1.0" >&2; exit 2; }
	$(BIN)/python -m pipeline.dataflow.template '$(IMAGE)' '$(or $(TEMPLATE),build/nightshift.json)'

lock: setup  ## resolve the dependencies anew
	$(BIN)/uv pip compile -q --python-version 3.11 --generate-hashes --no-header --no-emit-index-url pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile -q --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock

clean:  ## remove what the verbs made
	rm -rf .venv demo build *.egg-info benchmarks/data
