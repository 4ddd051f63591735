"""SpeechBrain's augmentations, put together from what the user has."""

from __future__ import annotations

import csv
import inspect
from pathlib import Path
from typing import Any

import soundfile
import torch
from torch import Tensor

from sb_margins.audio import SAMPLE_RATE
from sb_margins.errors import UserError


def _list_audio(folder: str | Path, csv_file: Path, what: str) -> str:
    """Write the CSV that SpeechBrain's AddNoise and AddReverb read."""
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"no such {what} folder: {root}. Correct it, or leave it null")
    names = {f".{name.lower()}" for name in soundfile.available_formats()}
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in names)
    if not files:
        raise UserError(f"the {what} folder {root} holds no audio files")
    csv_file.parent.mkdir(parents=True, exist_ok=True)
    with open(csv_file, "w", newline="", encoding="utf-8") as out:
        rows = csv.writer(out)
        rows.writerow(["ID", "duration", "wav", "wav_format", "wav_opts"])
        for path in files:
            info = soundfile.info(path)
            if info.samplerate != SAMPLE_RATE:
                raise UserError(
                    f"{path} has {info.samplerate} Hz; SpeechBrain mixes the {what} "
                    f"files as they are, so resample them to {SAMPLE_RATE} Hz first"
                )
            name = path.relative_to(root).as_posix()
            form = path.suffix[1:].lower()
            rows.writerow([name, info.duration, path.resolve(), form, ""])
    return str(csv_file)


class MixedAugmenter(torch.nn.Module):
    """Every example of a batch goes through one part, drawn for it alone.

    SpeechBrain's ``Augmenter`` either treats the whole batch alike or multiplies it;
    one part per example costs nothing extra and keeps batches varied.

    ``parts`` keep the length of a waveform; those that take ``lengths`` are given
    them. ``probability`` is how likely an example is augmented at all.
    """

    def __init__(self, parts: list[torch.nn.Module], probability: float = 0.75):
        super().__init__()
        self.parts = torch.nn.ModuleList(parts)
        self.takes_lengths = [
            "lengths" in inspect.signature(part.forward).parameters for part in parts
        ]
        self.probability = probability
        # AddNoise and AddReverb make their loaders at first use, shaped by that use:
        # use them now, or a resumed run would not repeat itself.
        for number, part in enumerate(parts):
            if getattr(part, "csv_file", None) is not None:
                self._augment(number, torch.rand(8, 16000), torch.ones(8))

    def forward(self, wavs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T] waveforms and [B] relative lengths, augmented; lengths stay."""
        choice = torch.randint(len(self.parts), (len(wavs),))
        choice[torch.rand(len(wavs)) >= self.probability] = -1
        out = wavs.clone()
        for number, part in enumerate(self.parts):
            chosen = (choice == number).nonzero()[:, 0].to(wavs.device)
            if not len(chosen):
                continue
            source: Any = part
            for files in ("noise_data", "rir_data"):  # drawn by this step's seed alone
                if hasattr(source, files):
                    setattr(source, files, iter(source.data_loader))
            out[chosen] = self._augment(number, wavs[chosen], lengths[chosen])
        return out, lengths

    def _augment(self, number: int, wavs: Tensor, lengths: Tensor) -> Tensor:
        extra = {"lengths": lengths} if self.takes_lengths[number] else {}
        return self.parts[number](wavs, **extra)


def build_augmenter(
    save_folder: str,
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
    searched in depth for audio files; nothing is ever downloaded. Their lists are
    written to ``save_folder``. Signal-to-noise ratios are in dB. None without a part.

    Example
    -------
    >>> augmenter = build_augmenter("unused", drop_chunk=False)
    >>> augmenter(torch.rand(4, 16000), torch.ones(4))[0].shape
    torch.Size([4, 16000])
    """
    from speechbrain.augment.time_domain import (
        AddNoise,
        AddReverb,
        DropChunk,
        DropFreq,
    )

    save = Path(save_folder)
    snr = {"snr_low": snr_low, "snr_high": snr_high}
    parts: list[torch.nn.Module] = []
    if noise_folder is not None:
        listed = _list_audio(noise_folder, save / "noise.csv", "noise")
        parts.append(AddNoise(listed, pad_noise=True, **snr))
    if rir_folder is not None:
        parts.append(AddReverb(_list_audio(rir_folder, save / "rir.csv", "rir")))
    if white_noise:
        parts.append(AddNoise(**snr))
    if drop_freq:
        parts.append(DropFreq(drop_freq_count_high=3))
    if drop_chunk:
        parts.append(
            DropChunk(drop_length_low=1000, drop_length_high=2000, drop_count_high=5)
        )
    if not parts:
        return None
    return MixedAugmenter(parts, probability)
