"""Decision thresholds with their pedigree: the value, its errors, the data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sb_margins.errors import UserError, nearest
from sb_margins.verification.calibration import Calibration
from sb_margins.verification.metrics import threshold_at
from sb_margins.verification.points import split_scores

# The name in the model folder, the false-alarm rate aimed at (None: the EER point).
POINTS: dict[str, float | None] = {"eer": None, "far1": 0.01, "far0.1": 0.001}
MEANING = {
    "eer": "false alarms and misses equally frequent",
    "far1": "at most 1 % false alarms",
    "far0.1": "at most 0.1 % false alarms",
}

SYNTHETIC = (
    "the model was trained on synthetic voices: neither its decisions nor its error "
    "rates hold for people"
)
FEW_SPEAKERS = 500  # of training; VoxCeleb1 has 1,211

# Fewer expected false alarms than this, and the value is mostly luck.
FEW = 5


@dataclass(frozen=True)
class Threshold:
    """A score at which to decide, and how it was found: ``far`` and ``miss`` are the
    shares of non-target trials above and of target trials not above ``value``, on the
    calibration data that ``data`` names."""

    value: float
    far: float
    miss: float
    data: str


def calibrate_thresholds(scores: Any, labels: Any, data: str) -> dict[str, Threshold]:
    """The thresholds that a model folder carries, found on development trials.

    Arguments
    ---------
    scores : array-like
        [N] scores, larger for the same speaker.
    labels : array-like
        [N], 1 or True for target trials.
    data : str
        What the trials are, e.g. ``"dev trials of VoxCeleb1"``; their number is added.

    Returns
    -------
    dict of str to Threshold
        ``eer`` (false alarms = misses), ``far1`` and ``far0.1`` (at most 1 % and
        0.1 % false alarms). A point that the data are too few for says so.

    Raises
    ------
    UserError
        When there are no target or no non-target trials, or scores are not finite.

    Example
    -------
    >>> found = calibrate_thresholds([0.9, 0.8, 0.3, 0.1], [1, 1, 0, 0], "toy trials")
    >>> round(found["eer"].value, 3), found["eer"].far, found["eer"].miss
    (0.55, 0.0, 0.0)
    """
    scores = np.asarray(scores, np.float64)
    target, nontarget = split_scores(scores, labels)
    trials = f"{data} ({target.size} target, {nontarget.size} non-target)"
    points = {}
    for name, far in POINTS.items():
        value = threshold_at(scores, labels, far=far)
        note = ""
        if far is not None and far * nontarget.size < FEW:
            note = f"; too few non-target trials to place {100 * far:g} % well"
        points[name] = Threshold(
            value,
            float((nontarget > value).mean()),
            float((target <= value).mean()),
            trials + note,
        )
    return points


def calibrate_llr(scores: Any, labels: Any, data: str) -> dict[str, Any]:
    """The affine map from scores to log-likelihood ratios, found on dev trials.

    Arguments
    ---------
    scores, labels, data : array-like, array-like, str
        As for `calibrate_thresholds`.

    Returns
    -------
    dict
        ``scale`` and ``offset`` (llr = scale * score + offset, in nats), the prior
        ``p_target`` it was fitted for, and ``data``.

    Raises
    ------
    UserError
        When larger scores do not mean the same speaker.

    Example
    -------
    >>> found = calibrate_llr([3, 2, 1, 2, 1, 0], [1, 1, 1, 0, 0, 0], "toy trials")
    >>> found["scale"] > 0, found["p_target"]
    (True, 0.05)
    """
    fitted = Calibration.fit(scores, labels)
    return {
        "scale": fitted.weights[0],
        "offset": fitted.bias,
        "p_target": fitted.p_target,
        "data": data,
    }


def reservations(corpus: str, speakers: int) -> list[str]:
    """What a verdict of a model must say about its training data.

    Example
    -------
    >>> reservations("voxceleb", 5994), len(reservations("mine", 108))
    ([], 1)
    """
    if corpus == "demo":
        return [SYNTHETIC]
    if not 0 < speakers < FEW_SPEAKERS:
        return []
    return [
        f"the model was trained on {speakers} speakers only: expect more errors than "
        "measured on recordings unlike those"
    ]


def is_finite(value: Any) -> bool:
    """Whether it is a number, and neither NaN nor infinite."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def checked_thresholds(given: Any) -> dict[str, dict[str, Any]]:
    """The named thresholds of a model folder, finite; rates of errors are shares."""
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(
        isinstance(entry, Mapping)
        and is_finite(entry.get("value"))
        and all(
            is_finite(share := entry.get(rate, 0)) and 0 <= share <= 1
            for rate in ("far", "miss")
        )
        and isinstance(entry.get("data", ""), str)
        for entry in given.values()
    ):
        raise UserError(
            "the model's thresholds must be finite numbers with a name, their far and "
            "miss rates between 0 and 1, their data a text"
        )
    return {str(name): dict(entry) for name, entry in given.items()}


def checked_calibration(given: Any) -> dict[str, Any] | None:
    """The finite scale and offset of a model folder."""
    if given is None:
        return None
    if not isinstance(given, Mapping) or not (
        is_finite(given.get("scale")) and is_finite(given.get("offset"))
    ):
        raise UserError("the model's calibration must have a finite scale and offset")
    return dict(given)


def checked_warnings(given: Any, thresholds: Mapping[str, Any]) -> list[str]:
    """What a model folder warns of; folders of older versions tell by their data."""
    if given is None:
        synthetic = any("synthetic" in t.get("data", "") for t in thresholds.values())
        return [SYNTHETIC] if synthetic else []
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise UserError("the model's warnings must be a list of texts")
    return given


def choose(thresholds: Mapping[str, Any], wanted: str | float | None) -> float | None:
    """A threshold by name, by value (also as text), or ``eer`` when None is wanted and
    there is one.

    Example
    -------
    >>> choose({"eer": {"value": 0.4}}, None), choose({}, "0.25"), choose({}, None)
    (0.4, 0.25, None)
    """
    wanted = "eer" if wanted is None and "eer" in thresholds else wanted
    if wanted is None:
        return None
    if isinstance(wanted, str) and wanted in thresholds:
        return float(thresholds[wanted]["value"])
    try:
        number = float(wanted)
    except ValueError:
        has = ", ".join(thresholds) or "none"
        raise UserError(
            f"no threshold '{wanted}' in this model (it has: {has})."
            f"{nearest(str(wanted), thresholds)} Give a name or a number"
        ) from None
    if not math.isfinite(number):
        raise UserError(f"a threshold must be a finite number, not {wanted}")
    return number


def describe(thresholds: Mapping[str, Mapping[str, Any]], wanted: Any = None) -> str:
    """What the chosen threshold means, in words.

    Example
    -------
    >>> eer = {"value": 0.4, "far": 0.05, "miss": 0.05, "data": "dev"}
    >>> describe({"eer": eer}), describe({}, "0.3")
    ('eer: false alarms 5 %, misses 5 % on dev', 'given by you')
    """
    name = wanted or "eer"
    if name not in thresholds:
        return "given by you"
    entry = thresholds[name]
    rates = [
        f"{label} {100 * entry[key]:.3g} %"
        for key, label in (("far", "false alarms"), ("miss", "misses"))
        if isinstance(entry.get(key), (int, float))
    ]
    return f"{name}: {', '.join(rates)} on {entry.get('data', 'unknown data')}"
