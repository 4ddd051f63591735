"""ResNet with temporal statistics pooling: the "ResNet34" of the papers.

Plain basic blocks (He et al. 2016, https://arxiv.org/abs/1512.03385) on a map of
frequency and time, without squeeze-and-excitation; mean and standard deviation over
time; one linear layer. With the defaults it is wespeaker's ResNet34-TSTP-emb256: 6.63
million parameters. SpeechBrain's ``ResNet`` is another network: it squeezes and
excites, and pools attentively.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["ResNetTSP", "statistics_pooling"]

# Inside the square root of a variance: its gradient stays below 1600 on silence.
VARIANCE_FLOOR = 1e-7


def statistics_pooling(x: Tensor, frames: Tensor | None = None) -> Tensor:
    """Mean and standard deviation over time.

        mean = 1/T sum_t x_t,   std = sqrt(sum_t (x_t - mean)^2 / max(T - 1, 1) + 1e-7)

    Snyder et al. 2018, https://doi.org/10.1109/ICASSP.2018.8461375; the floor is
    wespeaker's. A single frame has the standard deviation sqrt(1e-7).

    Arguments
    ---------
    x : torch.Tensor
        [..., T] of any floating dtype; half precision is pooled in float32.
    frames : torch.Tensor, optional
        [..., 1] the number of leading frames that count, at least 1; all by default.

    Returns
    -------
    torch.Tensor
        [..., 2]: mean and standard deviation.

    Example
    -------
    >>> statistics_pooling(torch.tensor([[1.0, 3.0, 9.0]]), torch.tensor([[2]]))
    tensor([[2.0000, 1.4142]])
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if frames is None:
        frames = torch.full_like(x[..., :1], x.shape[-1])
        counted = torch.ones_like(x[..., :1])
    else:
        counted = (torch.arange(x.shape[-1], device=x.device) < frames).to(x.dtype)
    mean = (x * counted).sum(-1, keepdim=True) / frames
    squares = ((x - mean).square() * counted).sum(-1, keepdim=True)
    std = (squares / (frames - 1).clamp(min=1) + VARIANCE_FLOOR).sqrt()
    return torch.cat([mean, std], -1)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a way around them, as in ResNet34.

    [B, in_channels, F, T] to [B, out_channels, F / stride, T / stride], rounded up.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = _conv3x3(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = _conv3x3(out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut.append(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            )
            self.shortcut.append(nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``mask`` [B, 1, 1, T / stride] is 0 on padding, which stays 0."""
        out = _masked(torch.relu(self.bn1(self.conv1(x))), mask)
        out = self.bn2(self.conv2(out)) + self.shortcut(x)
        return _masked(torch.relu(out), mask)


class ResNetTSP(nn.Module):
    """ResNet with temporal statistics pooling, without squeeze-and-excitation.

    Arguments
    ---------
    input_size : int
        Features of a frame.
    channels : sequence of int
        Of the four stages; the last three halve frequency and time.
    block_sizes : sequence of int
        Basic blocks of each stage; (3, 4, 6, 3) is ResNet34.
    lin_neurons : int
        Size of the embedding.

    Example
    -------
    >>> network = ResNetTSP(input_size=40, channels=(4, 8, 8, 8), lin_neurons=16)
    >>> network(torch.randn(2, 100, 40)).shape
    torch.Size([2, 16])
    >>> sum(p.numel() for p in ResNetTSP().parameters())
    6634336
    """

    def __init__(
        self,
        input_size: int = 80,
        channels: Sequence[int] = (32, 64, 128, 256),
        block_sizes: Sequence[int] = (3, 4, 6, 3),
        lin_neurons: int = 256,
    ) -> None:
        super().__init__()
        self.conv1 = _conv3x3(1, channels[0])
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.blocks = nn.ModuleList()
        self.strides: list[int] = []
        size, before = input_size, channels[0]
        stages = zip(channels, block_sizes, strict=True)
        for stage, (width, count) in enumerate(stages):
            for number in range(count):
                stride = 2 if stage and not number else 1
                self.blocks.append(BasicBlock(before, width, stride))
                self.strides.append(stride)
                size, before = -(-size // stride), width
        self.embed = nn.Linear(2 * before * size, lin_neurons)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Features [B, T, input_size] to embeddings [B, lin_neurons].

        ``lengths`` [B], relative to the longest, as SpeechBrain has them: what lies
        behind is not looked at, so that a padded batch gives (in evaluation mode) what
        its utterances give alone. All frames by default.
        """
        out = x.transpose(1, 2).unsqueeze(1)
        frames = mask = None
        if lengths is not None:
            frames = (lengths * x.shape[1]).round().clamp(min=1)
            mask = _mask(out, frames)
        out = torch.relu(self.bn1(self.conv1(_masked(out, mask))))
        out = _masked(out, mask)
        for block, stride in zip(self.blocks, self.strides, strict=True):
            if frames is not None and stride > 1:
                frames = (frames / stride).ceil()
                mask = _mask(out[..., ::stride], frames)
            out = block(out, mask)
        if frames is not None:
            frames = frames[:, None, None, None]
        pooled = statistics_pooling(out, frames)  # [B, C, F, 2]
        return self.embed(pooled.movedim(-1, 1).flatten(1))


def _conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """Keeps frequency and time, or divides them by the stride."""
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)


def _mask(x: Tensor, frames: Tensor) -> Tensor:
    """[B, 1, 1, T] in the type of ``x``: 1 on the first ``frames`` [B], else 0."""
    positions = torch.arange(x.shape[-1], device=x.device)
    return (positions < frames[:, None]).to(x.dtype)[:, None, None]


def _masked(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else x * mask
