"""The classification geometries: every learnable number is here.

A classifier turns embeddings into scores [B, 1, C] whose arg-max is the decision:
linear logits, cosines, or negative Poincaré distances. Constructor keywords and the
parameter name ``weight`` are SpeechBrain's, so any of them is a ``classifier:`` of a
stock recipe. All compute in float32, whatever autocast and TF32 settings say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sb_margins.errors import UserError
from sb_margins.labels import as_embeddings, mark_origin
from sb_margins.poincare import clip, tangent_matrix
from sb_margins.precision import exact_product, full_precision, upcast
from sb_margins.tiles import (
    AdjustedCosineSpace,
    CosineSpace,
    LinearSpace,
    UnitBallSpace,
    all_scores,
)


class Classifier(nn.Module):
    """What the classifiers share.

    Arguments
    ---------
    input_size : int
        Size of the embeddings, D.
    out_neurons : int
        Number of classes (training speakers), C.
    rows : int
        Weight rows per class. Default 1.

    Raises
    ------
    ValueError
        When a size is not positive or there are fewer than two classes.

    Example
    -------
    >>> issubclass(CosineClassifier, Classifier)
    True
    """

    geometry = "none"
    space: LinearSpace | None = None  # where it is evaluated in tiles

    def __init__(self, input_size: int, out_neurons: int, rows: int = 1) -> None:
        super().__init__()
        if not isinstance(out_neurons, int) or out_neurons < 2:
            raise UserError(
                f"out_neurons is {out_neurons}: a classifier needs at least 2 classes, "
                "the number of training speakers"
            )
        if not isinstance(input_size, int) or input_size < 1:
            raise UserError(
                f"input_size is {input_size}: it must be the size of the embeddings"
            )
        self.input_size, self.out_neurons = input_size, out_neurons
        self.weight = nn.Parameter(torch.empty(rows * out_neurons, input_size))

    def inputs(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Embeddings [B, D], weight and bias in float32 (float64 if one of them is)."""
        x = as_embeddings(x, self.input_size)
        bias = getattr(self, "bias", None)
        x, weight = upcast(x), upcast(self.weight)
        dtype = torch.promote_types(x.dtype, weight.dtype)
        bias = None if bias is None else upcast(bias).to(dtype)
        return x.to(dtype), weight.to(dtype), bias

    def scores(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Scores [B, C] of embeddings [B, D]."""
        assert self.space is not None
        return all_scores(self.space, x, weight, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Scores [B, 1, C] of embeddings [B, D] or [B, 1, D] of any floating dtype.

        float32 (float64 for float64); the arg-max is the decision.
        """
        x, weight, bias = self.inputs(x)
        with full_precision(x.device):
            return mark_origin(self.scores(x, weight, bias).unsqueeze(1), self)

    def extra_repr(self) -> str:
        """The sizes, for print."""
        return f"input_size={self.input_size}, out_neurons={self.out_neurons}"


class LinearClassifier(Classifier):
    """Logits ``w_j . x + b_j``, for :class:`~sb_margins.losses.Softmax`.

    Arguments
    ---------
    input_size : int
        Size of the embeddings, D.
    out_neurons : int
        Number of classes, C.
    bias : bool
        Whether there is a b. Default True.

    Example
    -------
    >>> LinearClassifier(input_size=4, out_neurons=3)(torch.ones(2, 4)).shape
    torch.Size([2, 1, 3])
    """

    geometry = "linear"
    space = LinearSpace()

    def __init__(self, input_size: int, out_neurons: int, bias: bool = True) -> None:
        super().__init__(input_size, out_neurons)
        bound = 1 / math.sqrt(input_size)
        nn.init.uniform_(self.weight, -bound, bound)
        self.bias = nn.Parameter(torch.zeros(out_neurons)) if bias else None


class CosineClassifier(Classifier):
    """Cosines between the embedding and each class, in [-1, 1].

    With ``sub_centers`` K > 1 (Deng et al., "Sub-center ArcFace", ECCV 2020) a class
    has K rows, jK to jK + K - 1, and scores the best of their cosines.

    Arguments
    ---------
    input_size : int
        Size of the embeddings, D.
    out_neurons : int
        Number of classes, C.
    sub_centers : int
        Rows per class, K. Default 1.

    Raises
    ------
    ValueError
        When K is less than 1.

    Example
    -------
    >>> classify = CosineClassifier(input_size=4, out_neurons=3)
    >>> scores = classify(classify.weight)
    >>> scores.shape, scores.argmax(-1).flatten()
    (torch.Size([3, 1, 3]), tensor([0, 1, 2]))
    """

    geometry = "cosine"

    def __init__(self, input_size: int, out_neurons: int, sub_centers: int = 1) -> None:
        if sub_centers < 1:
            raise UserError(f"sub_centers is {sub_centers}: it must be 1 or more")
        super().__init__(input_size, out_neurons, rows=sub_centers)
        self.sub_centers = sub_centers
        nn.init.xavier_uniform_(self.weight)
        self.space = CosineSpace() if sub_centers == 1 else None

    def scores(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Cosines [B, C] of embeddings [B, D]."""
        every = all_scores(CosineSpace(), x, weight, None)
        if self.sub_centers == 1:
            return every
        return every.view(len(x), -1, self.sub_centers).amax(-1)


class AdjustedCosineClassifier(Classifier):
    """``g(cos) + b`` with ``g(z) = 2 ((z + 1) / 2)^t - 1`` (SphereFace2).

    The similarity adjustment g spreads the cosines that matter, the high ones, over
    more of -1 to 1; b, one number for all classes, says at which score a class is as
    likely as not. The paper's b is this one times the scale.

    Reference: Wen et al., "SphereFace2", ICLR 2022, arXiv 2108.01513.

    Arguments
    ---------
    input_size : int
        Size of the embeddings, D.
    out_neurons : int
        Number of classes, C.
    t : float
        1 (the cosine itself) or more. Default 3.
    bias : float
        b at first, see :func:`~sb_margins.functional.balanced_bias`. Default 0.
    learnable : bool
        Whether b is learned. Default True.

    Raises
    ------
    ValueError
        When t is less than 1.

    Example
    -------
    >>> classify = AdjustedCosineClassifier(input_size=4, out_neurons=3, t=2)
    >>> _ = classify.weight.data.copy_(torch.eye(3, 4))
    >>> classify(torch.tensor([[0.0, 1.0, 0.0, 0.0]])).tolist()
    [[[-0.5, 1.0, -0.5]]]
    """

    geometry = "adjusted"
    space: AdjustedCosineSpace

    def __init__(
        self,
        input_size: int,
        out_neurons: int,
        t: float = 3.0,
        bias: float = 0.0,
        learnable: bool = True,
    ) -> None:
        if not 1 <= t <= 100:
            raise UserError(f"t is {t}: it must be 1 (none) to 100; 3 is usual")
        super().__init__(input_size, out_neurons)
        nn.init.xavier_uniform_(self.weight)
        self.space = AdjustedCosineSpace(float(t))
        self.bias = nn.Parameter(torch.tensor(float(bias)), requires_grad=learnable)

    def adjusted(self, cosines: Tensor) -> Tensor:
        """Scores of cosines, of their shape."""
        return self.space.adjust(cosines) + self.bias

    def scores(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Scores [B, C] of embeddings [B, D]."""
        scores = all_scores(self.space, x, weight, None)
        return scores if bias is None else scores + bias

    def extra_repr(self) -> str:
        """The settings, for print."""
        return f"{super().extra_repr()}, t={self.space.t:g}"


class PoincareClassifier(Classifier):
    """Negative Poincaré distances to one prototype per class (H-, HAM-Softmax).

    ``metric="unit"`` is what the authors released: embeddings and prototypes are ball
    coordinates clipped to norm (1 - 1e-5) / sqrt(c), and the distance is that of
    curvature -1, so c only sets how close to the edge they may come: a larger c
    lowers the temperature. ``metric="curvature"`` is the textbook ball of curvature
    -c, embeddings and prototypes being tangent vectors at its origin.

    Reference: Fang and He, "H-Softmax and HAM-Softmax", arXiv 2601.19709.

    Arguments
    ---------
    input_size : int
        Size of the embeddings, D.
    out_neurons : int
        Number of classes, C.
    curvature : float
        c; more than 1 for the unit metric, more than 0 for the other. Default 5.
    metric : str
        ``"unit"`` (default) or ``"curvature"``.
    clip_norm : float, optional
        Longest embedding for the textbook metric (feature clipping, Guo et al. 2022).
    learnable : bool
        Whether c is learned (textbook metric only). Default False.

    Raises
    ------
    ValueError
        For settings that make no sense, saying which.

    Example
    -------
    >>> classify = PoincareClassifier(input_size=4, out_neurons=3, curvature=3.0)
    >>> scores = classify(torch.randn(2, 1, 4))
    >>> scores.shape, bool((scores <= 0).all())
    (torch.Size([2, 1, 3]), True)
    """

    geometry = "poincare"

    def __init__(
        self,
        input_size: int,
        out_neurons: int,
        curvature: float = 5.0,
        metric: str = "unit",
        clip_norm: float | None = None,
        learnable: bool = False,
    ) -> None:
        super().__init__(input_size, out_neurons)
        if metric not in ("unit", "curvature"):
            raise UserError(f"metric '{metric}' is neither 'unit' nor 'curvature'")
        if metric == "unit" and not curvature > 1:
            raise UserError(
                f"curvature is {curvature}: the unit metric clips to radius "
                "1 / sqrt(c) inside the ball of radius 1, so c must be more than 1 "
                "(3 and 5 are usual); metric='curvature' takes any c > 0"
            )
        if not curvature > 0:
            raise UserError(f"curvature is {curvature}: c must be more than 0")
        if metric == "unit" and (learnable or clip_norm is not None):
            raise UserError(
                "learnable and clip_norm belong to metric='curvature'; the unit "
                "metric clips to 1 / sqrt(c) by itself and c is fixed"
            )
        if clip_norm is not None and not clip_norm > 0:
            raise UserError(f"clip_norm is {clip_norm}: it must be more than 0")
        self.metric, self.clip_norm = metric, clip_norm
        self.space = UnitBallSpace(curvature) if metric == "unit" else None
        self._curvature = float(curvature)
        log_c = torch.tensor(math.log(curvature))
        self.log_curvature = nn.Parameter(log_c) if learnable else None
        nn.init.normal_(self.weight, std=1e-3)

    @property
    def curvature(self) -> float | Tensor:
        """c; a tensor when it is learned."""
        if self.log_curvature is not None:
            return self.log_curvature.exp()
        return self._curvature

    def scores(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Negative distances [B, C] of embeddings [B, D]."""
        if self.metric == "unit":
            return super().scores(x, weight, bias)
        return -tangent_matrix(self.clipped(x), weight, curvature=self.curvature)

    def clipped(self, x: Tensor) -> Tensor:
        """Embeddings after feature clipping (textbook metric)."""
        return x if self.clip_norm is None else clip(x, radius=self.clip_norm)

    def extra_repr(self) -> str:
        """The settings, for print."""
        c = float(torch.as_tensor(self.curvature).detach())
        return f"{super().extra_repr()}, curvature={c:g}, metric={self.metric}"


class CentreClassifier(Classifier):
    """``-|x - c_j|^2 / 2`` to one learned centre per class, for the centre loss.

    Reference: Wen et al., ECCV 2016. There centres follow the embeddings by a rule and
    a rate of their own; here they are parameters like all others.

    Arguments
    ---------
    input_size : int
        Size of the embeddings, D.
    out_neurons : int
        Number of classes, C.

    Example
    -------
    >>> classify = CentreClassifier(input_size=4, out_neurons=3)
    >>> classify(classify.weight).argmax(-1).flatten()
    tensor([0, 1, 2])
    """

    geometry = "centres"

    def __init__(self, input_size: int, out_neurons: int) -> None:
        super().__init__(input_size, out_neurons)
        nn.init.xavier_uniform_(self.weight)

    def scores(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Minus half the squared distances, [B, C]."""
        norms = x.square().sum(1, keepdim=True) + weight.square().sum(1)
        return exact_product(x, weight) - norms / 2

    def with_labels(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, None]:
        """The targets' scores [B, 1], which column that is, and nobody is right."""
        apart = x - upcast(self.weight)[labels]
        scores = -apart.square().sum(1, keepdim=True) / 2
        return scores, torch.zeros_like(labels), None


class JointClassifier(nn.Module):
    """Several geometries over one embedding, for a joint loss.

    The decision is the first one's: SpeechBrain's error metrics look at the first
    "frame" of the output.

    Arguments
    ---------
    classifiers : sequence of Classifier
        All of the same sizes.

    Raises
    ------
    ValueError
        When there is none, or their sizes differ.

    Example
    -------
    >>> parts = [CosineClassifier(4, 3), PoincareClassifier(4, 3, curvature=3.0)]
    >>> JointClassifier(parts)(torch.randn(2, 1, 4)).shape
    torch.Size([2, 2, 3])
    """

    geometry = "joint"

    def __init__(self, classifiers: Sequence[Classifier]) -> None:
        super().__init__()
        sizes = {(c.input_size, c.out_neurons) for c in classifiers}
        if len(sizes) != 1:
            raise UserError(
                "a JointClassifier wants one or more classifiers of the same "
                f"input_size and out_neurons, not {sorted(sizes)}"
            )
        self.classifiers = nn.ModuleList(classifiers)
        self.input_size, self.out_neurons = sizes.pop()

    def forward(self, x: Tensor) -> Tensor:
        """Scores [B, number of classifiers, C] of embeddings [B, D] or [B, 1, D]."""
        x = upcast(x)  # once: gradients of the parts add in float32
        return mark_origin(torch.cat([c(x) for c in self.classifiers], 1), self)
