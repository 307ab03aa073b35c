"""``python tests/mutants/run.py``: changes the modules that carry the promise, one small change at a time, and has the tests look for it.

One process imports TensorFlow, Beam and the clients, and nothing of this project; each mutant's tests run in a fork of it. First all
tests run once, to learn which lines each reaches and how long it takes: a mutant's tests are those that reach its line, the quick ones
first. What was judged stands in ``build/mutants``, and is not judged again while module and tests are as they were.
"""

from __future__ import annotations

import argparse
import atexit
import functools
import hashlib
import importlib
import itertools
import json
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "mutants"
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(HERE)]

import loading  # noqa: E402
import mutations  # noqa: E402

MODULES = (
    "transforms.rows.keys",
    "transforms.check_keys",
    "transforms.staging.split_records",
    "transforms.accounts.gate",
    "transforms.publish",
    "transforms.output.publisher",
    "transforms.output.publish_tasks",
    "transforms.many.run_manifest",
    "transforms.output.folder_change",
    "transforms.output.placing",
    "transforms.output.journal",
    "transforms.output.locks",
    "transforms.convert.content_digest",
    "transforms.model.pool",
    "transforms.model.structure",
    "transforms.model.restoring",
    "transforms.model.session",
    "transforms.model.crashes",
)
FILES = (
    "folder_change",
    "folder_change_bucket",
    "locks",
    "publish",
    "removal",
    "content_digest",
    "journal",
    "keys",
    "split_records",
    "structure",
    "pool",
    "model_calls",
    "verify",
    "job",
    "many",
    "resume",
    "mirror",
    "own_names",
    "compare",
    "faults",
    "changed",
    "import_tensorflow",
)
# These bring the clients of Google's services, too.
HEAVY = ("apache_beam", "google.cloud.bigquery", "google.cloud.storage", "hypothesis", "pipeline.main", "pipeline.preflight.tasks")
# A test that takes longer would be asked of every survivor.
TEST_SECONDS = 40.0
MUTANT_SECONDS = 60.0
# A test that takes so much longer than it did without a mutant hangs, and the mutant is noticed: some make a test wait for ever.
HANGS_SECONDS, HANGS_TIMES = 20.0, 5.0
# Tests whose runs are processes of their own reach lines that nobody sees here: those of these files are asked, too, and all of them where
# few others are.
ALSO = {
    "transforms.model.crashes": ("faults",),
    "transforms.model.session": ("faults",),
    "transforms.staging.split_records": ("resume",),
    "transforms.output.locks": ("faults", "folder_change"),
    "transforms.output.journal": ("faults", "folder_change"),
    "transforms.output.publisher": ("faults", "job"),
}
FEW = 3


def path_of(module: str) -> Path:
    return ROOT / f"{module.replace('.', '/')}.py"


class Reached:
    """A pytest plugin that notes which lines of the modules each test reaches, in all threads of its process."""

    def __init__(self, kept: Path, digest: str) -> None:
        self.kept, self.digest = kept, digest
        self.tests: dict[str, dict[str, Any]] = {}
        self.starters: set[str] = set()
        self.lines: set[tuple[str, int]] = set()
        self.names = {str(path_of(module)): module for module in MODULES}

    def _trace(self, frame: Any, event: str, _: Any) -> Callable[..., Any] | None:
        return self._trace_lines if frame.f_code.co_filename in self.names else None

    def _trace_lines(self, frame: Any, event: str, _: Any) -> Callable[..., Any]:
        if event == "line":
            self.lines.add((frame.f_code.co_filename, frame.f_lineno))
        return self._trace_lines

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.lines = set()
        self.started = time.perf_counter()
        threading.settrace(self._trace)
        sys.settrace(self._trace)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" and report.passed:
            by_module: dict[str, list[int]] = {}
            for path, line in sorted(self.lines.copy()):
                by_module.setdefault(self.names[path], []).append(line)
            self.tests[report.nodeid] = {"seconds": report.duration, "lines": by_module, "starts_child": False}

    def pytest_itemcollected(self, item: Any) -> None:
        if {"child", "launcher"} & set(item.function.__code__.co_names) or "Popen" in item.function.__code__.co_names:
            self.starters.add(item.nodeid)

    def pytest_sessionfinish(self) -> None:
        sys.settrace(None)
        for name, test in self.tests.items():
            test["starts_child"] = name in self.starters
        self.kept.write_text(json.dumps({"digest": self.digest, "tests": self.tests}))


class Chosen:
    """A pytest plugin that runs the tests of given names, in their order."""

    def __init__(self, names: Sequence[str], seconds: dict[str, float], deadline: Path) -> None:
        self.order = {name: place for place, name in enumerate(names)}
        self.failed = ""
        self.seconds, self.deadline = seconds, deadline

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.deadline.write_text(str(time.monotonic() + HANGS_SECONDS + HANGS_TIMES * self.seconds[nodeid]))

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = sorted((item for item in items if item.nodeid in self.order), key=lambda item: self.order[item.nodeid])

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid


def import_heavy() -> None:
    """Import what takes seconds, start the stand-ins of Google's services, and forget what is this project's."""
    os.environ |= {
        "TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0", "HYPOTHESIS_STORAGE_DIRECTORY": str(BUILD / "hypothesis"),
        "PYTHONPATH": os.pathsep.join((str(HERE / "site"), str(ROOT), str(ROOT / "tests"))),
    }  # fmt: skip
    os.environ.pop("CI", None)
    import gcp_fixtures

    atexit.register(gcp_fixtures._stand_ins.stop)  # not in forks, which end by themselves
    try:
        gcp_fixtures._stand_ins.start()
    except gcp_fixtures.BinaryMissingError as error:
        print(f"tests on buckets are left out: {error}")
    from transforms.model.import_tensorflow import import_tensorflow

    import_tensorflow()
    import tensorflow as tf

    _ = tf.compat.v1.Session, tf.compat.v1.saved_model.load  # loaded when first used
    for name in HEAVY:
        importlib.import_module(name)
    for name in [*sys.modules]:
        if name.split(".")[0] in ("transforms", "pipeline", "saved_models", "child"):
            del sys.modules[name]


def in_fork(work: Callable[[], int], log: Path, seconds: float, deadline: Path | None = None) -> int | None:
    """Run ``work`` in a fork and return its status; None where it took longer, and was ended with all that it started.

    ``deadline``: a file in which the work itself says until when it may take, if sooner.
    """
    process = os.fork()
    if process == 0:
        os.setsid()
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        status = 99
        try:
            status = work()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    end = time.monotonic() + seconds
    status: int | None = None
    try:
        while time.monotonic() < end and not is_past(deadline):
            ended, code = os.waitpid(process, os.WNOHANG)
            if ended:
                status = os.waitstatus_to_exitcode(code)
                break
            time.sleep(0.02)
    finally:
        with _gone():
            os.killpg(process, signal.SIGKILL)
    if status is None:
        os.waitpid(process, 0)
    return status


def is_past(deadline: Path | None) -> bool:
    """Return whether the time that a file holds has passed."""
    try:
        return deadline is not None and time.monotonic() > float(deadline.read_text() or "inf")
    except FileNotFoundError:
        return False


class _gone:  # noqa: N801 - a context, as contextlib's are
    def __enter__(self) -> None: ...

    def __exit__(self, kind: type | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, ProcessLookupError)


def pytest_in_fork(plugin: Any, files: Sequence[str], *flags: str) -> int:
    """Run tests of ``files`` in this process, a fork: emulators and SavedModels are shared with all others."""
    import gcp_fixtures
    import pytest
    import saved_models

    vars(gcp_fixtures).pop("pytest_unconfigure", None)
    start = gcp_fixtures.CloudStorage.__init__

    def number_buckets(self: Any, stand_ins: Any) -> None:
        start(self, stand_ins)
        self._numbers = itertools.count(os.getpid() * 1000)

    gcp_fixtures.CloudStorage.__init__ = number_buckets  # type: ignore[method-assign]
    shared = BUILD / "models"
    shared.mkdir(parents=True, exist_ok=True)
    saved_models.Models.__init__ = lambda self, folder: setattr(self, "folder", shared)  # type: ignore[method-assign]
    (BUILD / "tmp").mkdir(exist_ok=True)
    os.chdir(ROOT)
    # Modules are imported before pytest can rewrite their asserts.
    common = (
        "-q",
        "-W",
        "ignore::pytest.PytestAssertRewriteWarning",
        "-p",
        "no:cacheprovider",
        f"--basetemp={BUILD / 'tmp' / str(os.getppid())}",
        "--hypothesis-seed=0",
    )
    return int(pytest.main([*common, *flags, *files], plugins=[plugin]))


def modules_digest() -> str:
    return hashlib.sha256(b"".join(path_of(module).read_bytes() for module in MODULES)).hexdigest()


def test_files() -> list[str]:
    return [f"tests/test_{name}.py" for name in FILES if (ROOT / f"tests/test_{name}.py").exists()]


def learn() -> dict[str, dict[str, Any]]:
    """Run each file of tests once, traced; return which lines each test reaches."""
    tests: dict[str, dict[str, Any]] = {}
    for path in test_files():
        kept = BUILD / f"{Path(path).stem}.json"
        digest = hashlib.sha256((ROOT / path).read_bytes() + modules_digest().encode()).hexdigest()
        if not kept.exists() or json.loads(kept.read_text())["digest"] != digest:
            print(f"which lines do the tests of {path} reach?", flush=True)
            run_all = functools.partial(pytest_in_fork, Reached(kept, digest), [path], "-k", "not bigquery")
            in_fork(run_all, BUILD / "reached.log", 1800)
        if not kept.exists():
            raise SystemExit(f"the tests of {path} could not be run:\n{(BUILD / 'reached.log').read_text()}")
        tests |= json.loads(kept.read_text())["tests"]
    return tests


def tests_for(mutant: mutations.Mutant, tests: dict[str, dict[str, Any]]) -> list[str]:
    """Return the tests that reach the mutant's lines, within ``MUTANT_SECONDS``: first those that are quick and reach little else."""
    there = {name for name, test in tests.items() if set(mutant.lines) & set(test["lines"].get(mutant.module, ()))}
    also = tuple(f"tests/test_{file}.py" for file in ALSO.get(mutant.module, ()))
    there |= {name for name, test in tests.items() if test["starts_child"] and (name.startswith(also) or len(there) < FEW)}
    chosen, total = [], 0.0
    breadth = {name: sum(map(len, tests[name]["lines"].values())) for name in there}
    for name in sorted(there, key=lambda name: (1 + breadth[name]) * tests[name]["seconds"]):
        seconds = tests[name]["seconds"]
        if seconds <= TEST_SECONDS and (not chosen or total + seconds <= MUTANT_SECONDS):
            chosen.append(name)
            total += seconds
    return chosen


def judge(mutant: mutations.Mutant, seconds: dict[str, float]) -> dict[str, Any]:
    """Run a mutant's tests, each of which takes so many seconds; return what became of it."""
    names = list(seconds)
    judged, deadline = BUILD / f"judged-{os.getpid()}.json", BUILD / f"deadline-{os.getpid()}"
    judged.unlink(missing_ok=True)
    deadline.unlink(missing_ok=True)

    def work() -> int:
        loading.choose(mutant.module, str(path_of(mutant.module)), mutant.source, BUILD)
        plugin = Chosen(names, seconds, deadline)
        status = pytest_in_fork(plugin, sorted({name.split("::")[0] for name in names}), "-x")
        judged.write_text(json.dumps(plugin.failed))
        return status

    started = time.monotonic()
    log = BUILD / f"mutant-{os.getpid()}.log"
    status = in_fork(work, log, 60 + 5 * sum(seconds.values()), deadline) if names else 0
    fate = "no test" if not names else "timeout" if status is None else "survived" if status == 0 else "killed"
    killer = json.loads(judged.read_text()) if judged.exists() else ""
    return {
        "digest": mutant.digest, "key": mutant.key, "line": mutant.line, "fate": fate, "status": status, "killer": killer,
        "tests": len(names), "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip


def equivalents() -> dict[str, str]:
    """The survivors that change nothing, by their keys, each with its reason."""
    found = {}
    for line in (HERE / "equivalent.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            key, _, reason = line.partition(" ## ")
            found[key.strip()] = reason.strip()
    return found


def all_mutants() -> Iterator[mutations.Mutant]:
    for module in MODULES:
        yield from mutations.mutants(module, path_of(module).read_text(encoding="utf-8"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutants", type=int, default=400)
    parser.add_argument("--seed", type=int, default=20261130)
    parser.add_argument("--only", default="", help="those whose key holds this text")
    parser.add_argument("--part", default="0/1", help="1/2: every second one from the second on, where two processes share the work")
    asked = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background ignores, and tests send
    BUILD.mkdir(parents=True, exist_ok=True)
    everything = list(all_mutants())
    chosen = random.Random(asked.seed).sample(everything, min(asked.mutants, len(everything)))
    part, parts = map(int, asked.part.split("/"))
    chosen = [mutant for mutant in chosen if asked.only in mutant.key][part::parts]
    import_heavy()
    tests = learn()
    results_path = BUILD / "results.jsonl"
    lines = results_path.read_text().splitlines() if results_path.exists() else []
    known = {(result["digest"], result["names"]): result for result in map(json.loads, lines)}
    # Killed is killed, whichever other tests there are by now; a survivor is asked again.
    known |= {(result["digest"], ""): result for result in known.values() if result["fate"] in ("killed", "timeout")}
    results = []
    for number, mutant in enumerate(chosen, 1):
        names = tests_for(mutant, tests)
        asked_tests = hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16]
        result = known.get((mutant.digest, "")) or known.get((mutant.digest, asked_tests))
        if result is None:
            result = judge(mutant, {name: tests[name]["seconds"] for name in names}) | {"names": asked_tests}
            with results_path.open("a") as stream:
                stream.write(json.dumps(result, ensure_ascii=False) + "\n")
        results.append(result)
        print(f"{number:4} {result['fate']:9} {result['seconds']:6.1f} s  {result['key'][:150]}", flush=True)
    return summarise(results, len(everything))


def summarise(results: Sequence[dict[str, Any]], everything: int) -> int:
    """Print the figure and the survivors; return 1 where fewer than 90 % of those that are not equivalent were killed."""
    same = equivalents()
    alive = [result for result in results if result["fate"] in ("survived", "no test")]
    equivalent = [result for result in alive if result["key"] in same]
    survivors = [result for result in alive if result["key"] not in same]
    judged = len(results) - len(equivalent)
    share = (judged - len(survivors)) / judged if judged else 1.0
    killed = f"{judged - len(survivors)} of {judged} killed ({share:.1%})"
    print(f"\n{len(results)} of {everything} mutants: {killed}, {len(equivalent)} equivalent")
    for result in survivors:
        print(f"  {result['fate']} line {result['line']}, {result['tests']} tests: {result['key']}")
    return 0 if share >= 0.9 else 1


if __name__ == "__main__":
    sys.exit(main())
