"""A training head: embeddings and labels in, loss out."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from sb_margins import functional as fn
from sb_margins.errors import UserError
from sb_margins.labels import InputCheck, as_labels
from sb_margins.nontargets import Kept
from sb_margins.pairing import check_pair
from sb_margins.precision import island, on_cpu
from sb_margins.tiled import Plan, tiled_kept

TILE_NUMBERS = 1 << 19  # in a tile on a CPU, at most: 2 MiB
BUFFERS = 0.25  # of a [B, C], at most, in the buffers of a tile on a CPU
GPU_TILE = 1 << 16  # classes
ROOM = 128 << 20  # bytes that are always worth keeping instead of computing twice


@cache
def cache_bytes(device: str) -> int:
    """Size of the last-level cache of a device, or a usual one.

    Arguments
    ---------
    device : str
        ``"cpu"`` or ``"cuda:0"``.

    Returns
    -------
    int
        Bytes.

    Example
    -------
    >>> cache_bytes("cpu") > 0
    True
    """
    usual = 32 << 20
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        return int(getattr(properties, "L2_cache_size", usual)) or usual
    try:
        return os.sysconf("SC_LEVEL3_CACHE_SIZE") or usual
    except (ValueError, OSError, AttributeError):
        return usual


class Head(nn.Module):
    """A classifier and a loss, evaluated in tiles of classes.

    Gives what ``loss(classifier(x), y)`` gives, to rounding, for less: one [B, C] is
    kept and reused in place, or none at all. Linear, cosine and unit-metric Poincaré
    classifiers are tiled; sub-centres, the textbook ball and the inter-top-K penalty
    go through the dense evaluator. After a call with targets, ``correct`` says which
    samples the arg-max (without margin; ties are wrong) gets right, and ``stats``
    holds detached scalars on the device: ``target_score``, ``hardest_score`` (the best
    non-target's), and for losses that drop classes ``zero_loss`` (share of samples with
    none left) and ``kept``.

    Arguments
    ---------
    classifier : Classifier or JointClassifier
        Holds every parameter.
    loss : MarginLoss or JointLoss
        Holds none; its ``margin``, ``scale``, ``delta`` are read at each call.
    store : bool or str
        Keep one [B, C] (True), recompute it in backward (False: one more product, no
        memory), or ``"auto"`` (default): keep it while it fits ``budget``.
    budget : int, optional
        Bytes. Default: the device's last-level cache, or 128 MiB when that is more.

    Raises
    ------
    ValueError
        When the loss makes no sense on the classifier, naming both.

    Example
    -------
    >>> from sb_margins.classifiers import CosineClassifier
    >>> from sb_margins.losses import AAMSoftmax
    >>> head = Head(CosineClassifier(input_size=8, out_neurons=4), AAMSoftmax())
    >>> head(torch.randn(3, 8), torch.tensor([0, 3, 1])).shape
    torch.Size([])
    >>> head(torch.randn(3, 8)).shape, head.correct.dtype
    (torch.Size([3, 1, 4]), torch.bool)
    """

    def __init__(
        self,
        classifier: Any,
        loss: Any,
        store: bool | str = "auto",
        budget: int | None = None,
    ) -> None:
        super().__init__()
        check_pair(classifier, loss)
        if store not in (True, False, "auto"):
            raise UserError(f"store is {store!r}: it is True, False or 'auto'")
        self.classifier, self.loss = classifier, loss
        self.store, self.budget = store, budget
        self.tile: int | None = None  # classes per tile; chosen when None
        self.correct: Tensor | None = None
        self.stats: dict[str, Tensor] = {}
        self.check = InputCheck()
        self._parts: tuple[Head, ...] = ()  # a tuple: their parameters are ours already
        if classifier.geometry == "joint":
            pairs = zip(classifier.classifiers, loss.losses, strict=True)
            self._parts = tuple(Head(c, one, store, budget) for c, one in pairs)

    def forward(
        self,
        embeddings: Tensor,
        targets: Tensor | None = None,
        reduction: str = "mean",
    ) -> Tensor:
        """The loss of a batch, or its scores when there are no targets.

        Arguments
        ---------
        embeddings : torch.Tensor
            [B, D] or [B, 1, D], any floating dtype.
        targets : torch.Tensor, optional
            Class numbers, [B] or [B, 1].
        reduction : str
            ``"mean"`` (default), ``"sum"``, ``"none"`` or ``"batch"``.

        Returns
        -------
        torch.Tensor
            float32: a scalar (or [B]); without targets, scores [B, 1, C].

        Raises
        ------
        ValueError
            For labels out of range, an empty batch, embeddings that are not finite
            (on a GPU by a later call, so that nothing waits).
        """
        if targets is None:
            return self.classifier(embeddings)
        if self._parts:
            losses = [p(embeddings, targets, reduction) for p in self._parts]
            self.correct = self._parts[0].correct
            total = self.loss.combine(losses)
            self.stats = self.loss.stats
            return total
        with island(embeddings.device):
            x, weight, bias = self.classifier.inputs(embeddings)
            classes = self.classifier.out_neurons
            labels = self.check.labels(as_labels(targets, len(x)), classes)
            self.check.values(x)
            if self.classifier.tiles is None or self.loss.top_k:
                kept = self._dense(x, weight, bias, labels)
            else:
                plan = self._plan(len(x), x)
                kept = tiled_kept(x, weight, bias, labels, plan)
                right = kept.target * self.loss.scale > kept.best
                self.correct = right.detach()
            losses = self.loss.from_kept(kept, classes)
            self.stats = self.loss.stats
            return fn.reduce(losses, reduction)

    def _dense(self, x: Tensor, weight: Tensor, bias: Any, labels: Tensor) -> Kept:
        scores = self.classifier.scores(x, weight, bias)
        with torch.no_grad():
            own = scores.gather(1, labels[:, None])
            self.correct = (scores >= own).sum(1) == 1
        return self.loss.dense(scores, labels)

    def _plan(self, batch: int, x: Tensor) -> Plan:
        classes = self.classifier.out_neurons
        store = self.store
        if store == "auto":
            limit = self.budget
            if limit is None:
                limit = max(ROOM, cache_bytes(str(x.device)))
            store = batch * classes * x.element_size() <= limit
        tile = self.tile or GPU_TILE
        if on_cpu(x.device) and self.tile is None:
            size, spare = x.shape[1], batch * self.classifier.tiles.spare
            size += max(size, spare) if store else size + batch + spare
            most = (TILE_NUMBERS if store else TILE_NUMBERS // 4) // batch
            tile = min(most, int(BUFFERS * batch * classes / size))
            tile = max(256, tile // 64 * 64)
        return Plan(
            self.classifier.tiles,
            self.classifier.options(),
            self.loss.scale,
            self.loss.keep(),
            self.loss.target,
            min(tile, classes),
            bool(store),
        )
