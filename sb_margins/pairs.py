"""In place of a classifier: the speakers of a batch are compared with each other.

Both have no classes, so a head with them needs the labels to give anything, and several
utterances of each speaker in a batch, ``utterances_per_speaker``: `sb-margins train`
draws its batches accordingly.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sb_margins.errors import UserError
from sb_margins.labels import as_embeddings, mark_origin
from sb_margins.precision import normalize, upcast


class BatchEmbeddings(nn.Module):
    """The embeddings as they are, for :class:`~sb_margins.losses.MetricLearningLoss`.

    Arguments
    ---------
    input_size : int
        Size of the embeddings, D.
    out_neurons : int
        Number of training speakers; labels are below it.
    utterances_per_speaker : int
        How many a batch should have of each of its speakers, 2 or more. Default 4.

    Raises
    ------
    ValueError
        For fewer than 2 utterances.

    Example
    -------
    >>> BatchEmbeddings(input_size=4, out_neurons=3)(torch.zeros(2, 4)).shape
    torch.Size([2, 1, 4])
    """

    geometry = "embeddings"

    def __init__(
        self, input_size: int, out_neurons: int, utterances_per_speaker: int = 4
    ) -> None:
        super().__init__()
        if utterances_per_speaker < 2:
            raise UserError(
                f"utterances_per_speaker is {utterances_per_speaker}: pairs of one "
                "speaker need 2 or more"
            )
        self.input_size, self.out_neurons = input_size, out_neurons
        self.utterances_per_speaker = int(utterances_per_speaker)
        # of a checkpoint without any number SpeechBrain warns
        self.register_buffer("each", torch.tensor(self.utterances_per_speaker))

    def inputs(self, x: Tensor) -> tuple[Tensor, None, None]:
        """Embeddings [B, D] in float32 (float64 when they are); no weight, no bias."""
        return upcast(as_embeddings(x, self.input_size)), None, None

    def with_labels(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The embeddings, their labels, and whether the nearest other shares them."""
        with torch.no_grad():
            unit = normalize(x)
            near = (unit @ unit.t()).fill_diagonal_(-2).argmax(1)
            correct = labels.gather(0, near) == labels
        return x, labels, correct

    def forward(self, x: Tensor) -> Tensor:
        """Embeddings [B, 1, D], marked, of [B, D] or [B, 1, D]."""
        return mark_origin(self.inputs(x)[0].unsqueeze(1), self)


class BatchPrototypes(BatchEmbeddings):
    """Scores ``w cos`` between utterances and speakers, both of the batch.

    A speaker is the mean of its utterances in the batch. ``leave_one_out`` (GE2E):
    every utterance is compared with all speakers, its own without itself, and
    embeddings are of length 1. Otherwise (angular prototypical): the first utterance
    of each speaker is compared with the means of the others. With
    :class:`~sb_margins.losses.Softmax` they are those losses; the papers' bias b is
    the same for all classes, so that no softmax sees it, and there is none.

    Reference: Wan et al., "Generalized end-to-end loss", ICASSP 2018, arXiv 1710.10467
    (softmax form); Chung et al., "In defence of metric learning", Interspeech 2020,
    arXiv 2003.11982.

    Arguments
    ---------
    input_size : int
        Size of the embeddings, D.
    out_neurons : int
        Number of training speakers; labels are below it.
    utterances_per_speaker : int
        How many a batch should have of each of its speakers. Default 2.
    leave_one_out : bool
        GE2E; else angular prototypical. Default False.
    initial_scale : float
        w at first; it is learned. Default 10.

    Example
    -------
    >>> classify = BatchPrototypes(input_size=2, out_neurons=9)
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 1.0]])
    >>> scores, targets, _ = classify.with_labels(x, torch.tensor([3, 5, 3, 5]))
    >>> scores, targets
    (tensor([[10.,  0.],
            [ 0., 10.]], grad_fn=<MulBackward0>), tensor([0, 1]))
    """

    geometry = "linear"

    def __init__(
        self,
        input_size: int,
        out_neurons: int,
        utterances_per_speaker: int = 2,
        leave_one_out: bool = False,
        initial_scale: float = 10.0,
    ) -> None:
        super().__init__(input_size, out_neurons, utterances_per_speaker)
        self.leave_one_out = leave_one_out
        self.scale = nn.Parameter(torch.tensor(float(initial_scale)))

    def with_labels(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores [N, speakers of the batch], the right columns [N], and who is right.

        A batch of one speaker has no loss. Raises UserError when a speaker has a single
        utterance.
        """
        speakers, targets = labels.unique(return_inverse=True)
        hot = F.one_hot(targets, len(speakers))
        if int(hot.sum(0).amin()) < 2:
            raise UserError(
                "a speaker has only one utterance in the batch, and must have 2 or "
                "more; sb_margins.training.crops.SpeakerSampler draws such batches"
            )
        hot = hot.to(x.dtype)
        if self.leave_one_out:
            x = normalize(x)
        sums = hot.t() @ x
        others = sums[targets] - x  # of each utterance's speaker, without itself
        if self.leave_one_out:
            cosines = x @ normalize(sums).t()
            own = (x * normalize(others)).sum(1, keepdim=True)
            cosines = torch.where(hot > 0, own, cosines)
        else:
            first = hot.argmax(0)
            cosines = normalize(x[first]) @ normalize(others[first]).t()
            targets = torch.arange(len(speakers), device=x.device)
        correct = cosines.detach().argmax(1) == targets
        scores = cosines * self.scale.clamp_min(1e-6)
        if len(speakers) < 2:  # nobody to be told apart from
            scores = F.pad(scores, (0, 1), value=-1e4)
        return scores, targets, correct

    def forward(self, x: Tensor) -> Tensor:
        """Refused: without labels there are no prototypes."""
        raise UserError(
            "BatchPrototypes has no scores without labels: use it in sb_margins.Head"
        )
