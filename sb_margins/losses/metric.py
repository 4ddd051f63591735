"""Losses of pytorch-metric-learning by name: pairs, triplets, proxies."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from sb_margins.errors import UserError, nearest
from sb_margins.labels import as_labels, as_rows
from sb_margins.losses.pairing import check_scores
from sb_margins.precision import full_precision, upcast

MISSING = (
    "metric learning losses are those of pytorch-metric-learning, which is not "
    "installed: pip install 'sb-margins[metric]', or pip install "
    "pytorch-metric-learning"
)


def _library(part: str) -> Any:
    try:
        import pytorch_metric_learning.distances
        import pytorch_metric_learning.losses
        import pytorch_metric_learning.miners
        import pytorch_metric_learning.reducers  # noqa: F401
    except ImportError as error:
        raise UserError(MISSING) from error
    return getattr(pytorch_metric_learning, part)


def _build(part: str, name: str, options: Mapping[str, Any]) -> Any:
    """An object of the library's ``part`` (losses, miners, ...) by its class's name."""
    found = vars(_library(part))
    classes = {key: value for key, value in found.items() if isinstance(value, type)}
    if name not in classes:
        raise UserError(
            f"pytorch-metric-learning has no {name} among its {part}."
            f"{nearest(name, classes)}"
        )
    given = dict(options)
    for key in ("distance", "reducer"):
        if isinstance(given.get(key), str):
            given[key] = _build(f"{key}s", given[key], {})
    try:
        return classes[name](**given)
    except (TypeError, ValueError, KeyError, AssertionError) as error:
        raise UserError(f"pytorch-metric-learning's {name}: {error}") from error


class MetricLearningLoss(nn.Module):
    """Any loss and miner of pytorch-metric-learning, on embeddings.

    They compare the embeddings of a batch with each other, or with proxies that they
    own; so the classifier is :class:`~sb_margins.pairs.BatchEmbeddings`, and a batch
    should have several utterances of each speaker.

    Reference: Musgrave et al., "PyTorch Metric Learning", 2020, arXiv 2008.09164.

    Arguments
    ---------
    name : str
        The class in ``pytorch_metric_learning.losses``. Default "TripletMarginLoss".
    options : mapping, optional
        Its arguments; ``distance`` and ``reducer`` may be names of classes.
    miner : str, optional
        The class in ``pytorch_metric_learning.miners``. Default none.
    miner_options : mapping, optional
        Its arguments.
    input_size, out_neurons : int, optional
        Sizes of embeddings and number of speakers, for losses with proxies.

    Raises
    ------
    ValueError
        When the library is not installed, or has no such loss, miner or argument.

    Example
    -------
    >>> import torch
    >>> loss = MetricLearningLoss("ContrastiveLoss", {"neg_margin": 0.5})
    >>> loss(torch.eye(4)[:3], torch.tensor([0, 0, 1]))
    tensor(1.4142)
    """

    accepts = ("embeddings",)

    def __init__(
        self,
        name: str = "TripletMarginLoss",
        options: Mapping[str, Any] | None = None,
        miner: str | None = None,
        miner_options: Mapping[str, Any] | None = None,
        input_size: int | None = None,
        out_neurons: int | None = None,
    ) -> None:
        super().__init__()
        given = dict(options or {})
        classes = inspect.getmro(getattr(_library("losses"), name, object))
        wanted = {p for c in classes for p in inspect.signature(c).parameters}
        sizes = dict.fromkeys(("embedding_size", "descriptors_dim", "l"), input_size)
        for key, size in {**sizes, "num_classes": out_neurons}.items():
            if size is not None and key in wanted:
                given.setdefault(key, size)
        self.loss = _build("losses", name, given)
        self.miner = _build("miners", miner, miner_options or {}) if miner else None
        self.stats: dict[str, Tensor] = {}

    def forward(
        self,
        outputs: Tensor,
        targets: Tensor,
        length: Tensor | None = None,
        reduction: str = "mean",
    ) -> Tensor:
        """The loss of embeddings [B, 1, D] or [B, D] with class numbers [B] or [B, 1].

        A scalar: the library's reducer makes it, so ``reduction`` must be ``"mean"``.
        """
        check_scores(self, outputs)
        if reduction != "mean":
            raise UserError(
                f"reduction '{reduction}': {type(self.loss).__name__} gives one number "
                "for a batch; choose its reducer with options"
            )
        x = upcast(as_rows(outputs, "embeddings"))
        labels = as_labels(targets, len(x))
        with full_precision(x.device):
            mined = None if self.miner is None else self.miner(x, labels)
            return self.loss(x, labels, mined)
