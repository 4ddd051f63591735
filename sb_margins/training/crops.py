"""Random crops of training speech that depend on nothing but seed, epoch and place.

A crop's start and speed come from a generator seeded by (seed, epoch, position), so
a resumed run, any number of workers and any number of processes see the same crops in
the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from sb_margins.audio import SAMPLE_RATE, load_audio, resample
from sb_margins.data.manifest import Manifest
from sb_margins.errors import UserError
from sb_margins.messages import progress_bar

PRELOAD_BYTES = 2**30
LOOK = 1000  # files, evenly spread, are looked for before a run


@dataclass
class CropBatch:
    """A batch of crops: utterance IDs [B], waveforms [B, T], class numbers [B]."""

    ids: list[str]
    wavs: Tensor
    labels: Tensor

    def to(self, device: str | torch.device) -> CropBatch:
        """The same batch on a device."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> CropBatch:
        """The same batch in page-locked memory (for the data loader)."""
        return self._with(Tensor.pin_memory)

    def _with(self, change: Callable[[Tensor], Tensor]) -> CropBatch:
        return replace(self, wavs=change(self.wavs), labels=change(self.labels))


def collate(items: Sequence[tuple[str, np.ndarray, int]]) -> CropBatch:
    """Crops to one batch."""
    wavs = torch.from_numpy(np.stack([wav for _, wav, _ in items]))
    labels = torch.tensor([label for *_, label in items])
    return CropBatch([name for name, *_ in items], wavs, labels)


def check_audio(manifest: Manifest, seconds: float) -> list[str]:
    """Refuse audio that is gone or too short for crops; remarks on what is short."""
    for index in range(0, len(manifest), max(1, len(manifest) // LOOK)):
        path = manifest.path(manifest[index])
        if not path.is_file():
            raise UserError(
                f"{path} is gone since the corpus was prepared. Put it back, or delete "
                "the folder with the manifests to have them made again"
            )
    longest = max(u.duration for u in manifest)
    if longest < seconds:
        raise UserError(
            f"crops of {seconds} s (sentence_len) are longer than all training audio "
            f"(the longest utterance has {longest:.1f} s): lower sentence_len"
        )
    short = sum(u.duration < seconds for u in manifest) / len(manifest)
    if not short:
        return []
    return [f"{short:.0%} of the utterances are shorter than a crop and are repeated"]


class CropDataset(Dataset):
    """Random crops of a manifest's utterances, indexed by (epoch, position).

    ``classes`` numbers the speakers. Utterances shorter than ``seconds`` are repeated
    to that length. ``speeds`` are drawn from: a speed other than the first changes the
    voice, so it makes another speaker, whose class number is shifted by
    ``len(classes)`` per place in the list. ``preload`` keeps all audio in memory;
    default: when it takes less than 1 GiB.
    """

    def __init__(
        self,
        manifest: Manifest,
        classes: Mapping[str, int],
        *,
        seconds: float,
        seed: int,
        speeds: Sequence[float] = (1.0,),
        preload: bool | None = None,
        progress: bool = False,
    ):
        self.manifest = manifest
        self.classes = classes
        self.samples = round(seconds * SAMPLE_RATE)
        self.seed = seed
        self.speeds = list(speeds)
        total = 4 * SAMPLE_RATE * sum(u.duration for u in manifest)
        self.audio: list[np.ndarray] | None = None
        if total < PRELOAD_BYTES if preload is None else preload:
            bar = progress_bar(manifest, "reading audio", unit="file", shown=progress)
            self.audio = [load_audio(manifest.path(u)) for u in bar]

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, key: tuple[int, int]) -> tuple[str, np.ndarray, int]:
        epoch, position = key
        utterance = self.manifest[position % len(self.manifest)]
        rng = np.random.default_rng([self.seed, epoch, position])
        place = int(rng.integers(len(self.speeds)))
        # Speech played at 1.1x: read 1.1x as much, squeeze it into the crop.
        rate = round(SAMPLE_RATE * self.speeds[place])
        need = -(-self.samples * rate // SAMPLE_RATE)
        wav = self._read(position % len(self.manifest), need, rng.random())
        wav = resample(wav, rate, SAMPLE_RATE)[: self.samples]
        label = self.classes[utterance.spk_id] + place * len(self.classes)
        return utterance.id, wav, label

    def _read(self, index: int, need: int, where: float) -> np.ndarray:
        if self.audio is not None:
            wav = self.audio[index]
            last = max(0, len(wav) - need)
            start = int(where * (last + 1))
            wav = wav[start : start + need]
        else:
            utterance = self.manifest[index]
            seconds = need / SAMPLE_RATE
            start_s = where * max(0.0, utterance.duration - seconds)
            path = self.manifest.path(utterance)
            wav = load_audio(path, start=start_s, seconds=seconds)
        return np.resize(wav, need)  # repeated when it is shorter


class CropSampler(Sampler):
    """The order of an epoch: every utterance ``repeats`` times, shuffled."""

    def __init__(self, size: int, *, repeats: int, seed: int):
        self.size = size * repeats
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.size)
        return iter([(self.epoch, int(position)) for position in order])


class SpeakerSampler(CropSampler):
    """The same with ``each`` utterances of a speaker in a row, for losses on pairs.

    ``speakers`` [N] numbers the speaker of each utterance. A speaker whose utterances
    do not fill the last row gets further crops of some. The rows of a speaker are
    spread over the epoch, so that few batches have two of them. ``processes`` that
    take every so-many-th crop, as in DDP, get whole rows.
    """

    def __init__(
        self,
        speakers: Sequence[int],
        *,
        each: int,
        repeats: int,
        seed: int,
        processes: int = 1,
    ):
        super().__init__(len(speakers), repeats=repeats, seed=seed)
        self.speakers, self.each, self.processes = np.asarray(speakers), each, processes
        self.passes = repeats + each - 1
        self.rows = -(-np.bincount(self.speakers) * repeats // each)  # of each speaker
        self.size = int(self.rows.sum()) // processes * processes * each

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        n, each = len(self.speakers), self.each
        order = [rng.permutation(n) + n * number for number in range(self.passes)]
        positions = np.concatenate(order)
        speakers = self.speakers[positions % n]
        grouped = np.argsort(speakers, kind="stable")
        starts = np.searchsorted(speakers[grouped], speakers[grouped])
        rank = np.arange(len(grouped)) - starts  # among those of its speaker
        kept = rank < each * self.rows[speakers[grouped]]
        rows = positions[grouped[kept]].reshape(-1, each)
        place = rank[kept][::each] // each + rng.random(len(rows))
        rows = rows[np.argsort(place / self.rows[self.speakers[rows[:, 0] % n]])]
        rows = rows[: self.size // each].reshape(-1, self.processes, each)
        crops = rows.swapaxes(1, 2).ravel()
        return iter([(self.epoch, int(position)) for position in crops])
