"""Plays the Flex Template service and its launcher: from a container spec and a launch request to the program's arguments.

After https://docs.cloud.google.com/dataflow/docs/guides/templates/configuring-flex-templates and what the launcher was seen to do: each
argument one token, every value a string, the template's parameters and Beam's own mixed, in no order.
"""

from __future__ import annotations

import random
import re
from typing import Any

FLAGS = {
    "numWorkers": "num_workers",
    "maxWorkers": "max_num_workers",
    "serviceAccountEmail": "service_account_email",
    "tempLocation": "temp_location",
    "stagingLocation": "staging_location",
    "machineType": "machine_type",
    "network": "network",
    "subnetwork": "subnetwork",
    "kmsKeyName": "dataflow_kms_key",
    "workerRegion": "worker_region",
    "workerZone": "worker_zone",
    "diskSizeGb": "disk_size_gb",
    "sdkContainerImage": "sdk_container_image",
}


class RefusedError(Exception):
    """The service's answer to a request that does not fit the template."""


def check(metadata: dict[str, Any], parameters: dict[str, str]) -> None:
    """Checks parameters as the service does.

    Raises:
      RefusedError: with the service's own words.
    """
    declared = {parameter["name"]: parameter for parameter in metadata["parameters"]}
    wrong = [f"{name}: Missing required parameter" for name, of in declared.items() if not of["isOptional"] and name not in parameters]
    for name, value in parameters.items():
        if name not in declared:
            wrong.append(f"{name}: Unrecognized parameter")
            continue
        of = declared[name]
        wrong += [f"{name}: Parameter didn't match regex '{r}'" for r in of.get("regexes", []) if not re.fullmatch(r, value)]
        if of["paramType"] == "ENUM" and value not in [option["value"] for option in of["enumOptions"]]:
            wrong.append(f"{name}: not an enum option")
        if of["paramType"] == "BOOLEAN" and value.lower() not in ("true", "false"):
            wrong.append(f"{name}: not a boolean")
        if of["paramType"] == "NUMBER" and not re.fullmatch(r"-?\d+(\.\d+)?", value):
            wrong.append(f"{name}: not a number")
    if wrong:
        raise RefusedError("The template parameters are invalid. Details: " + "; ".join(wrong))


def arguments(spec: dict[str, Any], launch: dict[str, Any], seed: int = 0) -> list[str]:
    """Gives the arguments with which the launcher starts the program for ``launch``, a ``LaunchFlexTemplateParameter``."""
    environment = {**spec.get("defaultEnvironment", {}), **launch.get("environment", {})}
    check(spec["metadata"], launch["parameters"])
    flags = dict(launch["parameters"])
    flags |= {FLAGS[name]: str(value) for name, value in environment.items() if name in FLAGS}
    location = f"{environment['stagingLocation']}/template_launches/2026-11-26_00_00_00-1/job_object"
    flags |= {"runner": "DataflowRunner", "project": "test-project", "region": "us-central1", "job_name": launch["jobName"]}
    found = [f"--{name}={value}" for name, value in (flags | {"template_location": location}).items()]
    if environment.get("ipConfiguration") == "WORKER_IP_PRIVATE":
        found.append("--no_use_public_ips")
    if "flexrsGoal" in environment:
        found.append("--flexrs_goal=" + environment["flexrsGoal"].removeprefix("FLEXRS_"))
    found += [f"--experiments={name}" for name in environment.get("additionalExperiments", [])]
    found += [f"--{option}" for option in environment.get("additionalPipelineOptions", [])]
    random.Random(seed).shuffle(found)
    return found
