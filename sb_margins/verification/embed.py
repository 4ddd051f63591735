"""Embeddings of many files: no padding, resumable, unusable audio named.

Files of exactly equal length share a batch, because padding would change the
embeddings. The cache is a folder per model and way of embedding; its parts are written
once, whole or not at all, so that several lists and processes share the work.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from sb_margins.audio import (
    LONGEST,
    SAMPLE_RATE,
    Recording,
    SpeechGate,
    audio_info,
    read_recording,
)
from sb_margins.data.manifest import Manifest
from sb_margins.encoder import SpeakerEncoder, constants_to, fingerprint
from sb_margins.errors import UserError, listed
from sb_margins.files import read_arrays, write_text, write_whole
from sb_margins.messages import progress_bar
from sb_margins.precision import to_device, to_host
from sb_margins.similarity import similarity_from
from sb_margins.speech import speech_rule
from sb_margins.verification.embeddings import Embeddings

FLUSH_SECONDS = 10.0  # a run that is killed loses at most so much work
READ_AHEAD = 2  # batches
READERS = 2  # threads
FEW = 8  # files
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}

T = TypeVar("T")
Made = list[tuple[list[str], Callable[[], Tensor]]]  # names and what gives [N, D]


class _Row(NamedTuple):
    """The embedding of one file, what is poor about it, and its seconds (of speech,
    where a gate asked for them)."""

    vector: np.ndarray
    notes: list[str]
    seconds: float
    speech: float | None = None


def embed_files(
    encoder: Callable[[Tensor], Tensor],
    files: Any,
    *,
    similarity: Any = None,
    model: str | None = None,
    device: str | torch.device = "cpu",
    cache: str | Path | None = None,
    crops: int = 0,
    crop_seconds: float = 4.0,
    precision: str = "fp32",
    batch_seconds: float = 120.0,
    skip_bad: bool = False,
    progress: bool = True,
    gate: SpeechGate | None = None,
) -> Embeddings:
    """Embed files whole (or as averaged crops), never padded; in their order.

    ``encoder`` is a `SpeakerEncoder` or any function of a float32 tensor [B, T] of
    speech on ``device``, rows of equal true length, to [B, D]; a module is put in eval
    mode meanwhile, and its ``sample_rate`` is what files are read at, else 16 kHz.
    ``files`` are a Manifest, or names and audio files as a mapping or pairs. The
    ``similarity`` and the fingerprint of the ``model`` are kept with the embeddings.
    The folder ``cache`` holds embeddings already made, by the fingerprint and the file
    (path, size, time of change); it is filled every ten seconds. What is batched
    together depends on the files asked for alone, so that a run that was killed and
    continued gives the same numbers. More than 0 ``crops``: the mean of the embeddings
    of so many, evenly spaced (voxceleb_trainer's protocol has ten); shorter files are
    taken whole. ``precision`` of the encoder: fp32, bf16 or fp16. Unusable audio is
    left out and listed in ``skipped`` when ``skip_bad``, otherwise an error names all
    such files once the rest is done. A ``gate`` refuses files with too little speech.
    """
    if crops < 0 or crop_seconds <= 0 or batch_seconds <= 0:
        raise UserError("crops must be >= 0, crop_seconds and batch_seconds > 0")
    rate = int(getattr(encoder, "sample_rate", SAMPLE_RATE))
    crop = round(crop_seconds * rate)
    if isinstance(encoder, SpeakerEncoder):
        model = model or encoder.fingerprint(similarity)
    elif isinstance(encoder, nn.Module):
        model = model or fingerprint(encoder)
    elif cache is not None and model is None:
        raise UserError(
            "a cache of embeddings needs a torch.nn.Module: nothing else tells models "
            f"apart, and the encoder is a {type(encoder).__name__}"
        )
    way = f"crops={crops}x{crop_seconds:g}" if crops else "whole"
    way += "" if precision == "fp32" else f",{precision}"
    way += "" if gate is None else f",{gate} by {speech_rule()}"
    done = EmbeddingCache(cache, model, way)
    paths = _paths_of(files)
    was_training = isinstance(encoder, nn.Module) and encoder.training
    if isinstance(encoder, SpeakerEncoder):
        constants_to(encoder, device)
    infos = {name: _attempt(audio_info, path) for name, path in paths.items()}
    skipped = {name: why for name, why in infos.items() if isinstance(why, str)}
    lengths = {
        name: min(-(-info.frames * rate // info.rate), round(LONGEST * rate))
        for name, info in infos.items()
        if not isinstance(info, str)
    }
    keys = {name: audio_key(paths[name]) if cache else name for name in lengths}
    batches = [
        batch
        for batch in _batches(lengths, int(batch_seconds * rate))
        if not all(keys[name] in done for name in batch)
    ]
    bar = progress_bar(
        total=sum(len(batch) for batch in batches),
        desc="embeddings",
        unit="file",
        shown=progress and bool(batches),
    )
    try:
        if was_training:
            encoder.eval()  # type: ignore[attr-defined]
        last: tuple[Made, Mapping[str, Recording]] = ([], {})
        read = partial(read_recording, rate=rate, gate=gate)
        for outcomes in _read_ahead(batches, paths, read):
            skipped |= {n: why for n, why in outcomes.items() if isinstance(why, str)}
            good = {n: o for n, o in outcomes.items() if not isinstance(o, str)}
            if not all(keys[name] in done for name in good):
                wavs = {name: recording.wav for name, recording in good.items()}
                made = _embed(encoder, wavs, crops, crop, device, precision)
                _keep(done, keys, *last)  # while a GPU is busy with this batch
                last = made, good
            bar.update(len(outcomes))
        _keep(done, keys, *last)
    finally:
        bar.close()
        done.flush()
        if was_training:
            encoder.train()  # type: ignore[attr-defined]
    rows = {name: done[keys[name]] for name in paths if keys.get(name) in done}
    if skipped and not (skip_bad and rows):
        reasons = [
            why if name in why else f"{name} ({why})"
            for name, why in sorted(skipped.items())
        ]
        raise UserError(
            f"{len(skipped)} of {len(paths)} audio files are unusable: "
            f"{listed(reasons)}. Repair them, or leave them out (--skip-bad, "
            "skip_bad=True)"
        )
    if not rows:
        raise UserError("no audio files were given")
    broken = [name for name, row in rows.items() if not np.isfinite(row.vector).all()]
    if broken:
        raise UserError(
            f"{len(broken)} of {len(rows)} embeddings are NaN or infinite: "
            f"{listed(broken)}. The model is broken: did its training diverge?"
        )
    return Embeddings(
        list(rows),
        np.stack([row.vector for row in rows.values()]),
        dict(sorted(skipped.items())),
        {name: row.seconds for name, row in rows.items()},
        {name: row.notes for name, row in rows.items() if row.notes},
        model,
        None if similarity is None else similarity_from(similarity).settings(),
        {n: row.speech for n, row in rows.items() if row.speech is not None},
    )


def _paths_of(files: Any) -> dict[str, Path]:
    """Names and files of a manifest, a mapping or pairs."""
    if isinstance(files, Manifest):
        return {u.id: files.path(u) for u in files}
    pairs = files.items() if isinstance(files, Mapping) else files
    return {str(name): Path(path) for name, path in pairs}


def _attempt(read: Callable[..., T], *arguments: Any) -> T | str:
    """What ``read`` gives, or why the file is unusable."""
    try:
        return read(*arguments)
    except UserError as error:
        return str(error)


def _grouped(lengths: Mapping[str, int]) -> dict[int, list[str]]:
    """The names of each length, longest first (memory fails early)."""
    groups: dict[int, list[str]] = {}
    for name in sorted(lengths, key=lambda name: (-lengths[name], name)):
        groups.setdefault(lengths[name], []).append(name)
    return groups


def _batches(lengths: Mapping[str, int], most_samples: int) -> list[list[str]]:
    """Names of files of one length."""
    batches = []
    for length, names in _grouped(lengths).items():
        size = max(1, most_samples // length)
        batches += [names[i : i + size] for i in range(0, len(names), size)]
    return batches


def _read_ahead(
    batches: list[list[str]],
    paths: Mapping[str, Path],
    read: Callable[[Path], Recording],
) -> Iterator[dict[str, Recording | str]]:
    """The recordings of each batch, or why a file is unusable."""
    if sum(map(len, batches)) <= FEW:  # starting threads would take longer
        for names in batches:
            yield {n: _attempt(read, paths[n]) for n in names}
        return
    waiting: deque[dict[str, Future]] = deque()
    with ThreadPoolExecutor(READERS) as pool:
        for names in [*batches, *[[]] * READ_AHEAD]:
            waiting.append({n: pool.submit(_attempt, read, paths[n]) for n in names})
            if len(waiting) > READ_AHEAD:
                yield {name: one.result() for name, one in waiting.popleft().items()}


def _embed(
    encoder: Callable[[Tensor], Tensor],
    wavs: Mapping[str, np.ndarray],
    crops: int,
    crop: int,
    device: str | torch.device,
    precision: str,
) -> Made:
    """Embeddings of the files of one batch, as they will be on the CPU."""
    half: AbstractContextManager = nullcontext()  # or what the caller has set
    if precision != "fp32":
        half = torch.autocast(torch.device(device).type, HALF[precision])
    made = []
    # One group, unless a header has a wrong length.
    for names in _grouped({name: len(wav) for name, wav in wavs.items()}).values():
        pieces = [piece for name in names for piece in _pieces(wavs[name], crops, crop)]
        batch = to_device(torch.from_numpy(np.stack(pieces)), device)
        with torch.inference_mode(), half:
            out = encoder(batch)
        out = out.float().reshape(len(names), len(pieces) // len(names), -1).mean(dim=1)
        made.append((names, to_host(out)))
    return made


def _keep(
    done: EmbeddingCache,
    keys: Mapping[str, str],
    made: Made,
    recordings: Mapping[str, Recording],
) -> None:
    """Put the embeddings of a batch into the cache."""
    for names, vectors in made:
        for name, vector in zip(names, vectors().numpy(), strict=True):
            told = recordings[name]
            row = _Row(vector, told.notes, told.seconds, told.speech)
            done.add(keys[name], row)


def _pieces(wav: np.ndarray, crops: int, crop: int) -> list[np.ndarray]:
    """The samples, or evenly spaced crops of them."""
    if not crops or len(wav) <= crop:
        return [wav]
    starts = np.linspace(0, len(wav) - crop, crops).round().astype(int)
    return [wav[start : start + crop] for start in starts]


def audio_key(path: str | Path) -> str:
    """Names an audio file and its state: where it is, how large, changed when."""
    stat = os.stat(path)
    text = f"{os.path.realpath(path)}\n{stat.st_size}\n{stat.st_mtime_ns}"
    return hashlib.blake2b(os.fsencode(text), digest_size=16).hexdigest()


class EmbeddingCache(dict[str, _Row]):
    """Embeddings of one model, made in one way, by `audio_key`.

    Kept in memory, and below ``folder`` unless that is None.
    """

    def __init__(self, folder: str | Path | None, model: str | None, way: str) -> None:
        self._new: dict[str, _Row] = {}
        self._saved = time.monotonic()
        self.folder = None
        if folder is None:
            return
        name = hashlib.blake2b(f"{model}\n{way}".encode(), digest_size=12).hexdigest()
        self.folder = Path(folder) / name
        about = self.folder / "about.json"
        if not about.is_file():
            _warn_of_older(Path(folder))
            write_text(about, json.dumps({"fingerprint": model, "way": way}) + "\n")
        for path in sorted(self.folder.glob("part-*.npz")):
            try:
                part = read_arrays(path)
                names = ("keys", "embeddings", "notes", "seconds")
                columns = [part[name] for name in names]
                columns.append(part.get("speech", np.full(len(columns[0]), np.nan)))
                for key, vector, notes, *times in zip(*columns, strict=True):
                    seconds, speech = map(float, times)
                    known = None if np.isnan(speech) else speech
                    told = json.loads(str(notes))
                    self[str(key)] = _Row(vector, told, seconds, known)
            except (UserError, KeyError, ValueError):
                continue  # cut short by a full disk: its files are embedded again

    def add(self, key: str, row: _Row) -> None:
        """Keep one embedding; on disk within `FLUSH_SECONDS`."""
        if key in self:
            return
        self[key] = row
        if self.folder is not None:
            self._new[key] = row
            if time.monotonic() - self._saved > FLUSH_SECONDS:
                self.flush()

    def flush(self) -> None:
        """Write what is new as one more part."""
        self._saved = time.monotonic()
        if self.folder is None or not self._new:
            return
        number = len(list(self.folder.glob("part-*.npz")))
        while (path := self.folder / f"part-{number:05d}-{os.getpid()}.npz").exists():
            number += 1
        vectors, notes, seconds, speech = zip(*self._new.values(), strict=True)
        with write_whole(path) as temporary, temporary.open("wb") as stream:
            np.savez(
                stream,
                keys=np.array(list(self._new)),
                embeddings=np.stack(vectors),
                notes=np.array([json.dumps(n) for n in notes]),
                seconds=np.array(seconds, np.float64),
                speech=np.array(speech, np.float64),  # None: nan
            )
        self._new.clear()


def _warn_of_older(cache: Path) -> None:
    """Say it when a cache holds embeddings that this version does not use."""
    for about in cache.glob("*/about.json"):
        with suppress(OSError, ValueError):
            if "model" in json.loads(about.read_text(encoding="utf-8")):
                warnings.warn(
                    f"{about.parent} holds embeddings of an older version of "
                    "sb_margins; they are not used, because that version did not "
                    "tell all models apart. Delete such folders",
                    stacklevel=4,
                )
                return
