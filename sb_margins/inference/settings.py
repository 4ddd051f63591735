"""What a model folder and a user set, checked before it is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from sb_margins.errors import UserError


def as_similarity(given: Any) -> nn.Module:
    """The module that compares embeddings, one that has ``matrix``.

    Arguments
    ---------
    given : object
        The ``similarity`` of a model folder; None for one that has none.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    UserError
        For anything that is not a similarity.

    Example
    -------
    >>> as_similarity(nn.CosineSimilarity(dim=-1))
    CosineSimilarity()
    """
    from sb_margins.similarity import CosineSimilarity

    if given is None or isinstance(given, nn.CosineSimilarity) or given == "cosine":
        return CosineSimilarity()
    if isinstance(given, nn.Module) and hasattr(given, "matrix"):
        return given
    raise UserError(
        "the model's similarity must be a torch.nn.CosineSimilarity or one of "
        f"sb_margins.similarity, not {type(given).__name__}"
    )


def checked_run_opts(run_opts: Any) -> Any:
    """Run options whose device exists.

    Arguments
    ---------
    run_opts : mapping or RunOptions or None
        SpeechBrain's.

    Returns
    -------
    dict or RunOptions or None

    Raises
    ------
    UserError
        When there is no such device.

    Example
    -------
    >>> checked_run_opts({"device": "cpu"})
    {'device': 'cpu'}
    """
    if isinstance(run_opts, Mapping):
        device = run_opts.get("device")
        try:
            kind = torch.device(device or "cpu").type
        except RuntimeError as error:
            raise UserError(f"no such kind of device: {device}") from error
        if kind == "cuda" and not torch.cuda.is_available():
            raise UserError(f"device {device} is wanted but there is no GPU here")
        return dict(run_opts)
    return run_opts


def checked_thresholds(given: Any) -> dict[str, dict[str, Any]]:
    """Named thresholds with a finite value, from a model folder.

    Arguments
    ---------
    given : mapping or None
        Name to a mapping with ``value``.

    Returns
    -------
    dict of str to dict

    Raises
    ------
    UserError
        For anything else.

    Example
    -------
    >>> checked_thresholds({"eer": {"value": 0.4}})
    {'eer': {'value': 0.4}}
    """
    if given is None:
        return {}
    fine = isinstance(given, Mapping) and all(
        isinstance(entry, Mapping)
        and isinstance(entry.get("value"), (int, float))
        and np.isfinite(entry["value"])
        for entry in given.values()
    )
    if not fine:
        raise UserError("the model's thresholds must be finite numbers with a name")
    return {str(name): dict(entry) for name, entry in given.items()}


def checked_calibration(given: Any) -> dict[str, Any] | None:
    """A finite scale and offset, from a model folder.

    Arguments
    ---------
    given : mapping or None
        With ``scale`` and ``offset``.

    Returns
    -------
    dict or None

    Raises
    ------
    UserError
        For anything else.

    Example
    -------
    >>> checked_calibration({"scale": 2.0, "offset": -1.0})
    {'scale': 2.0, 'offset': -1.0}
    """
    if given is None:
        return None
    fine = isinstance(given, Mapping) and all(
        isinstance(given.get(key), (int, float)) and np.isfinite(given[key])
        for key in ("scale", "offset")
    )
    if not fine:
        raise UserError("the model's calibration must have a finite scale and offset")
    return dict(given)
