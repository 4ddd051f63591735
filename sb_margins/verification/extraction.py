"""Embeddings of many utterances: no padding, resumable, broken audio named."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor
from tqdm import tqdm

from sb_margins.data.audio import SAMPLE_RATE, load_audio
from sb_margins.errors import UserError, listed
from sb_margins.verification.cache import EmbeddingCache, audio_key, module_key
from sb_margins.verification.embeddings import Embeddings

__all__ = ["Embeddings", "extract", "paths_of"]

# A run that is killed loses at most so much work.
FLUSH_SECONDS = 10.0


def paths_of(utterances: Any) -> dict[str, Path]:
    """Names and files of what ``extract`` takes.

    Example
    -------
    >>> paths_of({"a": "a.wav"})["a"].name
    'a.wav'
    """
    if hasattr(utterances, "path"):  # a Manifest
        return {u.id: Path(utterances.path(u)) for u in utterances}
    pairs = utterances.items() if isinstance(utterances, Mapping) else utterances
    return {str(name): Path(path) for name, path in pairs}


def extract(
    encoder: Callable[[Tensor], Tensor],
    utterances: Any,
    *,
    device: str | torch.device = "cpu",
    cache: str | Path | None = None,
    model_key: str | None = None,
    crops: int = 0,
    crop_seconds: float = 4.0,
    bf16: bool = False,
    batch_seconds: float = 120.0,
    skip_bad: bool = False,
    progress: bool = True,
    workers: int = 2,
    sample_rate: int = SAMPLE_RATE,
) -> Embeddings:
    """Embed utterances whole (or as averaged crops), never padded.

    Utterances of exactly equal length share a batch; padding would change the
    embeddings. What is batched together depends on the utterances asked for alone, so
    that a run that was killed and continued gives the same numbers.

    Arguments
    ---------
    encoder : callable
        float32 tensor [B, T] of 16 kHz speech on ``device``, rows of equal true
        length, to [B, D]. A ``torch.nn.Module`` is put in eval mode meanwhile.
    utterances : Manifest, mapping or iterable of pairs
        Names and audio files.
    device : str or torch.device
        Where the encoder is.
    cache : str or Path, optional
        Folder of embeddings already made, keyed by model and audio file (path, size,
        time of change); filled every ten seconds.
    model_key : str, optional
        Names the model in the cache; default: a hash of the module's weights.
    crops : int
        0: the whole utterance. Else: the mean of the embeddings of so many crops,
        evenly spaced (voxceleb_trainer's protocol has ten).
    crop_seconds : float
        Length of a crop; shorter utterances are taken whole.
    bf16 : bool
        Run the encoder under bfloat16 autocast.
    batch_seconds : float
        Most audio in one batch.
    skip_bad : bool
        Leave out audio that cannot be read and tell it in ``skipped``; otherwise an
        error names all such files once the rest is done.
    progress : bool
        Show a progress bar (on a terminal).
    workers : int
        Threads that read audio ahead.
    sample_rate : int
        The model's, in Hz; audio of other rates is resampled.

    Returns
    -------
    Embeddings
        In the order of the utterances.

    Raises
    ------
    UserError
        When audio cannot be read (without ``skip_bad``) or embeddings are not finite.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> soundfile.write(path, np.ones(1600), 16000)
    >>> energy = lambda wavs: wavs.square().mean(dim=1, keepdim=True)
    >>> extract(energy, {"a": path}, progress=False).matrix.round(2).tolist()
    [[1.0]]
    """
    if crops < 0 or crop_seconds <= 0 or batch_seconds <= 0:
        raise UserError("crops must be >= 0, crop_seconds and batch_seconds > 0")
    files = paths_of(utterances)
    options = f"crops={crops}x{crop_seconds:g}" if crops else "whole"
    options += ",bf16" if bf16 else ""
    store = None
    keys: dict[str, str] = {}
    if cache is not None:
        store = EmbeddingCache(cache, model_key or module_key(encoder), options)
    run = _Run(files, crops, crop_seconds, skip_bad, sample_rate)
    run.measure(workers)
    if store is not None:
        keys = {n: audio_key(files[n]) for n in run.lengths}
    done = {n: store[keys[n]] for n in keys if store is not None and keys[n] in store}
    batches = [
        batch
        for batch in run.batches(batch_seconds)
        if not all(name in done for name in batch)
    ]
    was_training = isinstance(encoder, torch.nn.Module) and encoder.training
    if isinstance(encoder, torch.nn.Module):
        encoder.eval()
    total = sum(len(batch) for batch in batches)
    bar = tqdm(
        total=len(run.lengths),
        initial=len(run.lengths) - total,
        desc="embeddings",
        unit="utt",
        # None: shown on a terminal only
        disable=None if progress and total else True,
    )
    saved = time.monotonic()
    try:
        for batch, wavs in run.load(batches, workers):
            found = _embed(encoder, wavs, run, torch.device(device), bf16)
            done.update(found)
            bar.update(len(batch))
            if store is not None:
                for name, vector in found.items():
                    store.add(keys[name], vector)
                if time.monotonic() - saved > FLUSH_SECONDS:
                    store.flush()
                    saved = time.monotonic()
    finally:
        bar.close()
        if store is not None:
            store.flush()
        if was_training:
            encoder.train()  # type: ignore[attr-defined]
    return run.result(done)


def _embed(
    encoder: Callable[[Tensor], Tensor],
    wavs: dict[str, np.ndarray],
    run: _Run,
    device: torch.device,
    bf16: bool,
) -> dict[str, np.ndarray]:
    """Embeddings of the utterances of one planned batch."""
    groups: dict[int, list[str]] = {}
    for name, wav in wavs.items():  # one group, unless a header told a wrong length
        groups.setdefault(len(wav), []).append(name)
    found: dict[str, np.ndarray] = {}
    for names in groups.values():
        rows = np.stack([piece for name in names for piece in run.pieces(wavs[name])])
        batch = torch.from_numpy(rows).to(device)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, bf16):
            out = encoder(batch)
        out = out.float().reshape(len(names), len(rows) // len(names), -1).mean(dim=1)
        found.update(zip(names, out.cpu().numpy(), strict=True))
    return found


class _Run:
    """One call of ``extract``: lengths, batches, reading ahead, what went wrong."""

    def __init__(
        self,
        files: dict[str, Path],
        crops: int,
        crop_seconds: float,
        skip_bad: bool,
        rate: int,
    ) -> None:
        self.files, self.crops, self.skip_bad = files, crops, skip_bad
        self.crop, self.rate = round(crop_seconds * rate), rate
        self.lengths: dict[str, int] = {}
        self.bad: dict[str, str] = {}

    def measure(self, workers: int) -> None:
        """Lengths in samples at the model's rate, from the files' headers."""

        def length(path: Path) -> int | str:
            try:
                info = soundfile.info(path)
            except (soundfile.SoundFileError, OSError) as error:
                return "no such file" if not path.is_file() else str(error)
            return -(-info.frames * self.rate // info.samplerate) or "no samples"

        with ThreadPoolExecutor(max(1, workers)) as pool:
            found = pool.map(length, self.files.values())
            for name, answer in zip(self.files, found, strict=True):
                if isinstance(answer, int):
                    self.lengths[name] = answer
                else:
                    self.bad[name] = answer

    def batches(self, batch_seconds: float) -> list[list[str]]:
        """Names whose audio is of one length, longest first (memory fails early)."""
        groups: dict[int, list[str]] = {}
        for name, length in self.lengths.items():
            groups.setdefault(length, []).append(name)
        batches = []
        for length in sorted(groups, reverse=True):
            most = max(1, int(batch_seconds * self.rate) // max(1, length))
            names = sorted(groups[length])
            batches += [names[i : i + most] for i in range(0, len(names), most)]
        return batches

    def pieces(self, wav: np.ndarray) -> list[np.ndarray]:
        """The utterance, or its crops."""
        if not self.crops or len(wav) <= self.crop:
            return [wav]
        starts = np.linspace(0, len(wav) - self.crop, self.crops).round().astype(int)
        return [wav[s : s + self.crop] for s in starts]

    def load(
        self, batches: list[list[str]], workers: int
    ) -> Iterable[tuple[list[str], dict[str, np.ndarray]]]:
        """Batches with their audio, read two ahead; unreadable audio is noted."""

        def read(name: str) -> np.ndarray | str:
            try:
                return load_audio(self.files[name], rate=self.rate)
            except UserError as error:
                return str(error)

        with ThreadPoolExecutor(max(1, workers)) as pool:
            ahead = []
            for number in range(len(batches) + 2):
                if number < len(batches):
                    ahead.append(pool.map(read, batches[number]))
                if number < 2:
                    continue
                batch = batches[number - 2]
                wavs = {}
                for name, wav in zip(batch, ahead.pop(0), strict=True):
                    if isinstance(wav, str):
                        self.bad[name] = wav
                    else:
                        wavs[name] = wav
                yield batch, wavs

    def result(self, done: dict[str, np.ndarray]) -> Embeddings:
        """Embeddings in the asked order, or the error that names what is wrong."""
        if self.bad and not self.skip_bad:
            told = [f"{name} ({why})" for name, why in sorted(self.bad.items())]
            raise UserError(
                f"{len(self.bad)} of {len(self.files)} audio files cannot be used: "
                f"{listed(told)}. Repair them, or leave their trials out with "
                "--skip-bad (skip_bad=True)"
            )
        ids = [name for name in self.files if name in done]
        if not ids:
            raise UserError(
                "no utterance could be embedded: none was given or readable"
            )
        matrix = np.stack([done[name] for name in ids]).astype(np.float32, copy=False)
        broken = [ids[i] for i in np.flatnonzero(~np.isfinite(matrix).all(axis=1))]
        if broken:
            raise UserError(
                f"{len(broken)} of {len(ids)} embeddings are NaN or infinite: "
                f"{listed(broken)}. The model is broken (a diverged training?) or "
                "these files are silent"
            )
        seconds = {name: self.lengths[name] / self.rate for name in ids}
        return Embeddings(ids, matrix, dict(sorted(self.bad.items())), seconds)
