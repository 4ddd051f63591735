"""Verification metrics: exact, linear in memory, honest about broken scores.

All take ``(scores, labels)``: numpy arrays, tensors or lists; larger scores mean the
same speaker; labels are 1 for target trials. Rates are shares between 0 and 1. To get
several figures from one sort, use ``OperatingPoints.of(scores, labels)``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sb_margins.errors import UserError
from sb_margins.verification.points import (
    OperatingPoints,
    prior_costs,
    split_scores,
)

__all__ = [
    "OperatingPoints",
    "act_dcf",
    "bayes_threshold",
    "cllr",
    "det_curve",
    "eer",
    "min_cllr",
    "min_dcf",
    "summary",
    "threshold_at",
]


def eer(scores: Any, labels: Any, method: str = "mean") -> float:
    """Equal error rate.

    Arguments
    ---------
    scores : array-like or torch.Tensor
        [N] scores.
    labels : array-like or torch.Tensor
        [N], 1 for target trials.
    method : str
        ``"mean"`` (default): (FAR + FRR) / 2 at the threshold with the smallest
        \\|FAR - FRR\\|, counted in integers; where two thresholds are equally near,
        the mean of both, so that swapping the classes changes nothing.
        ``"rocch"``: where the convex hull of the ROC meets FAR = FRR (BOSARIS).
        ``"speechbrain"``: ``speechbrain.utils.metric_stats.EER`` bit for bit, which
        takes either of two equally near thresholds as float32 rounding falls;
        equal to ``"mean"`` elsewhere.

    Returns
    -------
    float
        Between 0 and 1.

    Raises
    ------
    UserError
        For NaN or infinite scores, or when a class is missing.

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

    Never above 1, the cost of the better of accepting or rejecting everything.
    SpeechBrain's ``minDCF`` lacks the division: at ``p_target=0.01`` it is 0.01
    times this one.

    Arguments
    ---------
    scores, labels : array-like or torch.Tensor
        [N] each.
    p_target : float
        Prior of a target trial; name it wherever the value is shown.
    c_miss, c_fa : float
        Costs of a miss and of a false alarm.

    Returns
    -------
    float
        Between 0 and 1.

    Raises
    ------
    UserError
        For broken scores, missing classes, or a prior outside (0, 1).

    Example
    -------
    >>> min_dcf([0.9, 0.4, 0.5, 0.1], [1, 1, 0, 0], p_target=0.05)
    0.5
    """
    return OperatingPoints.of(scores, labels).min_dcf(p_target, c_miss, c_fa)


def bayes_threshold(p_target: float, c_miss: float = 1.0, c_fa: float = 1.0) -> float:
    """Where a log-likelihood ratio should be cut for a prior and costs.

    Arguments
    ---------
    p_target, c_miss, c_fa : float
        As in ``min_dcf``.

    Returns
    -------
    float
        log(c_fa (1 - p_target) / (c_miss p_target)), in nats.

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

    Arguments
    ---------
    scores : array-like or torch.Tensor
        [N] natural log-likelihood ratios (see ``calibration``).
    labels : array-like or torch.Tensor
        [N].
    p_target, c_miss, c_fa : float
        As in ``min_dcf``; trials with a score above ``bayes_threshold`` are accepted.

    Returns
    -------
    float
        At least ``min_dcf`` at the same point; may exceed 1.

    Example
    -------
    >>> act_dcf([9.0, 8.0, -9.0, -8.0], [1, 1, 0, 0], p_target=0.01)
    0.0
    """
    target, nontarget = split_scores(scores, labels)
    cut = bayes_threshold(p_target, c_miss, c_fa)
    miss, fa = prior_costs(p_target, c_miss, c_fa)
    cost = miss * (target <= cut).mean() + fa * (nontarget > cut).mean()
    return float(cost / min(miss, fa))


def _cllr_of(target: np.ndarray, nontarget: np.ndarray) -> float:
    """Mean cost in bits of log-likelihood ratios (infinite ones allowed)."""
    miss = np.logaddexp(0, -target.astype(np.float64)).mean()
    fa = np.logaddexp(0, nontarget.astype(np.float64)).mean()
    return float((miss + fa) / 2 / np.log(2))


def cllr(scores: Any, labels: Any) -> float:
    """Cost of log-likelihood ratios in bits (Brummer and du Preez, 2006).

        (mean log2(1 + exp(-s_target)) + mean log2(1 + exp(s_nontarget))) / 2

    Arguments
    ---------
    scores : array-like or torch.Tensor
        [N] natural log-likelihood ratios; raw cosines are not (see ``calibration``).
    labels : array-like or torch.Tensor
        [N].

    Returns
    -------
    float
        0 is perfect, 1 knows nothing, more misleads.

    Example
    -------
    >>> cllr([0.0, 0.0], [1, 0])
    1.0
    """
    return _cllr_of(*split_scores(scores, labels))


def min_cllr(scores: Any, labels: Any) -> float:
    """Cllr after the best monotone map of the scores (pool adjacent violators).

    Arguments
    ---------
    scores, labels : array-like or torch.Tensor
        [N] each; any scale.

    Returns
    -------
    float
        Between 0 and 1, in bits: what the scores could give if calibrated.

    Example
    -------
    >>> round(min_cllr([0.9, 0.4, 0.5, 0.1], [1, 1, 0, 0]), 6)
    0.5
    """
    return _min_cllr_of(OperatingPoints.of(scores, labels))


def _min_cllr_of(points: OperatingPoints) -> float:
    at = points.hull
    target = np.diff(points.misses[at]) / points.targets
    nontarget = -np.diff(points.false_alarms[at]) / points.nontargets
    # A block without targets (non-targets) has infinite evidence and costs nothing.
    mixed = (target > 0) & (nontarget > 0)
    target, nontarget = target[mixed], nontarget[mixed]
    llr = np.log(target) - np.log(nontarget)
    miss = (target * np.logaddexp(0, -llr)).sum()
    fa = (nontarget * np.logaddexp(0, llr)).sum()
    return float((miss + fa) / 2 / np.log(2))


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

    Arguments
    ---------
    scores, labels : array-like or torch.Tensor
        [N] each.
    far : float, optional
        Aim at this share of false alarms: the lowest threshold that keeps to it.
    prior : float, optional
        Aim at the least cost for this prior of targets (the minDCF point).
        With neither, aim at the EER.
    c_miss, c_fa : float
        Costs, used with ``prior``.

    Returns
    -------
    float
        Accept when score > threshold. Midway between two scores, for robustness.

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
        if not 0 <= far <= 1:
            raise UserError(f"far must lie between 0 and 1, not {far}")
        # In counts, so that far=0.1 of 10 non-targets is one of them.
        allowed = int(np.floor(far * points.nontargets * (1 + 1e-12)))
        return points.cut(int(np.argmax(points.false_alarms <= allowed)))
    if prior is not None:
        return points.cut(int(np.argmin(points.costs(prior, c_miss, c_fa))))
    return points.cut(int(points._smallest_gap()[0]))


def summary(
    scores: Any,
    labels: Any,
    *,
    p_targets: tuple[float, ...] = (0.01, 0.05),
    calibrated: bool = False,
) -> dict[str, float]:
    """The figures that a result table shows, from one sort.

    Arguments
    ---------
    scores, labels : array-like or torch.Tensor
        [N] each.
    p_targets : tuple of float
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
    figures: dict[str, float] = {
        "trials": points.targets + points.nontargets,
        "targets": points.targets,
        "nontargets": points.nontargets,
        "eer": points.eer(),
        "eer_rocch": points.eer("rocch"),
        "eer_threshold": points.cut(int(points._smallest_gap()[0])),
    }
    for p_target in p_targets:
        figures[f"min_dcf(p_target={p_target:g})"] = points.min_dcf(p_target)
    if calibrated:
        for p_target in p_targets:
            figures[f"act_dcf(p_target={p_target:g})"] = act_dcf(
                scores, labels, p_target=p_target
            )
        figures["cllr"] = cllr(scores, labels)
    figures["min_cllr"] = _min_cllr_of(points)
    return figures
