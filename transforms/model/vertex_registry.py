"""Models by their names in Vertex AI's Model Registry: ``projects/P/locations/L/models/M``, with ``@version`` or ``@alias``."""

from __future__ import annotations

import functools
import re
from typing import Any

from transforms.specs.errors import ModelError

NAME = re.compile(r"projects/[^/]+/locations/(?P<location>[a-z0-9-]+)/models/[^/@]+(@[^/@]+)?")
TIMEOUT_SECONDS = 60.0


def is_registered(model: str) -> bool:
    """Whether ``model`` is a name in the registry, not a folder."""
    return NAME.fullmatch(model) is not None


def find_artifact(model: str, version: str | None) -> tuple[str, str]:
    """Gives the folder of a registered model and its version: the one named, or that of an alias, else the default one.

    Raises:
      ModelError: there is no such model or version, it has no folder, or it may not be looked at.
    """
    if version is not None:
        if "@" in model:
            raise ModelError(f"{model} names its version already; leave out --model_version={version}")
        model = f"{model}@{version}"
    from google.api_core.exceptions import Forbidden, GoogleAPICallError, NotFound
    from google.auth.exceptions import GoogleAuthError

    match = NAME.fullmatch(model)
    if match is None:
        raise ModelError(f"{model} is no version of a registered model; expected projects/P/locations/L/models/M@version")
    try:
        found = _client(match["location"]).get_model(name=model, timeout=TIMEOUT_SECONDS)
    except NotFound as error:
        raise ModelError(f"Vertex AI has no model {model}: check project, location, number and version") from error
    except Forbidden as error:
        raise ModelError(f"{model} may not be looked at: give the account roles/aiplatform.viewer ({error.message})") from error
    except (GoogleAPICallError, GoogleAuthError) as error:
        raise ModelError(f"Vertex AI did not say where {model} is: {error}") from error
    if not found.artifact_uri:
        raise ModelError(
            f"{model} has no artifact folder (it is a container's or AutoML's own); export it as a SavedModel and give its folder"
        )
    return found.artifact_uri.rstrip("/"), found.version_id


@functools.cache
def _client(location: str) -> Any:
    from google.cloud import aiplatform_v1

    endpoint = {"api_endpoint": f"{location}-aiplatform.googleapis.com"}
    return aiplatform_v1.ModelServiceClient(client_options=endpoint, transport="rest")
