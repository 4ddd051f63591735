"""The losses: scores and labels in, one number out."""

from sb_margins.losses.aam import AAMSoftmax
from sb_margins.losses.am import AMSoftmax
from sb_margins.losses.as_softmax import ASSoftmax, MultiLabelASSoftmax
from sb_margins.losses.base import MarginLoss
from sb_margins.losses.centre import CentreLoss
from sb_margins.losses.combined import ASoftmax, CombinedMargin
from sb_margins.losses.hyperbolic import HAMSoftmax, HSoftmax
from sb_margins.losses.joint import JointLoss
from sb_margins.losses.metric import MetricLearningLoss
from sb_margins.losses.nontargets import Keep
from sb_margins.losses.real_am import RealAMSoftmax
from sb_margins.losses.softmax import NormSoftmax, Softmax
from sb_margins.losses.sphereface2 import SphereFace2

__all__ = [
    "AAMSoftmax",
    "AMSoftmax",
    "ASSoftmax",
    "ASoftmax",
    "CentreLoss",
    "CombinedMargin",
    "HAMSoftmax",
    "HSoftmax",
    "JointLoss",
    "Keep",
    "MarginLoss",
    "MetricLearningLoss",
    "MultiLabelASSoftmax",
    "NormSoftmax",
    "RealAMSoftmax",
    "Softmax",
    "SphereFace2",
]
