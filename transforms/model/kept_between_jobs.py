"""Models that stay loaded between the jobs of the service, which runs many jobs in one process.

By default nothing is kept: models are freed with their job.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict

from transforms.model.session import LoadedModel
from transforms.specs.models import ModelSpec
from transforms.storage import files

_lock = threading.Lock()
_kept: OrderedDict[str, LoadedModel] = OrderedDict()
_most = 0


def keep(most: int) -> None:
    """Keep the ``most`` most recently used models, from now on."""
    global _most
    with _lock:
        _most = most
        while len(_kept) > most:
            _kept.popitem(last=False)


def load(spec: ModelSpec) -> tuple[LoadedModel, bool]:
    """Return the model, and whether it was loaded just now; a folder whose files changed meanwhile is loaded again."""
    if not _most:
        return LoadedModel(spec), True
    with _lock:
        name = _name(spec)
        model = _kept.get(name)
        if model is not None:
            _kept.move_to_end(name)
            return model, False
        model = _kept[name] = LoadedModel(spec)
        model.files.drop_copy()  # the variables are in memory; in Cloud Run the temporary folder is memory too
        while len(_kept) > _most:
            _kept.popitem(last=False)
        return model, True


def _name(spec: ModelSpec) -> str:
    state = [(file.path, file.size_bytes, file.updated) for file in files.list_folder(spec.location)]
    return hashlib.sha256(repr((spec, state)).encode()).hexdigest()
