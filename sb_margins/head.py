"""A training head: embeddings and labels in, loss out."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

from sb_margins import functional as fn
from sb_margins.errors import UserError
from sb_margins.heads.walk import Plan, tiled_kept
from sb_margins.labels import InputCheck, as_labels
from sb_margins.losses.base import MarginLoss
from sb_margins.losses.nontargets import Kept
from sb_margins.losses.pairing import check_pair
from sb_margins.precision import full_precision, upcast
from sb_margins.ranks import ALONE, Ranks, spread
from sb_margins.tiles import class_ranges

WORTH_STORING = 128 << 20  # bytes that are always kept instead of computed twice


def storage_budget(device: torch.device) -> int:
    """Bytes up to which keeping a [B, C] is better than computing it twice.

    On a CPU the last-level cache, on a GPU a sixteenth of its memory.
    """
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory // 16
    else:
        try:
            memory = os.sysconf("SC_LEVEL3_CACHE_SIZE")
        except (ValueError, OSError, AttributeError):  # not on this system
            memory = 0
    return max(WORTH_STORING, memory)


class Head(nn.Module):
    """A classifier and a loss, evaluated in tiles of classes.

    Gives what ``loss(classifier(x), y)`` gives, to rounding, for less: one [B, C] is
    kept and reused in place, or none at all. Linear, cosine and unit-metric Poincaré
    classifiers are tiled; sub-centres, the textbook ball, the inter-top-K penalty and
    several labels per sample go through the dense evaluator. Losses without classes
    compare the batch with itself (:mod:`sb_margins.pairs`). After a call with targets,
    ``correct`` says which samples the arg-max (without margin; ties are wrong) gets
    right, and ``stats`` holds detached scalars on the device: ``target_score``,
    ``hardest_score`` (the best non-target's), and for losses that drop classes
    ``zero_loss`` (share of samples with none left) and ``kept``.

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
        Bytes. Default: the last-level cache of a CPU or a sixteenth of a GPU's memory,
        or 128 MiB when that is more.
    tile : int, optional
        Classes per tile. Default: chosen for the cache.

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
        tile: int | None = None,
    ) -> None:
        super().__init__()
        check_pair(classifier, loss)
        if store not in (True, False, "auto"):
            raise UserError(f"store is {store!r}: it is True, False or 'auto'")
        self.classifier, self.loss = classifier, loss
        self.store, self.budget, self.tile = store, budget, tile
        self.correct: Tensor | None = None
        self.stats: dict[str, Tensor] = {}
        self.check = InputCheck()
        self.ranks: Ranks = ALONE  # that hold other classes
        self._parts: tuple[Head, ...] = ()  # a tuple: their parameters are ours already
        if classifier.geometry == "joint":
            pairs = zip(classifier.classifiers, loss.losses, strict=True)
            self._parts = tuple(Head(c, one, store, budget, tile) for c, one in pairs)

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
            Class numbers, [B] or [B, 1]; with a multi-label loss also 0/1, [B, C].
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
            if self.ranks.size > 1:
                raise UserError("a head whose classes are spread gives no scores")
            return self.classifier(embeddings)
        if self._parts:
            x = upcast(embeddings)  # once: gradients of the parts add in float32
            losses = [part(x, targets, reduction) for part in self._parts]
            self.correct = self._parts[0].correct
            total = self.loss.combine(losses)
            self.stats = self.loss.stats
            return total
        if getattr(self.loss, "multi_label", False):
            return self._many_labels(embeddings, targets, reduction)
        x, weight, bias = self.classifier.inputs(embeddings)
        classes = self.classifier.out_neurons
        with full_precision(x.device):
            labels = self.check.labels(as_labels(targets, len(x)), classes)
            self.check.values(x)
            if hasattr(self.classifier, "with_labels"):
                outputs, labels, self.correct = self.classifier.with_labels(x, labels)
                value = self.loss(outputs, labels, reduction=reduction)
                self.stats = self.loss.stats
                return value
            x, labels = self.ranks.batch(x, labels)
            if self.classifier.space is None or self.loss.top_k:
                kept = self._dense(x, weight, bias, labels)
            else:
                kept = self._tiled(x, weight, bias, labels)
            losses = self.loss.per_sample(kept, classes)
            self.stats = self.loss.stats
            return fn.reduce(losses, reduction)

    def spread(self) -> None:
        """Keep this process's share of the classes, C / W of W processes'.

        To be called by all processes of a ``torch.distributed`` group, each with the
        same head, before there is an optimizer; a group of one changes nothing. From
        then on a call takes the process's own batch, as large as the others', and gives
        its loss, against all classes. Parameters get the gradients of the mean loss
        over the processes, and embeddings W times theirs, as DDP averages an encoder's:
        the head itself must not be wrapped by DDP. ``load_state_dict`` takes whole
        weights, as before.

        Raises
        ------
        UserError
            For heads without class weights to spread, several labels per sample, or
            more processes than classes.

        Example
        -------
        >>> torch.distributed.init_process_group("nccl")  # doctest: +SKIP
        >>> head.spread()  # doctest: +SKIP
        """
        self.check_spread()
        if torch.distributed.get_world_size() == 1:
            return
        for part in self._parts or (self,):
            part.ranks = spread(part.classifier, part.classifier.out_neurons)
            self.ranks = part.ranks

    def check_spread(self) -> None:
        """Refuse what cannot be spread over processes."""
        for part in self._parts or (self,):
            loss, classifier = part.loss, part.classifier
            if hasattr(classifier, "with_labels") or not isinstance(loss, MarginLoss):
                what = "has no class weights that could be spread over processes"
            elif getattr(loss, "multi_label", False):
                what = "wants several labels per sample, which is not spread"
            else:
                continue
            pair = f"{type(loss).__name__} on {type(classifier).__name__}"
            raise UserError(f"class_parallel: {pair} {what}; leave class_parallel out")

    def flush(self) -> None:
        """Raise for earlier batches on an accelerator, if any was bad; waits for it."""
        for part in (self, *self._parts):
            part.check.flush()

    def _many_labels(
        self, embeddings: Tensor, targets: Tensor, reduction: str
    ) -> Tensor:
        """A sample is right when its best class is one of its own."""
        scores = self.classifier(embeddings)
        value = self.loss(scores, targets, reduction=reduction)
        scores = scores.detach().squeeze(1)
        best = scores.argmax(1, keepdim=True)
        positive = self.loss.positive(scores, targets)
        self.correct = positive.gather(1, best).squeeze(1)
        self.stats = self.loss.stats
        return value

    def _dense(self, x: Tensor, weight: Tensor, bias: Any, labels: Tensor) -> Kept:
        scores = self.classifier.scores(x, weight, bias)
        kept = self.loss.dense(scores, labels, self.ranks)
        with torch.no_grad():
            target = self.ranks.gather(kept.target)[:, None]
            as_high = self.ranks.sum((scores >= target).sum(1))
            self.correct = self.ranks.own(as_high) == 1
        return kept

    def _tiled(self, x: Tensor, weight: Tensor, bias: Any, labels: Tensor) -> Kept:
        space, classes, store = self.classifier.space, len(weight), self.store
        if store == "auto":
            budget = storage_budget(x.device) if self.budget is None else self.budget
            store = len(x) * classes * x.element_size() <= budget
        loss, store = self.loss, bool(store)
        batch, size = x.shape
        ranges = class_ranges(
            batch, size, classes, x.device, store, space.slopes, self.tile
        )
        plan = Plan(space, loss.scale, loss.keep(), ranges, store, self.ranks)
        kept = tiled_kept(x, weight, bias, labels, plan, loss.target)
        self.correct = (kept.target * loss.scale > kept.best).detach()
        return kept
