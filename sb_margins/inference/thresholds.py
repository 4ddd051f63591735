"""Decision thresholds with their pedigree: the value, its errors, the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sb_margins.errors import UserError, nearest
from sb_margins.verification.calibration import Calibration
from sb_margins.verification.metrics import threshold_at

# The name in the model folder, the false-alarm rate aimed at (None: the EER point).
POINTS: dict[str, float | None] = {"eer": None, "far1": 0.01, "far0.1": 0.001}

# Fewer expected false alarms than this, and the value is mostly luck.
FEW = 5


@dataclass(frozen=True)
class Threshold:
    """A score at which to decide, and how it was found.

    Arguments
    ---------
    value : float
        Scores above it are taken for the same speaker.
    far : float
        Share of non-target trials above it, on the calibration data.
    miss : float
        Share of target trials not above it, on the calibration data.
    data : str
        The calibration data, in words.

    Example
    -------
    >>> print(Threshold(0.5, 0.01, 0.1, "dev trials").describe())
    false alarms 1.00 %, misses 10.00 % on dev trials
    """

    value: float
    far: float
    miss: float
    data: str

    def describe(self) -> str:
        """One line for people.

        Returns
        -------
        str
            Error rates and the data they come from.
        """
        return (
            f"false alarms {100 * self.far:.2f} %, "
            f"misses {100 * self.miss:.2f} % on {self.data}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for YAML.

        Returns
        -------
        dict
            value, far, miss, data.
        """
        return asdict(self)


def calibrate_thresholds(scores: Any, labels: Any, data: str) -> dict[str, Threshold]:
    """The thresholds that a model folder carries, found on development trials.

    Arguments
    ---------
    scores : array-like
        [N] scores, larger for the same speaker.
    labels : array-like
        [N], 1 or True for target trials.
    data : str
        What the trials are, in words, e.g. ``"dev trials of VoxCeleb1"``; the
        number of trials is added to it.

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
    score = np.asarray(scores, dtype=np.float64).reshape(-1)
    label = np.asarray(labels).reshape(-1).astype(bool)
    if score.shape != label.shape:
        raise UserError(f"{score.size} scores but {label.size} labels")
    if not np.isfinite(score).all():
        raise UserError("some calibration scores are not finite")
    target, nontarget = score[label], score[~label]
    if not target.size or not nontarget.size:
        raise UserError(
            "thresholds need target and non-target trials; "
            f"got {target.size} and {nontarget.size}"
        )
    told = f"{data} ({target.size} target, {nontarget.size} non-target)"
    found = {}
    for name, far in POINTS.items():
        value = threshold_at(score, label, far=far)
        note = ""
        if far is not None and far * nontarget.size < FEW:
            note = f"; too few non-target trials to place {100 * far:g} % well"
        found[name] = Threshold(
            value,
            float((nontarget > value).mean()),
            float((target <= value).mean()),
            told + note,
        )
    return found


def calibrate_llr(scores: Any, labels: Any, data: str) -> dict[str, Any]:
    """The affine map from scores to log-likelihood ratios, found on dev trials.

    Arguments
    ---------
    scores, labels : array-like
        [N] each, as for `calibrate_thresholds`.
    data : str
        What the trials are, in words.

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
        "scale": float(fitted.weights[0]),
        "offset": float(fitted.bias),
        "p_target": float(fitted.p_target),
        "data": data,
    }


def choose(thresholds: Mapping[str, Any], wanted: str | float | None) -> float | None:
    """A threshold by name or by value.

    Arguments
    ---------
    thresholds : mapping of str to Threshold or mapping
        What the model folder holds.
    wanted : str or float or None
        A name in ``thresholds``, a number (also as text), or None for ``eer``.

    Returns
    -------
    float or None
        None only when nothing is wanted by name and the folder holds none.

    Raises
    ------
    UserError
        When the name is not there.

    Example
    -------
    >>> choose({"eer": {"value": 0.4}}, None), choose({}, "0.25"), choose({}, None)
    (0.4, 0.25, None)
    """
    if wanted is None:
        if "eer" not in thresholds:
            return None
        wanted = "eer"
    if isinstance(wanted, str) and wanted in thresholds:
        entry = thresholds[wanted]
        value = entry.value if isinstance(entry, Threshold) else entry["value"]
        return float(value)
    try:
        number = float(wanted)
    except ValueError:
        has = ", ".join(thresholds) or "none"
        raise UserError(
            f"no threshold '{wanted}' in this model (it has: {has})."
            f"{nearest(str(wanted), thresholds)} Give a name or a number"
        ) from None
    if not np.isfinite(number):
        raise UserError(f"a threshold must be a finite number, not {wanted}")
    return number
