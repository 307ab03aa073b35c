"""Write op_classes.tsv, the class of each op of TensorFlow's registry, from op_families.toml: ``python -m transforms.model.classify_ops``.

For a new version of TensorFlow: run it, put the ops that it names into a family, run it again, and review the changes of the table.
"""

from __future__ import annotations

import fnmatch
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transforms.specs.errors import NightshiftError

FAMILIES = Path(__file__).with_name("op_families.toml")
TABLE = Path(__file__).with_name("op_classes.tsv")
CLASSES = ("safe", "state", "device", "file", "network", "process", "code", "python")
BY_RULE = {"class": "safe", "reason": "computes its outputs from its inputs"}
HEADER = ("op", "class", "where", "calls", "reason")
# Attributes that name things in the graph itself, not outside it.
LABELS = frozenset(("container", "shared_name"))


class UnclassedError(NightshiftError):
    """An op is in no family, or a family names something that is no op."""


def registered_ops() -> dict[str, Any]:
    """Return the definitions of all ops that are registered in this process, by name."""
    import tensorflow as tf  # noqa: F401  # registers the ops
    from tensorflow.core.framework import op_def_pb2
    from tensorflow.python.client import pywrap_tf_session

    registry = op_def_pb2.OpList()
    registry.ParseFromString(pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList()))
    return {op.name: op for op in registry.op}


def needs_judgement(op: Any) -> bool:
    """Return whether ``op`` has state, or takes a string that could be a path, an address or a handle."""
    from tensorflow.core.framework import types_pb2

    texts = [attr for attr in op.attr if attr.type in ("string", "list(string)") and attr.name not in LABELS]
    free = [attr for attr in texts if not attr.allowed_values.list.s]
    return op.is_stateful or bool(free) or any(argument.type == types_pb2.DT_STRING for argument in op.input_arg)


def table(ops: Mapping[str, Any], families: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the table, sorted by the op's name.

    Raises:
      UnclassedError: an op that needs judgement is in no family, or a family names an op, input or attribute that does not exist.
    """
    names = {name: family for family in families for name in family["ops"] if name in ops}
    patterns = [(pattern, family) for family in families for pattern in family["ops"] if pattern not in ops]
    idle = {pattern for pattern, _ in patterns}
    unclassed = []
    for name, op in sorted(ops.items()):
        family: Mapping[str, Any] = BY_RULE
        if name in names:
            family = names[name]
        elif needs_judgement(op):
            matches = [(pattern, match) for pattern, match in patterns if fnmatch.fnmatchcase(name, pattern)]
            idle -= {pattern for pattern, _ in matches}
            if not matches:
                unclassed.append(name)
                continue
            family = matches[0][1]
        yield name, family["class"], _where(op, family), _calls(op), family["reason"]
    if unclassed or idle:
        raise UnclassedError(f"in no family: {', '.join(unclassed) or '-'}; in a family, and no op: {', '.join(sorted(idle)) or '-'}")


def _where(op: Any, family: Mapping[str, Any]) -> str:
    parts = []
    for name, values in family.get("where", {}).items():
        inputs = [argument.name for argument in op.input_arg]
        if name not in inputs and name not in (attr.name for attr in op.attr):
            raise UnclassedError(f"{op.name} has no input and no attribute {name}")
        place = f"input {inputs.index(name)}" if name in inputs else f"attr {name}"
        parts.append(f"{place}: {' | '.join(values)}")
    return "; ".join(parts)


def _calls(op: Any) -> str:
    """Return the attributes of ``op`` that hold functions."""
    return " ".join(attr.name for attr in op.attr if attr.type in ("func", "list(func)"))


def text() -> str:
    """Return the text of op_classes.tsv."""
    families = tomllib.loads(FAMILIES.read_text(encoding="utf-8"))["family"]
    return "".join("\t".join(row) + "\n" for row in (HEADER, *table(registered_ops(), families)))


if __name__ == "__main__":
    try:
        TABLE.write_text(text(), encoding="utf-8")
    except UnclassedError as error:
        sys.exit(str(error))
