"""Verification metrics: exact, linear in memory, NaN scores are errors.

All take ``scores`` and ``labels``, [N] each: numpy arrays, tensors or lists; larger
scores mean the same speaker; labels are 1 for target trials. NaN or infinite scores
and trials of one class only raise a `UserError`. Rates are shares between 0 and 1. To
get several figures from one sort, use ``OperatingPoints.of(scores, labels)``.

A report loops over ``standard_metrics()``: each ``Metric`` computes a figure from
operating points and says how it is called, written and compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from sb_margins.errors import UserError
from sb_margins.verification.points import OperatingPoints, prior_costs

__all__ = [
    "EER",
    "Metric",
    "OperatingPoints",
    "act_dcf",
    "bayes_threshold",
    "cllr",
    "det_curve",
    "eer",
    "min_cllr",
    "min_dcf",
    "standard_metrics",
    "summary",
    "threshold_at",
]


# Priors of the detection costs unless others are given.
P_TARGETS = (0.01, 0.05)


@dataclass(frozen=True)
class Metric:
    """One figure of a report.

    Arguments
    ---------
    name : str
        Its key in ``summary`` and ``metrics.json``, e.g. ``"min_dcf(p_target=0.01)"``.
    label : str
        What people read, e.g. ``"minDCF(0.01)"``.
    function : callable
        From ``OperatingPoints`` to the value.
    unit : str
        ``"%"``: written times 100. Default: none.
    digits : int
        After the decimal point. Default 3.
    interval : bool
        Whether reports give a bootstrap interval. Default False.
    threshold : callable, optional
        From ``OperatingPoints`` to the threshold at which the figure is reached.

    Example
    -------
    >>> points = OperatingPoints.of([0.9, 0.4, 0.5, 0.1], [1, 1, 0, 0])
    >>> metric = standard_metrics()[0]
    >>> metric.label, metric(points), metric.format(metric(points))
    ('EER', 0.5, '50.00 %')
    >>> metric.cell({"eer": 0.5, "eer interval": [0.4, 0.6]})
    '50.00 % [40.00, 60.00]'
    """

    name: str
    label: str
    function: Callable[[OperatingPoints], float]
    unit: str = ""
    digits: int = 3
    interval: bool = False
    threshold: Callable[[OperatingPoints], float] | None = None

    def __call__(self, points: OperatingPoints) -> float:
        """The value."""
        return float(self.function(points))

    @property
    def heading(self) -> str:
        """The label and the unit, e.g. ``"EER %"``."""
        return f"{self.label} {self.unit}".rstrip()

    @property
    def interval_name(self) -> str:
        """The key of its [low, high] in ``metrics.json``."""
        return f"{self.name} interval"

    def number(self, value: float, sign: str = "") -> str:
        """A value (or a difference, with ``sign="+"``) without the unit."""
        scale = 100 if self.unit == "%" else 1
        return f"{scale * value:{sign}.{self.digits}f}"

    def format(self, value: float) -> str:
        """A value with the unit."""
        return f"{self.number(value)} {self.unit}".rstrip()

    def cell(self, row: Mapping[str, Any]) -> str:
        """The value in a row of ``metrics.json``, with its interval if it has one."""
        text = self.format(row[self.name])
        if self.interval_name in row:
            low, high = map(self.number, row[self.interval_name])
            text += f" [{low}, {high}]"
        return text


EER = Metric(
    "eer",
    "EER",
    OperatingPoints.eer,
    unit="%",
    digits=2,
    interval=True,
    threshold=OperatingPoints.eer_threshold,
)


def _min_dcf_at(p: float) -> Metric:
    value = partial(OperatingPoints.min_dcf, p_target=p)
    threshold = partial(OperatingPoints.min_dcf_threshold, p_target=p)
    name, label = f"min_dcf(p_target={p:g})", f"minDCF({p:g})"
    return Metric(name, label, value, interval=True, threshold=threshold)


def _act_dcf_at(p: float) -> Metric:
    value = partial(OperatingPoints.act_dcf, p_target=p)
    return Metric(f"act_dcf(p_target={p:g})", f"actDCF({p:g})", value)


def standard_metrics(
    p_targets: Sequence[float] = P_TARGETS, *, calibrated: bool = False
) -> tuple[Metric, ...]:
    """The figures of a report, in its order.

    EER, minDCF at each prior, (actDCF at each prior, Cllr,) min Cllr.

    Arguments
    ---------
    p_targets : sequence of float
        Priors of the detection costs. Default 0.01 and 0.05.
    calibrated : bool
        Whether scores are log-likelihood ratios: adds actual costs and Cllr.

    Example
    -------
    >>> [metric.label for metric in standard_metrics([0.05], calibrated=True)]
    ['EER', 'minDCF(0.05)', 'actDCF(0.05)', 'Cllr', 'min Cllr']
    """
    metrics = [EER, *map(_min_dcf_at, p_targets)]
    if calibrated:
        metrics += [*map(_act_dcf_at, p_targets)]
        metrics.append(Metric("cllr", "Cllr", OperatingPoints.cllr))
    return (*metrics, Metric("min_cllr", "min Cllr", OperatingPoints.min_cllr))


def eer(scores: Any, labels: Any, method: str = "mean") -> float:
    """Equal error rate, between 0 and 1.

    Arguments
    ---------
    scores, labels : array-like or torch.Tensor
        [N] each.
    method : str
        ``"mean"`` (default): (FAR + FRR) / 2 at the threshold with the smallest
        \\|FAR - FRR\\|, counted in integers; where two thresholds are equally near,
        the mean of both, so that swapping the classes changes nothing. (SpeechBrain's
        ``EER`` takes either of the two, as float32 rounding falls.)
        ``"rocch"``: where the convex hull of the ROC meets FAR = FRR (BOSARIS).

    Example
    -------
    >>> eer([0.9, 0.8, 0.3, 0.5, 0.2, 0.1], [1, 1, 1, 0, 0, 0])
    0.3333333333333333
    >>> eer([1.0, 1.0, 1.0], [1, 0, 0])
    0.5
    """
    return OperatingPoints.of(scores, labels).eer(method)


def min_dcf(
    scores: Any,
    labels: Any,
    *,
    p_target: float = 0.01,
    c_miss: float = 1.0,
    c_fa: float = 1.0,
) -> float:
    """Smallest normalised detection cost over all thresholds.

        (c_miss p_target P_miss + c_fa (1 - p_target) P_fa)
            / min(c_miss p_target, c_fa (1 - p_target))

    Between 0 and 1, the cost of the better of accepting or rejecting everything.
    SpeechBrain's ``minDCF`` lacks the division: at ``p_target=0.01`` it is 0.01
    times this one.

    Arguments
    ---------
    scores, labels : array-like or torch.Tensor
        [N] each.
    p_target : float
        Prior of a target trial, inside of (0, 1); name it wherever the value is shown.
    c_miss, c_fa : float
        Costs of a miss and of a false alarm.

    Example
    -------
    >>> min_dcf([0.9, 0.4, 0.5, 0.1], [1, 1, 0, 0], p_target=0.05)
    0.5
    """
    return OperatingPoints.of(scores, labels).min_dcf(p_target, c_miss, c_fa)


def bayes_threshold(p_target: float, c_miss: float = 1.0, c_fa: float = 1.0) -> float:
    """Where log-likelihood ratios should be cut, in nats.

        log(c_fa (1 - p_target) / (c_miss p_target))

    Arguments
    ---------
    p_target, c_miss, c_fa : float
        As in ``min_dcf``.

    Example
    -------
    >>> bayes_threshold(0.5)
    0.0
    """
    miss, fa = prior_costs(p_target, c_miss, c_fa)
    return float(np.log(fa / miss))


def act_dcf(
    scores: Any,
    labels: Any,
    *,
    p_target: float = 0.01,
    c_miss: float = 1.0,
    c_fa: float = 1.0,
) -> float:
    """Normalised detection cost of the Bayes decision: scores must be calibrated.

    At least ``min_dcf`` at the same point; may exceed 1.

    Arguments
    ---------
    scores, labels : array-like or torch.Tensor
        [N] each; natural log-likelihood ratios (see ``calibration``).
    p_target, c_miss, c_fa : float
        As in ``min_dcf``; trials with a score above ``bayes_threshold`` are accepted.

    Example
    -------
    >>> act_dcf([9.0, 8.0, -9.0, -8.0], [1, 1, 0, 0], p_target=0.01)
    0.0
    """
    return OperatingPoints.of(scores, labels).act_dcf(p_target, c_miss, c_fa)


def cllr(scores: Any, labels: Any) -> float:
    """Cost of log-likelihood ratios in bits (Brummer and du Preez, 2006).

        (mean log2(1 + exp(-s_target)) + mean log2(1 + exp(s_nontarget))) / 2

    0 is perfect, 1 knows nothing, more misleads.

    Arguments
    ---------
    scores, labels : array-like or torch.Tensor
        [N] each; natural log-likelihood ratios: raw cosines are not (see
        ``calibration``).

    Example
    -------
    >>> cllr([0.0, 0.0], [1, 0])
    1.0
    """
    return OperatingPoints.of(scores, labels).cllr()


def min_cllr(scores: Any, labels: Any) -> float:
    """Cllr after the best monotone map of the scores (pool adjacent violators).

    Between 0 and 1, in bits: what the scores could give if calibrated.

    Arguments
    ---------
    scores, labels : array-like or torch.Tensor
        [N] each; any scale.

    Example
    -------
    >>> round(min_cllr([0.9, 0.4, 0.5, 0.1], [1, 1, 0, 0]), 6)
    0.5
    """
    return OperatingPoints.of(scores, labels).min_cllr()


def det_curve(scores: Any, labels: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """False-alarm and miss rates at every threshold that makes a difference.

    Arguments
    ---------
    scores, labels : array-like or torch.Tensor
        [N] each.

    Returns
    -------
    tuple of numpy.ndarray
        far, frr, thresholds, [K + 1] each for K distinct scores: from accepting all
        (threshold ``-inf``) to rejecting all. Trials *above* a threshold are
        accepted (scikit-learn: at or above, so its thresholds are one score up).

    Example
    -------
    >>> far, frr, thresholds = det_curve([0.9, 0.4, 0.5, 0.1], [1, 1, 0, 0])
    >>> far.tolist(), frr.tolist()
    ([1.0, 0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5, 1.0])
    """
    points = OperatingPoints.of(scores, labels)
    return (
        points.false_alarms / points.nontargets,
        points.misses / points.targets,
        points.thresholds,
    )


def threshold_at(
    scores: Any,
    labels: Any,
    *,
    far: float | None = None,
    prior: float | None = None,
    c_miss: float = 1.0,
    c_fa: float = 1.0,
) -> float:
    """The threshold to decide with, found on development trials.

    Accept when score > threshold. Midway between two scores, for robustness. With
    neither ``far`` nor ``prior`` it is that of the EER.

    Arguments
    ---------
    scores, labels : array-like or torch.Tensor
        [N] each.
    far : float, optional
        Aim at this share of false alarms: the lowest threshold that keeps to it.
    prior : float, optional
        Aim at the least cost for this prior of targets (the minDCF point).
    c_miss, c_fa : float
        Costs, used with ``prior``.

    Example
    -------
    >>> scores, labels = [0.9, 0.7, 0.3, 0.1], [1, 1, 0, 0]
    >>> round(threshold_at(scores, labels), 6)
    0.5
    >>> round(threshold_at(scores, labels, far=0.5), 6)
    0.2
    """
    if far is not None and prior is not None:
        raise UserError("give far or prior to threshold_at, not both")
    points = OperatingPoints.of(scores, labels)
    if far is not None:
        return points.far_threshold(far)
    if prior is not None:
        return points.min_dcf_threshold(prior, c_miss, c_fa)
    return points.eer_threshold()


def summary(
    scores: Any,
    labels: Any,
    *,
    p_targets: Sequence[float] = P_TARGETS,
    calibrated: bool = False,
) -> dict[str, float]:
    """The ``standard_metrics`` by name, the counts and more, from one sort.

    Arguments
    ---------
    scores, labels : array-like or torch.Tensor
        [N] each.
    p_targets : sequence of float
        Priors of the detection costs; they are part of the keys.
    calibrated : bool
        Whether scores are log-likelihood ratios; adds Cllr and actual costs.

    Returns
    -------
    dict of str to float
        ``trials``, ``targets``, ``nontargets``, ``eer``, ``eer_rocch``,
        ``eer_threshold``, ``min_dcf(p_target=...)``, ``min_cllr`` and, when
        calibrated, ``cllr`` and ``act_dcf(p_target=...)``.

    Example
    -------
    >>> figures = summary([0.9, 0.4, 0.5, 0.1], [1, 1, 0, 0])
    >>> figures["eer"], figures["min_dcf(p_target=0.01)"]
    (0.5, 0.5)
    """
    points = OperatingPoints.of(scores, labels)
    metrics = standard_metrics(p_targets, calibrated=calibrated)
    return {
        "trials": points.targets + points.nontargets,
        "targets": points.targets,
        "nontargets": points.nontargets,
        "eer_rocch": points.eer("rocch"),
        "eer_threshold": points.eer_threshold(),
        **{metric.name: metric(points) for metric in metrics},
    }
