"""Which loss makes sense on which classifier; refused by name when it does not."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sb_margins.errors import UserError
from sb_margins.labels import ORIGIN

NAMES = {
    "linear": "linear logits (LinearClassifier)",
    "cosine": "cosines (CosineClassifier)",
    "adjusted": "adjusted cosines (AdjustedCosineClassifier)",
    "poincare": "Poincaré distances (PoincareClassifier)",
    "centres": "distances to centres (CentreClassifier)",
    "embeddings": "embeddings (BatchEmbeddings)",
    "joint": "several geometries (JointClassifier)",
}


def check_pair(classifier: Any, loss: Any) -> None:
    """Refuse a loss in a Head with a classifier it makes no sense with, naming both."""
    geometry = getattr(classifier, "geometry", None)
    pair = f"{type(loss).__name__} on {type(classifier).__name__}"
    if geometry is None or getattr(loss, "accepts", None) is None:
        raise UserError(
            f"{pair}: a Head wants a classifier of sb_margins.classifiers and a loss "
            "of sb_margins.losses"
        )
    if geometry == "joint" and "joint" in loss.accepts:
        parts, losses = list(classifier.classifiers), list(loss.losses)
        if len(parts) != len(losses):
            raise UserError(
                f"{pair}: {len(parts)} classifiers for {len(losses)} losses"
            )
        for part, one in zip(parts, losses, strict=True):
            check_pair(part, one)
        return
    _check_geometry(loss, geometry, type(classifier).__name__)


def check_scores(loss: Any, scores: Tensor) -> None:
    """Refuse scores marked by a classifier that the loss makes no sense with."""
    origin = getattr(scores, ORIGIN, None)
    if origin is not None:
        _check_geometry(loss, *origin)


def _check_geometry(loss: Any, geometry: str, classifier: str) -> None:
    if geometry in loss.accepts:
        return
    wanted = " or ".join(NAMES.get(a, a) for a in loss.accepts)
    given = NAMES.get(geometry, geometry).split(" (")[0]
    hint = ""
    if "poincare" in loss.accepts or geometry == "poincare":
        hint = " (the additive margin is AMSoftmax on cosines, HAMSoftmax on distances)"
    if getattr(loss, "satisfied", "") == "zero" and geometry == "poincare":
        hint = " (with satisfied='drop' or 'clamp' it also accepts distances)"
    raise UserError(
        f"{type(loss).__name__} on {classifier} makes no sense: it is made for "
        f"{wanted}, not for {given}{hint}"
    )
