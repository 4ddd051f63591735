"""SpeechBrain's augmentations, one for each example, without waits for a GPU.

What is random about places and files is drawn on the CPU, filters are designed there,
and audio is read there by threads, for the next step too; the device gets indices,
filters and noise without a wait, and does the arithmetic.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from speechbrain.augment.time_domain import AddNoise, DropFreq
from speechbrain.processing.signal_processing import (
    compute_amplitude,
    convolve1d,
    notch_filter,
    rescale,
)
from torch import Tensor, nn

from sb_margins.audio import SAMPLE_RATE, load_audio
from sb_margins.errors import UserError
from sb_margins.precision import on_cpu, to_device

READERS = 4  # threads

Piece = tuple[int, int, int]  # number of a file, first sample, samples


class AudioFiles:
    """The audio files of a folder; threads read pieces of them ahead of their use."""

    def __init__(self, folder: str | Path, what: str):
        root = Path(folder)
        if not root.is_dir():
            raise UserError(
                f"no such {what} folder: {root}. Correct it, or leave it null"
            )
        names = {f".{name.lower()}" for name in soundfile.available_formats()}
        self.paths = sorted(p for p in root.rglob("*") if p.suffix.lower() in names)
        if not self.paths:
            raise UserError(f"the {what} folder {root} holds no audio files")
        self.frames = []
        for path in self.paths:
            info = soundfile.info(path)
            if info.samplerate != SAMPLE_RATE:
                raise UserError(
                    f"{path} has {info.samplerate} Hz; the {what} files are mixed as "
                    f"they are, so resample them to {SAMPLE_RATE} Hz first"
                )
            self.frames.append(info.frames)
        self._pool: ThreadPoolExecutor | None = None
        self._coming: dict[Piece, Future] = {}

    def draw(
        self, count: int, samples: int, generator: torch.Generator | None = None
    ) -> list[Piece]:
        """Pieces of random files, from random places of those that are longer."""
        numbers = torch.randint(len(self.paths), (count,), generator=generator)
        places = torch.rand(count, dtype=torch.float64, generator=generator)
        pieces = []
        for number, place in zip(numbers.tolist(), places.tolist(), strict=True):
            spare = max(0, self.frames[number] - samples)
            pieces.append((number, int(place * (spare + 1)), samples))
        return pieces

    def ahead(self, pieces: Sequence[Piece]) -> None:
        """Begin to read what `read` will be asked for."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(READERS)
        self._coming = {piece: self._pool.submit(self._read, piece) for piece in pieces}

    def read(self, pieces: Sequence[Piece]) -> list[np.ndarray]:
        """The samples of each piece; fewer where a file is shorter."""
        if not self._coming.keys() >= set(pieces):
            self.ahead(pieces)
        coming, self._coming = self._coming, {}
        return [coming[piece].result() for piece in pieces]

    def _read(self, piece: Piece) -> np.ndarray:
        number, start, samples = piece
        seconds = samples / SAMPLE_RATE
        return load_audio(
            self.paths[number], start=start / SAMPLE_RATE, seconds=seconds
        )[:samples]


class NoiseFiles(AddNoise):
    """SpeechBrain's ``AddNoise`` with a piece of a file for each example.

    Files shorter than the speech are repeated. ``pieces`` are set before each use.
    """

    def __init__(self, files: AudioFiles, **options: Any):
        super().__init__(csv_file="unused", **options)
        self.files = files
        self.pieces: list[Piece] = []

    def draw(
        self, count: int, samples: int, generator: torch.Generator | None
    ) -> list[Piece]:
        """One for each of ``count`` examples of so many samples."""
        return self.files.draw(count, samples, generator)

    def _load_noise(self, lengths: Tensor, max_length: int) -> tuple[Tensor, Tensor]:
        wavs = [np.resize(wav, max_length) for wav in self.files.read(self.pieces)]
        noise = to_device(torch.from_numpy(np.stack(wavs)), lengths.device)
        return noise, lengths.new_full((len(noise), 1), max_length)


class Reverb(nn.Module):
    """SpeechBrain's ``reverberate``: one room of a folder for all examples.

    The direct sound is looked for on the CPU. ``pieces`` are set before each use.
    """

    def __init__(self, files: AudioFiles):
        super().__init__()
        self.files = files
        self.pieces: list[Piece] = []

    def draw(
        self, count: int, samples: int, generator: torch.Generator | None
    ) -> list[Piece]:
        """The room from its first sample on, as long as the speech at most."""
        ((number, _, _),) = self.files.draw(1, 0, generator)
        return [(number, 0, samples)]

    def forward(self, wavs: Tensor) -> Tensor:
        """[B, T] to [B, T]."""
        (room,) = self.files.read(self.pieces)
        direct = int(np.abs(room).argmax())
        kernel = to_device(torch.from_numpy(room), wavs.device)
        x, length = wavs.unsqueeze(-1), wavs.shape[1]
        amplitude = compute_amplitude(x, length, "avg")
        out = convolve1d(x, kernel[None, :, None], use_fft=True, rotation_index=direct)
        return rescale(out, length, amplitude, "avg").squeeze(-1)


class DropBands(DropFreq):
    """SpeechBrain's ``DropFreq``, its filter designed on the CPU."""

    def forward(self, wavs: Tensor) -> Tensor:
        """[B, T] to [B, T], the same bands dropped in all."""
        low, high = self.drop_freq_count_low, self.drop_freq_count_high
        count = int(torch.randint(low, high + 1, (1,)))
        span = self.drop_freq_high - self.drop_freq_low
        bands = (torch.rand(count) * span + self.drop_freq_low).clamp(min=self.epsilon)
        taps = 101
        kernel = torch.zeros(1, taps, 1)
        kernel[0, taps // 2, 0] = 1
        for band in bands:
            notch = notch_filter(band, taps, self.drop_freq_width)
            kernel = convolve1d(kernel, notch, taps // 2)
        kernel = to_device(kernel, wavs.device)
        return convolve1d(wavs.unsqueeze(-1), kernel, taps // 2).squeeze(-1)


class DropChunks(nn.Module):
    """SpeechBrain's ``DropChunk`` (the same draws) on all examples at once.

    Each loses 1 to ``most`` chunks of ``shortest`` to ``longest`` samples.
    """

    def __init__(self, shortest: int, longest: int, most: int):
        super().__init__()
        self.shortest, self.longest, self.most = shortest, longest, most

    def forward(self, wavs: Tensor) -> Tensor:
        """[B, T] to [B, T] with zeros."""
        out, total = wavs.clone(), wavs.shape[1]
        # a chunk that an example does not have begins and ends after the last sample
        edges = torch.full((2, len(wavs), self.most), total)
        for i, times in enumerate(
            torch.randint(1, self.most + 1, (len(wavs),)).tolist()
        ):
            length = torch.randint(self.shortest, self.longest + 1, (times,))
            last = max(0, total - int(length.max()))
            start = torch.randint(last + 1, (times,))
            edges[0, i, :times] = start
            edges[1, i, :times] = (start + length).clamp(max=total)
        if on_cpu(wavs.device):
            samples = out.numpy()
            for i, (starts, ends) in enumerate(zip(*edges.tolist(), strict=True)):
                for start, end in zip(starts, ends, strict=True):
                    samples[i, start:end] = 0.0
            return out
        starts, ends = to_device(edges, wavs.device)
        steps = torch.zeros(len(wavs), total + 1, device=wavs.device)
        ones = torch.ones(starts.shape, device=wavs.device)
        steps.scatter_add_(1, starts, ones).scatter_add_(1, ends, -ones)
        return out.masked_fill_(steps.cumsum(1)[:, :-1] > 0.5, 0.0)


class MixedAugmenter(nn.Module):
    """Every example of a batch goes through one part, drawn for it alone.

    SpeechBrain's ``Augmenter`` either treats the whole batch alike or multiplies it;
    one part per example costs nothing extra and keeps batches varied.

    ``parts`` keep the length of a waveform; those that take ``lengths`` are given
    them, and those with ``files`` what they ``draw``. ``probability`` is how likely an
    example is augmented at all.
    """

    def __init__(self, parts: list[nn.Module], probability: float = 0.75):
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.takes_lengths = [
            "lengths" in inspect.signature(part.forward).parameters for part in parts
        ]
        self.probability = probability

    def forward(self, wavs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T] waveforms and [B] relative lengths, augmented; lengths stay."""
        chosen, pieces = self._draw(*wavs.shape)
        rows = to_device(torch.cat(chosen), wavs.device)
        out = wavs.clone()
        for number, at in enumerate(rows.split([len(some) for some in chosen])):
            if not len(at):
                continue
            part: Any = self.parts[number]
            if number in pieces:
                part.pieces = pieces[number]
            extra = {"lengths": lengths[at]} if self.takes_lengths[number] else {}
            out[at] = part(wavs[at], **extra)
        return out, lengths

    def read_ahead(self, seed: int, count: int, samples: int) -> None:
        """Begin to read the files of the batch that follows ``torch.manual_seed``."""
        if any(isinstance(part, (NoiseFiles, Reverb)) for part in self.parts):
            generator = torch.Generator().manual_seed(seed)
            for number, some in self._draw(count, samples, generator)[1].items():
                part: Any = self.parts[number]
                part.files.ahead(some)

    def _draw(
        self, count: int, samples: int, generator: torch.Generator | None = None
    ) -> tuple[list[Tensor], dict[int, list[Piece]]]:
        """The rows that go through each part, and the pieces of those with files."""
        choice = torch.randint(len(self.parts), (count,), generator=generator)
        spared = torch.rand(count, generator=generator) >= self.probability
        choice[spared] = -1
        chosen = [(choice == k).nonzero()[:, 0] for k in range(len(self.parts))]
        pieces = {}
        for number, part in enumerate(self.parts):
            rows = len(chosen[number])
            if rows and isinstance(part, (NoiseFiles, Reverb)):
                pieces[number] = part.draw(rows, samples, generator)
        return chosen, pieces


def build_augmenter(
    save_folder: str | None = None,
    noise_folder: str | None = None,
    rir_folder: str | None = None,
    snr_low: float = 0.0,
    snr_high: float = 15.0,
    white_noise: bool = True,
    drop_freq: bool = True,
    drop_chunk: bool = True,
    probability: float = 0.75,
) -> MixedAugmenter | None:
    """SpeechBrain's augmentations that were asked for, one for each example.

    ``noise_folder`` (such as MUSAN) and ``rir_folder`` (room impulse responses) are
    searched in depth for audio files; nothing is ever downloaded. Signal-to-noise
    ratios are in dB. ``save_folder`` is not used (older YAMLs name it). None without a
    part.

    Example
    -------
    >>> augmenter = build_augmenter(drop_chunk=False)
    >>> augmenter(torch.rand(4, 16000), torch.ones(4))[0].shape
    torch.Size([4, 16000])
    """
    snr = {"snr_low": snr_low, "snr_high": snr_high}
    parts: list[nn.Module] = []
    if noise_folder is not None:
        parts.append(NoiseFiles(AudioFiles(noise_folder, "noise"), **snr))
    if rir_folder is not None:
        parts.append(Reverb(AudioFiles(rir_folder, "rir")))
    if white_noise:
        parts.append(AddNoise(**snr))
    if drop_freq:
        parts.append(DropBands(drop_freq_count_high=3))
    if drop_chunk:
        parts.append(DropChunks(shortest=1000, longest=2000, most=5))
    if not parts:
        return None
    return MixedAugmenter(parts, probability)
