"""local-bigquery with two repairs.

BYTES columns of a Parquet or Avro load hold bytes already, and are not decoded as base64. A load changes when its table was last modified,
as on the real service: https://cloud.google.com/bigquery/docs/reference/rest/v2/tables, ``lastModifiedTime``.

Run with the Python of the emulator's own environment (``bigquery_environment.py``), with local-bigquery's own arguments.
"""

from __future__ import annotations

import contextvars
from typing import Any

from local_bigquery import cli, models
from local_bigquery.catalog import tables
from local_bigquery.jobs import load, runner

_projection, _decoded = load._projection, load._decoded
_run = load.run
_holds_bytes = contextvars.ContextVar("holds_bytes", default=False)


def projection(config: Any, *arguments: Any) -> Any:
    token = _holds_bytes.set((config.sourceFormat or "CSV") in ("PARQUET", "AVRO", "ORC"))
    try:
        return _projection(config, *arguments)
    finally:
        _holds_bytes.reset(token)


def decoded(expression: Any, *arguments: Any, **more: Any) -> Any:
    return expression if _holds_bytes.get() else _decoded(expression, *arguments, **more)


def run(cur: Any, config: Any, *arguments: Any) -> Any:
    statistics = _run(cur, config, *arguments)
    tables.update(*tables.reference(config.destinationTable), models.Table(), None, replace=False)
    return statistics


load._projection, load._decoded, runner.HANDLERS["load"] = projection, decoded, run

if __name__ == "__main__":
    cli.main()
