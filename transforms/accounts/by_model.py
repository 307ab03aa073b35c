"""The account by model, for a run in which each row names its model."""

from __future__ import annotations

import re
from collections import Counter

import msgspec
from msgspec import UNSET, UnsetType

from transforms.accounts.accounts import Accounts
from transforms.specs.job import JobSpec
from transforms.specs.manifest import ModelsEntry
from transforms.specs.own_names import MODELS

NAME = f"{MODELS}-00000-of-00001.jsonl"
PUBLISHED = re.compile(rf"{MODELS}-\d+-of-\d+\.jsonl")


def account(job: JobSpec, accounts: Accounts) -> tuple[ModelsEntry | UnsetType, dict[str, bytes]]:
    """Return the manifest's entry ``models`` and the file of a line a model; UNSET and an empty dict if the run has one model."""
    if job.route is None:
        return UNSET, {}
    counts: dict[tuple[str, str | None], Counter[str]] = {}
    for shard in accounts.shards:
        for location, version, rows in shard.models:
            counts.setdefault((location, version), Counter())[shard.kind] += rows
    lines = [
        {"location": location, "version": version, "predicted": rows["results"], "failed": rows["errors"]}
        for (location, version), rows in sorted(counts.items(), key=lambda item: (item[0][0], item[0][1] or ""))
    ]
    failed = sum(bool(line["failed"]) for line in lines)
    return ModelsEntry(len(lines), failed, [NAME]), {NAME: b"".join(msgspec.json.encode(line) + b"\n" for line in lines)}
