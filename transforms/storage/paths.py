"""Paths as text: of a disk or of a bucket."""

from __future__ import annotations


def is_remote(path: str) -> bool:
    return "://" in path


def join(folder: str, *names: str) -> str:
    """Joins path segments with single slashes."""
    return "/".join([folder.rstrip("/") or "/" * folder.startswith("/"), *names])
