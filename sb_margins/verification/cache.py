"""Embeddings kept on disk, so that a killed run continues and lists share a pass.

A folder per model and way of extraction holds parts that are written once, whole or not
at all (temporary name, then rename): whatever moment a process dies at, every part that
has its final name is complete. Several processes may write to one folder.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sb_margins.errors import UserError


def audio_key(path: str | Path) -> str:
    """Names an audio file and its state: where it is, how large, changed when.

    Arguments
    ---------
    path : str or Path

    Returns
    -------
    str
        32 hexadecimal digits.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> _ = path.write_bytes(b"1")
    >>> before = audio_key(path)
    >>> _ = path.write_bytes(b"12")
    >>> audio_key(path) == before
    False
    """
    found = os.stat(path)
    told = f"{os.path.realpath(path)}\n{found.st_size}\n{found.st_mtime_ns}"
    return hashlib.blake2b(told.encode(), digest_size=16).hexdigest()


def module_key(encoder: Any) -> str:
    """A hash of a module's class, weights and buffers.

    Arguments
    ---------
    encoder : torch.nn.Module

    Returns
    -------
    str
        32 hexadecimal digits.

    Raises
    ------
    UserError
        When it is not a module: nothing then tells two models apart.

    Example
    -------
    >>> from torch import nn
    >>> module_key(nn.Linear(2, 2)) == module_key(nn.Linear(2, 2))
    False
    """
    if not isinstance(encoder, torch.nn.Module):
        raise UserError(
            "a cache of embeddings needs model_key=... (a text that changes with the "
            "model), because the encoder is not a torch.nn.Module"
        )
    digest = hashlib.blake2b(repr(encoder).encode(), digest_size=16)
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        if isinstance(value, torch.Tensor):
            plain = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(plain.numpy().tobytes())
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()


class EmbeddingCache:
    """Embeddings of one model by the key of the audio.

    Arguments
    ---------
    folder : str or Path
        The cache of all models; made when missing.
    model_key : str
        Tells models apart.
    options : str
        How the embeddings are made (crops, precision); tells them apart as well.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> cache = EmbeddingCache(folder, "model")
    >>> cache.add("k", np.ones(3, dtype=np.float32))
    >>> cache.flush()
    >>> EmbeddingCache(folder, "model")["k"].tolist()
    [1.0, 1.0, 1.0]
    """

    def __init__(self, folder: str | Path, model_key: str, options: str = "") -> None:
        name = hashlib.blake2b(f"{model_key}\n{options}".encode(), digest_size=12)
        self.folder = Path(folder) / name.hexdigest()
        self.folder.mkdir(parents=True, exist_ok=True)
        about = self.folder / "about.json"
        if not about.is_file():
            part = about.with_name(f"about.{os.getpid()}.part")
            part.write_text(json.dumps({"model": model_key, "options": options}) + "\n")
            part.replace(about)
        self._known: dict[str, np.ndarray] = {}
        self._new: dict[str, np.ndarray] = {}
        for path in sorted(self.folder.glob("part-*.npz")):
            try:
                with np.load(path, allow_pickle=False) as data:
                    self._known.update(
                        zip(data["keys"].tolist(), data["matrix"], strict=True)
                    )
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                continue  # cut short by a full disk: its utterances are made again

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> np.ndarray:
        return self._known[key]

    def __len__(self) -> int:
        return len(self._known)

    def add(self, key: str, vector: np.ndarray) -> None:
        """Keep one embedding [D]; on disk after the next ``flush``."""
        if key not in self._known:
            self._known[key] = self._new[key] = vector

    def flush(self) -> None:
        """Write what is new as one more part."""
        if not self._new:
            return
        for number in itertools.count():
            path = self.folder / f"part-{number:05d}-{os.getpid()}.npz"
            if not path.exists():
                break
        part = path.with_name(path.name + ".tmp")
        try:
            with part.open("wb") as stream:
                np.savez(
                    stream,
                    keys=np.array(list(self._new)),
                    matrix=np.stack(list(self._new.values())),
                )
        except OSError as error:
            part.unlink(missing_ok=True)
            raise UserError(f"cannot write the cache {self.folder}: {error}") from error
        part.replace(path)
        self._new.clear()
