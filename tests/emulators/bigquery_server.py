"""local-bigquery with one repair: BYTES columns of a Parquet or Avro load hold bytes already, and are not decoded as base64.

Run with the Python of the emulator's own environment (``bigquery_environment.py``), with local-bigquery's own arguments.
"""

from __future__ import annotations

import contextvars
from typing import Any

from local_bigquery import cli
from local_bigquery.jobs import load

_projection, _decoded = load._projection, load._decoded
_holds_bytes = contextvars.ContextVar("holds_bytes", default=False)


def projection(config: Any, *arguments: Any) -> Any:
    token = _holds_bytes.set((config.sourceFormat or "CSV") in ("PARQUET", "AVRO", "ORC"))
    try:
        return _projection(config, *arguments)
    finally:
        _holds_bytes.reset(token)


def decoded(expression: Any, *arguments: Any, **more: Any) -> Any:
    return expression if _holds_bytes.get() else _decoded(expression, *arguments, **more)


load._projection, load._decoded = projection, decoded

if __name__ == "__main__":
    cli.main()
