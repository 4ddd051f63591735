"""Random crops of training speech that depend on nothing but seed, epoch and place.

A crop's start and speed come from a generator seeded by (seed, epoch, position), so
a resumed training, any number of workers and any number of processes see the same
crops in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from tqdm import tqdm

from sb_margins.audio import SAMPLE_RATE, load_audio, resample
from sb_margins.data.manifest import Manifest

PRELOAD_BYTES = 2**30


@dataclass
class CropBatch:
    """A batch of crops.

    Arguments
    ---------
    ids : list of str
        [B] utterance IDs.
    wavs : torch.Tensor
        [B, T] float32 waveforms.
    labels : torch.Tensor
        [B] int64 class numbers.

    Example
    -------
    >>> batch = CropBatch(["a"], torch.zeros(1, 4), torch.zeros(1, dtype=torch.long))
    >>> batch.to("cpu").wavs.shape
    torch.Size([1, 4])
    """

    ids: list[str]
    wavs: Tensor
    labels: Tensor

    def to(self, device: str | torch.device) -> CropBatch:
        """The same batch on a device."""
        wavs = self.wavs.to(device, non_blocking=True)
        return replace(self, wavs=wavs, labels=self.labels.to(device))

    def pin_memory(self) -> CropBatch:
        """The same batch in page-locked memory (for the data loader)."""
        return replace(
            self, wavs=self.wavs.pin_memory(), labels=self.labels.pin_memory()
        )


def collate(items: Sequence[tuple[str, np.ndarray, int]]) -> CropBatch:
    """Crops to one batch.

    Example
    -------
    >>> collate([("a", np.zeros(4, dtype=np.float32), 3)]).labels
    tensor([3])
    """
    ids, wavs, labels = zip(*items, strict=True)
    stacked = torch.from_numpy(np.stack(wavs))
    return CropBatch(list(ids), stacked, torch.tensor(labels, dtype=torch.long))


class CropDataset(Dataset):
    """Random crops of a manifest's utterances.

    Arguments
    ---------
    manifest : Manifest
        The training utterances.
    classes : mapping of str to int
        Class number of each speaker.
    seconds : float
        Length of a crop; shorter utterances are repeated to that length.
    seed : int
        Seed of the crops.
    speeds : sequence of float
        Speeds to draw from. A speed other than the first changes the voice, so it
        makes another speaker: its class number is shifted by ``len(classes)`` per
        place in this list.
    preload : bool, optional
        Keep all audio in memory; default: when it takes less than 1 GiB.
    progress : bool
        Show a bar while reading it.

    Example
    -------
    >>> import soundfile
    >>> from sb_margins.data.manifest import Manifest, Utterance
    >>> root = getfixture("tmp_path")
    >>> soundfile.write(root / "a.wav", np.zeros(16000), 16000)
    >>> manifest = Manifest([Utterance("a", "a.wav", 1.0, "s", 16000, {})], root)
    >>> crops = CropDataset(manifest, {"s": 0}, seconds=1.5, seed=1)
    >>> crops[1, 0][1].shape
    (24000,)
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
            bar = tqdm(
                manifest,
                desc="reading audio",
                unit="file",
                disable=None if progress else True,
            )
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
        utterance = self.manifest[index]
        if self.audio is not None:
            wav = self.audio[index]
            start = int(where * max(0, len(wav) - need + 1))
            wav = wav[start : start + need]
        else:
            seconds = need / SAMPLE_RATE
            start_s = where * max(0.0, utterance.duration - seconds)
            path = self.manifest.path(utterance)
            wav = load_audio(path, start=start_s, seconds=seconds)
        if len(wav) < need:
            wav = np.tile(wav, -(-need // len(wav)))
        return wav[:need]


class CropSampler(Sampler):
    """The order of an epoch: every utterance ``repeats`` times, shuffled.

    Arguments
    ---------
    size : int
        Number of utterances.
    repeats : int
        Crops of each utterance in one epoch.
    seed : int
        Seed of the order.

    Example
    -------
    >>> sampler = CropSampler(3, repeats=2, seed=1)
    >>> sampler.set_epoch(1)
    >>> sorted(sampler)
    [(1, 0), (1, 1), (1, 2), (1, 3), (1, 4), (1, 5)]
    """

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
