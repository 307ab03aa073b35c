"""Beam's answers that are the same each time, remembered: a job of a few rows takes 0.28 s of CPU with it, 0.5 s without.

Beam looks at the signature of each function once a transform and more, and builds a parser of its options 200 times a job.
"""

from __future__ import annotations

import functools
import inspect
import pickle
import types
import weakref
from collections.abc import Callable, Sequence
from typing import Any


def remember() -> None:
    """Make Beam remember, for the rest of this process, the signatures of functions and how a list of flags parses."""
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.transforms import core
    from apache_beam.typehints import decorators

    if PipelineOptions.__init__.__module__ == __name__:
        return
    decorators.get_signature = core.get_signature = _remembering(decorators.get_signature)
    PipelineOptions.__init__ = _parsing_once(PipelineOptions.__init__)  # type: ignore[method-assign]


def _remembering(get_signature: Callable[[Any], inspect.Signature]) -> Callable[[Any], inspect.Signature]:
    """Hold no function, and no object of a bound method, longer than others do."""
    signatures: weakref.WeakKeyDictionary[Any, dict[bool, inspect.Signature]] = weakref.WeakKeyDictionary()

    def remembered(function: Any) -> inspect.Signature:
        plain = getattr(function, "__func__", function)
        if not isinstance(plain, types.FunctionType):
            return get_signature(function)
        by_binding = signatures.setdefault(plain, {})
        is_bound = function is not plain
        if is_bound not in by_binding:
            by_binding[is_bound] = get_signature(function)
        return by_binding[is_bound]

    return remembered


def _parsing_once(parse: Callable[..., None]) -> Callable[..., None]:
    @functools.lru_cache(1000)
    def parsed(options: type, flags: tuple[str, ...]) -> bytes:
        made: Any = object.__new__(options)
        parse(made, list(flags))
        return pickle.dumps((made._visible_options, made._all_options))

    def init(self: Any, flags: Sequence[str] | None = None, **values: Any) -> None:
        if flags is None or isinstance(flags, str) or values:
            parse(self, flags, **values)
        else:
            visible, every = pickle.loads(parsed(type(self), tuple(flags)))
            vars(self).update(_flags=flags, _visible_options=visible, _all_options=every)

    return init
