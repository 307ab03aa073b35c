"""The models of a process: loaded when first needed, the least recently used freed when memory runs short.

Models of one structure share one Session and differ by the variables restored into it: 4 ms a model instead of 90. The second model
of a structure is also loaded alone and compared; if its outputs differ, no model of that structure shares a Session.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections import OrderedDict

import numpy as np

from transforms.model import kept_between_jobs
from transforms.model.crashes import Notes
from transforms.model.session import LoadedModel, SharedSession
from transforms.runtime import machine
from transforms.specs.errors import ModelError
from transforms.specs.models import ModelSpec

LOG = logging.getLogger("nightshift")
# The models' share of a process's memory; the rest is for rows and their tensors.
MEMORY_SHARE = 0.4
# A model that shares a Session takes little memory: a folder's name and its specification.
KEPT_SHARING = 10_000
TRIAL_ROWS = 3


class ModelPool:
    """The loaded models of a process, by spec. Safe for threads."""

    def __init__(self, memory_bytes: int | None = None, processes: int = 1) -> None:
        self.memory_bytes = memory_bytes or int(machine.memory_bytes() * MEMORY_SHARE / max(1, processes))
        self.notes = Notes()
        self.has_loaded = False  # a process that runs many jobs may keep models between them
        self._lock = threading.RLock()
        self.loaded: OrderedDict[str, tuple[LoadedModel, int]] = OrderedDict()  # with a Session of their own, and its bytes
        self.sharing: OrderedDict[str, LoadedModel] = OrderedDict()
        self._leaders: dict[str, str] = {}  # structure → the model whose Session is shared
        self._trusted: set[str] = set()
        self._alone: set[str] = set()
        self._failed: dict[str, ModelError] = {}
        self._load_seconds: list[float] = []

    def get(self, spec: ModelSpec) -> LoadedModel:
        """Return the model, and load it if it is not loaded.

        Raises:
          ModelError: it can't be loaded; the error is logged once and raised at each further call.
        """
        name = f"{spec.location} {spec.signature.name} {','.join(spec.signature.tags)} {spec.fingerprint}"
        with self._lock:
            if name in self._failed:
                raise self._failed[name]
            if name in self.loaded:
                self.loaded.move_to_end(name)
                return self.loaded[name][0]
            if name in self.sharing:
                self.sharing.move_to_end(name)
                self.loaded.move_to_end(self._leaders[_digest(spec)])
                return self.sharing[name]
            try:
                return self._share(name, spec) or self._load(name, spec)
            except ModelError as error:
                LOG.warning("%s", error)
                self._failed[name] = error
                raise

    def _share(self, name: str, spec: ModelSpec) -> LoadedModel | None:
        """Return the model in the Session of another one of its structure, or None if it can't share one."""
        structure = _digest(spec)
        if not structure or structure in self._alone or structure not in self._leaders:
            return None
        leader = self._leaders[structure]
        first, _ = self.loaded[leader]
        assert first.session is not None
        model = LoadedModel(spec, first.session)
        if structure not in self._trusted:
            if not self._agrees(model, spec):
                LOG.warning(
                    "%s and %s have one structure but different outputs: models of this structure are loaded separately",
                    first.spec.location,
                    spec.location,
                )
                self._alone.add(structure)
                return None
            self._trusted.add(structure)
        self.loaded.move_to_end(leader)
        self.sharing[name] = model
        if len(self.sharing) > KEPT_SHARING:
            self.sharing.popitem(last=False)
        return model

    def _agrees(self, model: LoadedModel, spec: ModelSpec) -> bool:
        """Return whether a model has the same outputs in a shared Session as in one of its own, on made-up rows."""
        import tensorflow as tf

        separate = LoadedModel(spec)
        outputs = []
        for loaded in (model, separate):
            try:
                outputs.append([np.asarray(output) for output in loaded.call(loaded.made_up(TRIAL_ROWS))])
            except (tf.errors.OpError, ValueError, TypeError):
                outputs.append([])
        return len(outputs[0]) == len(outputs[1]) and all(map(is_equal, *outputs))

    def _load(self, name: str, spec: ModelSpec) -> LoadedModel:
        before, started = machine.resident_bytes(), time.perf_counter()
        model, is_new = kept_between_jobs.load(spec)
        self.has_loaded = self.has_loaded or is_new
        if is_new:
            self._load_seconds.append(time.perf_counter() - started)
        size = max(machine.resident_bytes() - before, 1)
        self.loaded[name] = model, size
        if spec.structure and model.session is not None and _digest(spec) not in self._alone:
            self._leaders[_digest(spec)] = name
        self._make_room(name)
        return model

    def take_load_seconds(self) -> tuple[float, ...]:
        """Return the load time in seconds of each model loaded since the last call, without those that share a Session."""
        with self._lock:
            seconds, self._load_seconds = tuple(self._load_seconds), []
        return seconds

    def _make_room(self, newest: str) -> None:
        """Free the least recently used models while all exceed the pool's memory; a running call keeps its model."""
        total = sum(size for _, size in self.loaded.values())
        freed = 0
        while total > self.memory_bytes and len(self.loaded) > 1 and next(iter(self.loaded)) != newest:
            name, (model, size) = self.loaded.popitem(last=False)
            total, freed = total - size, freed + 1
            self._forget(name, model.session)
        if freed:
            gc.collect()  # a graph refers to itself, so only the collector frees it

    def _forget(self, name: str, session: SharedSession | None) -> None:
        self._leaders = {structure: leader for structure, leader in self._leaders.items() if leader != name}
        self.sharing = OrderedDict((other, model) for other, model in self.sharing.items() if model.session is not session)


def is_equal(one: np.ndarray, other: np.ndarray) -> bool:
    if one.dtype.kind in "fc" and other.dtype == one.dtype:
        return np.array_equal(one, other, equal_nan=True)
    return np.array_equal(one, other)


def _digest(spec: ModelSpec) -> str:
    return spec.structure.digest if spec.structure else ""
