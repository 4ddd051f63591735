"""Every classifier with every loss it takes, for the tests that sweep them."""

from __future__ import annotations

import torch

from sb_margins.classifiers import (
    AdjustedCosineClassifier,
    CosineClassifier,
    JointClassifier,
    LinearClassifier,
    PoincareClassifier,
)
from sb_margins.losses import (
    AAMSoftmax,
    AMSoftmax,
    ASoftmax,
    ASSoftmax,
    CombinedMargin,
    HAMSoftmax,
    HSoftmax,
    JointLoss,
    NormSoftmax,
    RealAMSoftmax,
    Softmax,
    SphereFace2,
)

CLASSIFIERS = {
    "linear": lambda d, c: LinearClassifier(d, c),
    "linear-nobias": lambda d, c: LinearClassifier(d, c, bias=False),
    "cosine": lambda d, c: CosineClassifier(d, c),
    "cosine-sub3": lambda d, c: CosineClassifier(d, c, sub_centers=3),
    "adjusted-3": lambda d, c: AdjustedCosineClassifier(d, c, bias=0.3),
    "adjusted-1.5": lambda d, c: AdjustedCosineClassifier(d, c, t=1.5),
    "ball-unit3": lambda d, c: PoincareClassifier(d, c, 3.0),
    "ball-unit1.5": lambda d, c: PoincareClassifier(d, c, 1.5),
    "ball-textbook": lambda d, c: PoincareClassifier(d, c, 0.7, metric="curvature"),
    "ball-learned": lambda d, c: PoincareClassifier(
        d, c, 0.7, metric="curvature", clip_norm=2.0, learnable=True
    ),
    "joint": lambda d, c: JointClassifier(
        [CosineClassifier(d, c), PoincareClassifier(d, c, 3.0)]
    ),
}

LOSSES = {
    "linear": {
        "softmax": lambda: Softmax(),
        "as": lambda: ASSoftmax(0.1, scale=1.0),
        "as-softmax": lambda: ASSoftmax(0.5, base=Softmax(scale=2.0)),
    },
    "cosine": {
        "norm": lambda: NormSoftmax(),
        "am": lambda: AMSoftmax(),
        "am-64": lambda: AMSoftmax(scale=64.0),
        "am-top2": lambda: AMSoftmax(top_k=2),
        "aam": lambda: AAMSoftmax(),
        "aam-easy": lambda: AAMSoftmax(easy_margin=True),
        "aam-top2": lambda: AAMSoftmax(top_k=2),
        "asoftmax": lambda: ASoftmax(),
        "asoftmax-3": lambda: ASoftmax(3, anneal=0.0),
        "combined": lambda: CombinedMargin(2, 0.1, 0.1),
        "ram-zero": lambda: RealAMSoftmax(),
        "ram-clamp": lambda: RealAMSoftmax(satisfied="clamp"),
        "ram-drop": lambda: RealAMSoftmax(satisfied="drop"),
        "ram-drop-64": lambda: RealAMSoftmax(scale=64.0, satisfied="drop"),
        "as-.1": lambda: ASSoftmax(0.1),
        "as-1": lambda: ASSoftmax(1.0),
        "as-0": lambda: ASSoftmax(0.0),
        "as-64": lambda: ASSoftmax(0.9, scale=64.0),
        "as-am": lambda: ASSoftmax(0.9, base=AMSoftmax()),
        "as-aam": lambda: ASSoftmax(0.9, base=AAMSoftmax()),
        "sphereface2": lambda: SphereFace2(),
    },
    "adjusted": {
        "sphereface2": lambda: SphereFace2(),
        "sphereface2-64": lambda: SphereFace2(0.4, 64.0, 0.3),
    },
    "poincare": {
        "h": lambda: HSoftmax(),
        "ham": lambda: HAMSoftmax(),
        "ram-clamp": lambda: RealAMSoftmax(satisfied="clamp"),
        "ram-drop": lambda: RealAMSoftmax(satisfied="drop"),
        "as": lambda: ASSoftmax(0.5),
        "as-ham": lambda: ASSoftmax(0.9, base=HAMSoftmax()),
    },
    "joint": {
        "eham": lambda: JointLoss([RealAMSoftmax(), HAMSoftmax()], [0.3, 0.7]),
    },
}

GEOMETRY = {
    name: name.split("-")[0].replace("ball", "poincare") for name in CLASSIFIERS
}
PAIRS = [(c, x) for c in CLASSIFIERS for x in LOSSES[GEOMETRY[c]]]
# sub-centres change the classifier only: a few losses are enough for slow tests
FEWER_PAIRS = [
    (c, x)
    for c, x in PAIRS
    if c != "cosine-sub3" or x in ("am", "aam-top2", "ram-drop", "as-.1")
]


def is_tiled(classifier, loss):
    """Whether a Head walks over tiles, instead of taking the split modules' way."""
    return classifier.space is not None and not loss.top_k


def build(classifier, loss, size, classes, dtype=torch.float32, device="cpu", spread=1):
    """A classifier with weights of a useful size, and a loss."""
    made = CLASSIFIERS[classifier](size, classes).to(device, dtype)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if weight.dim() == 2:
                ball = GEOMETRY[classifier] == "poincare" or "classifiers.1" in name
                weight.normal_().mul_((0.25 if ball else 1) * spread)
            elif "bias" in name:
                weight.normal_()
    return made, LOSSES[GEOMETRY[classifier]][loss]()


def prototypes(classifier):
    """One weight row per class, [C, D]."""
    weight = getattr(classifier, "weight", None)
    if weight is None:
        weight = classifier.classifiers[0].weight
    step = len(weight) // classifier.out_neurons
    return weight.detach()[::step]
