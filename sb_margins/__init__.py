"""Margin and hyperbolic losses for speaker verification with SpeechBrain."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sb_margins.classifiers import (
        CosineClassifier as CosineClassifier,
        JointClassifier as JointClassifier,
        LinearClassifier as LinearClassifier,
        PoincareClassifier as PoincareClassifier,
    )
    from sb_margins.errors import UserError as UserError
    from sb_margins.head import Head as Head
    from sb_margins.losses import (
        AAMSoftmax as AAMSoftmax,
        AMSoftmax as AMSoftmax,
        ASoftmax as ASoftmax,
        ASSoftmax as ASSoftmax,
        CombinedMargin as CombinedMargin,
        HAMSoftmax as HAMSoftmax,
        HSoftmax as HSoftmax,
        JointLoss as JointLoss,
        MultiLabelASSoftmax as MultiLabelASSoftmax,
        NormSoftmax as NormSoftmax,
        RealAMSoftmax as RealAMSoftmax,
        Softmax as Softmax,
    )
    from sb_margins.similarity import (
        CosineSimilarity as CosineSimilarity,
        PoincareSimilarity as PoincareSimilarity,
    )

_HOMES = {
    "CosineClassifier": "classifiers",
    "JointClassifier": "classifiers",
    "LinearClassifier": "classifiers",
    "PoincareClassifier": "classifiers",
    "UserError": "errors",
    "Head": "head",
    "AAMSoftmax": "losses",
    "AMSoftmax": "losses",
    "ASSoftmax": "losses",
    "ASoftmax": "losses",
    "CombinedMargin": "losses",
    "HAMSoftmax": "losses",
    "HSoftmax": "losses",
    "JointLoss": "losses",
    "MultiLabelASSoftmax": "losses",
    "NormSoftmax": "losses",
    "RealAMSoftmax": "losses",
    "Softmax": "losses",
    "CosineSimilarity": "similarity",
    "PoincareSimilarity": "similarity",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Public names are found when first used: ``import sb_margins`` stays quick."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"sb_margins.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'sb_margins' has no attribute '{name}'")
