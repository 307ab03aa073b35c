"""Paths as text, of a disk or a bucket."""

from __future__ import annotations


def is_remote(path: str) -> bool:
    """Return whether ``path`` is a URL such as ``gs://bucket/name``, not a path on a disk."""
    return "://" in path


def join(folder: str, *names: str) -> str:
    """Join path segments with single slashes."""
    return "/".join([folder.rstrip("/") or "/" * folder.startswith("/"), *names])
