"""Checks of the template and the buckets that a launch names, before anything is sent.

They use Google's own client, since Beam's file systems take seconds to import. The launching account may see less than the job's account:
what it is forbidden to see is logged and does not stop the launch.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

from pipeline.dataflow import template
from pipeline.flags.flag import UsageError

LOG = logging.getLogger("nightshift")
SCHEME = "gs://"
WORKERS_ROLE = "the workers' account needs roles/storage.objectUser on it"
# Folders among the members of a launch's environment, with their flags.
ENVIRONMENT = {"tempLocation": "temp_location", "stagingLocation": "staging_location"}


def check(project: str, launch_parameter: dict[str, Any]) -> None:
    """Compare a launch with its template in Cloud Storage, and look for each bucket that it names.

    Raises:
      UsageError: there is no such template or bucket, or the template does not take these flags.
    """
    path, parameters = launch_parameter["containerSpecGcsPath"], launch_parameter["parameters"]
    client = storage_client(project)
    spec = _read(client, path)
    refusal = template.refuse(spec, parameters) if spec is not None else None
    if refusal:
        raise UsageError(f"{path}: {refusal}")
    for flag, bucket in dict.fromkeys(_buckets(parameters | _environment(launch_parameter))):
        _check_bucket(client, flag, bucket)


def _environment(launch_parameter: dict[str, Any]) -> dict[str, str]:
    members = launch_parameter.get("environment", {})
    return {flag: members[name] for name, flag in ENVIRONMENT.items() if name in members}


def _read(client: Any, path: str) -> dict[str, Any] | None:
    """Read the container spec; return None where the launching account may not read it."""
    from google.api_core.exceptions import Forbidden, GoogleAPICallError, NotFound
    from google.auth.exceptions import GoogleAuthError

    bucket, _, name = path.removeprefix(SCHEME).partition("/")
    try:
        text = client.bucket(bucket).blob(name).download_as_bytes()
    except NotFound:
        raise UsageError(f"--template={path}: there is no such object; 'make template IMAGE=… TEMPLATE={path}' writes it") from None
    except Forbidden:
        LOG.warning("%s can't be checked from here; the account that launches needs roles/storage.objectViewer on its bucket", path)
        return None
    except (GoogleAPICallError, GoogleAuthError) as error:
        raise UsageError(f"--template={path} can't be read: {error}") from error
    try:
        spec = json.loads(text)
        if not isinstance(spec["image"], str):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"--template={path} is no container spec: expected JSON with an image, as 'make template' writes it") from None
    container_spec: dict[str, Any] = spec
    return container_spec


def _buckets(places: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield flags and the buckets that they name, without names with a placeholder, which the running job fills in."""
    for flag, text in places.items():
        for path in text.split(","):
            bucket = path.strip().removeprefix(SCHEME).split("/")[0]
            if path.strip().startswith(SCHEME) and bucket and not {"{", "*", "?", "["} & set(bucket):
                yield flag, bucket


def _check_bucket(client: Any, flag: str, bucket: str) -> None:
    """Check that a bucket exists and can be listed.

    Raises:
      UsageError: it does not, or the request fails.
    """
    from google.api_core.exceptions import Forbidden, GoogleAPICallError, NotFound
    from google.auth.exceptions import GoogleAuthError

    try:
        next(iter(client.list_blobs(bucket, max_results=1, fields="items(name)")), None)
    except NotFound:
        raise UsageError(f"--{flag}: there is no bucket {SCHEME}{bucket}; make it, or correct the name") from None
    except Forbidden:
        LOG.warning("--%s: %s%s can't be checked from here; %s", flag, SCHEME, bucket, WORKERS_ROLE)
    except (GoogleAPICallError, GoogleAuthError) as error:
        raise UsageError(f"--{flag}: {SCHEME}{bucket} can't be checked: {error}") from error


def storage_client(project: str) -> Any:
    from google.cloud import storage

    return storage.Client(project=project)
