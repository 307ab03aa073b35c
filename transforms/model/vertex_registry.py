"""Models by their names in Vertex AI's Model Registry: ``projects/P/locations/L/models/M``, with ``@version`` or ``@alias``."""

from __future__ import annotations

import functools
import re
from typing import Any

from transforms.specs.errors import ModelError

NAME = re.compile(r"projects/[^/]+/locations/(?P<location>[a-z0-9-]+)/models/[^/@]+(@[^/@]+)?")
TIMEOUT_SECONDS = 60.0


def is_registered(model: str) -> bool:
    """Return whether ``model`` is a name in the registry, not a folder."""
    return NAME.fullmatch(model) is not None


def find_artifact(model: str, version: str | None) -> tuple[str, str]:
    """Return the folder of a registered model and its version: the one named, the one of an alias, or the default.

    Raises:
      ModelError: the model or version does not exist, has no folder, or can't be read.
    """
    if version is not None:
        if "@" in model:
            raise ModelError(f"{model} names its version already; leave out --model_version={version}")
        model = f"{model}@{version}"
    from google.api_core.exceptions import Forbidden, GoogleAPICallError, NotFound
    from google.auth.exceptions import GoogleAuthError

    match = NAME.fullmatch(model)
    if match is None:
        raise ModelError(f"{model} is not a version of a registered model; expected projects/P/locations/L/models/M@version")
    try:
        registered = _client(match["location"]).get_model(name=model, timeout=TIMEOUT_SECONDS)
    except NotFound as error:
        raise ModelError(f"Vertex AI has no model {model}: check project, location, number and version") from error
    except Forbidden as error:
        raise ModelError(f"{model} can't be read: give the account roles/aiplatform.viewer ({error.message})") from error
    except (GoogleAPICallError, GoogleAuthError) as error:
        raise ModelError(f"Vertex AI can't look up {model}: {error}") from error
    if not registered.artifact_uri:
        raise ModelError(
            f"{model} has no artifact folder (it is a container's or AutoML's own); export it as a SavedModel and give its folder"
        )
    return registered.artifact_uri.rstrip("/"), registered.version_id


@functools.cache
def _client(location: str) -> Any:
    from google.cloud import aiplatform_v1

    endpoint = {"api_endpoint": f"{location}-aiplatform.googleapis.com"}
    return aiplatform_v1.ModelServiceClient(client_options=endpoint, transport="rest")
