"""What a run is compared with, checked before it starts: an earlier run's statistics, and a second model."""

from __future__ import annotations

import dataclasses

from pipeline.flags import specs_of
from pipeline.flags.options import RunOptions
from transforms.compare.baseline import read_baseline
from transforms.model.locate import locate_model
from transforms.specs.errors import SpecError
from transforms.specs.models import CompareSpec
from transforms.specs.signature import Signature


def compare_spec(options: RunOptions, signature: Signature, threads: int) -> CompareSpec:
    """Make the spec of what the run is compared with: read the baseline and locate the second model; the first has ``signature``.

    Raises:
      BaselineError: the earlier run has no statistics.
      ModelError: the second model does not exist or can't be read.
      SpecError: the second model has other inputs or outputs, so that the two can't be compared row by row.
    """
    spec = specs_of.compare_spec(options)
    if spec.baseline is not None:
        read_baseline(spec.baseline)
    if options.compare_model is None:
        return spec
    request = specs_of.model_request(options, threads)
    second = locate_model(dataclasses.replace(request, location=options.compare_model, version=options.compare_version))
    _check_alike(signature, second.signature, second.location)
    return dataclasses.replace(spec, model=second)


def _check_alike(first: Signature, second: Signature, location: str) -> None:
    for what in ("inputs", "outputs"):
        one, other = ({tensor.name: tensor for tensor in getattr(signature, what)} for signature in (first, second))
        for name in [*one, *other]:
            if one.get(name) != other.get(name):
                raise SpecError(
                    "compare_model",
                    f"{location} has {_said(other.get(name), name)} among its {what}, and --model has {_said(one.get(name), name)}: two "
                    "models are compared on the same rows by the same outputs. Export both with one signature, or name it with "
                    "--signature_name",
                )


def _said(tensor: object, name: str) -> str:
    return f"{tensor}" if tensor is not None else f"no {name!r}"
