"""What a launch names in Cloud Storage, looked at before anything is sent: the template and the buckets.

Through Google's own client: Beam's file systems take seconds to import. Who launches may see less than the job's own account: what is
forbidden here is said and does not hold the launch back.
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
# The environment's places, by the flag that gives them.
ENVIRONMENT = {"tempLocation": "temp_location", "stagingLocation": "staging_location"}


def check(project: str, launch_parameter: dict[str, Any]) -> None:
    """Holds a launch against its template, as it lies in Cloud Storage, and looks for each bucket that it names.

    Raises:
      UsageError: no template or bucket of that name, or a template that does not take these flags.
    """
    path, parameters = launch_parameter["containerSpecGcsPath"], launch_parameter["parameters"]
    client = storage_client(project)
    spec = _read(client, path)
    refusal = template.refuse(spec, parameters) if spec is not None else None
    if refusal:
        raise UsageError(f"{path}: {refusal}")
    for flag, bucket in dict.fromkeys(_buckets(parameters | _environment(launch_parameter))):
        _look(client, flag, bucket)


def _environment(launch_parameter: dict[str, Any]) -> dict[str, str]:
    found = launch_parameter.get("environment", {})
    return {flag: found[name] for name, flag in ENVIRONMENT.items() if name in found}


def _read(client: Any, path: str) -> dict[str, Any] | None:
    """Reads the container spec; None where it may not be read from here."""
    from google.api_core.exceptions import Forbidden, GoogleAPICallError, NotFound
    from google.auth.exceptions import GoogleAuthError

    bucket, _, name = path.removeprefix(SCHEME).partition("/")
    try:
        text = client.bucket(bucket).blob(name).download_as_bytes()
    except NotFound:
        raise UsageError(f"--template={path}: there is no such object; 'make template IMAGE=… TEMPLATE={path}' writes it") from None
    except Forbidden:
        LOG.warning("%s can't be looked at from here; the account that launches needs roles/storage.objectViewer on its bucket", path)
        return None
    except (GoogleAPICallError, GoogleAuthError) as error:
        raise UsageError(f"--template={path} can't be read: {error}") from error
    try:
        spec = json.loads(text)
        if not isinstance(spec["image"], str):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"--template={path} is no container spec: expected JSON with an image, as 'make template' writes it") from None
    found: dict[str, Any] = spec
    return found


def _buckets(places: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Gives flags and the buckets that they name; not a name with a placeholder, which the running job fills in."""
    for flag, text in places.items():
        for path in text.split(","):
            bucket = path.strip().removeprefix(SCHEME).split("/")[0]
            if path.strip().startswith(SCHEME) and bucket and not {"{", "*", "?", "["} & set(bucket):
                yield flag, bucket


def _look(client: Any, flag: str, bucket: str) -> None:
    from google.api_core.exceptions import Forbidden, GoogleAPICallError, NotFound
    from google.auth.exceptions import GoogleAuthError

    try:
        next(iter(client.list_blobs(bucket, max_results=1, fields="items(name)")), None)
    except NotFound:
        raise UsageError(f"--{flag}: there is no bucket {SCHEME}{bucket}; make it, or correct the name") from None
    except Forbidden:
        LOG.warning("--%s: %s%s can't be looked at from here; %s", flag, SCHEME, bucket, WORKERS_ROLE)
    except (GoogleAPICallError, GoogleAuthError) as error:
        raise UsageError(f"--{flag}: {SCHEME}{bucket} can't be looked at: {error}") from error


def storage_client(project: str) -> Any:
    from google.cloud import storage

    return storage.Client(project=project)
