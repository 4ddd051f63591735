"""Margin and hyperbolic losses for speaker verification with SpeechBrain."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sb_margins.classifiers import (
        AdjustedCosineClassifier as AdjustedCosineClassifier,
        CentreClassifier as CentreClassifier,
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
        CentreLoss as CentreLoss,
        CombinedMargin as CombinedMargin,
        HAMSoftmax as HAMSoftmax,
        HSoftmax as HSoftmax,
        JointLoss as JointLoss,
        MetricLearningLoss as MetricLearningLoss,
        MultiLabelASSoftmax as MultiLabelASSoftmax,
        NormSoftmax as NormSoftmax,
        RealAMSoftmax as RealAMSoftmax,
        Softmax as Softmax,
        SphereFace2 as SphereFace2,
    )
    from sb_margins.pairs import (
        BatchEmbeddings as BatchEmbeddings,
        BatchPrototypes as BatchPrototypes,
    )
    from sb_margins.similarity import (
        CosineSimilarity as CosineSimilarity,
        PoincareSimilarity as PoincareSimilarity,
    )

_HOMES = {
    "classifiers": "AdjustedCosineClassifier CentreClassifier CosineClassifier "
    "JointClassifier LinearClassifier PoincareClassifier",
    "errors": "UserError",
    "head": "Head",
    "losses": "AAMSoftmax AMSoftmax ASSoftmax ASoftmax CentreLoss CombinedMargin "
    "HAMSoftmax HSoftmax JointLoss MetricLearningLoss MultiLabelASSoftmax NormSoftmax "
    "RealAMSoftmax Softmax SphereFace2",
    "pairs": "BatchEmbeddings BatchPrototypes",
    "similarity": "CosineSimilarity PoincareSimilarity",
}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    """Public names are imported when first used: ``import sb_margins`` stays quick."""
    if name in _HOME:
        return getattr(importlib.import_module(f"sb_margins.{_HOME[name]}"), name)
    raise AttributeError(f"module 'sb_margins' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
