"""Finds audio files and checks them by their headers and ends, in parallel.

What is checked, by ``check``:

* ``header``: the file is not empty, libsndfile understands its header, it holds
  samples, and a WAV's declared data lie inside the file (libsndfile itself takes
  a cut WAV for a shorter one).
* ``ends`` (default): also decodes the first and the last tenth of a second, which
  finds cut FLAC and MP3 files and non-finite samples there.
* ``full``: decodes everything. Only this finds damage in the middle.

A cut OGG, Opus or AIFF file cannot be told from a short one: its length is known
from its data only.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

AUDIO = frozenset(
    (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac", ".aiff", ".aif", ".sph")
)
CHECKS = ("header", "ends", "full")
_CHUNK = 64
_UNKNOWN_LENGTH = 0x7FFF0000


class Header(NamedTuple):
    """What a file is, or in ``problem`` what is wrong with it.

    Arguments
    ---------
    frames : int
        Samples per channel.
    sample_rate : int
        Hertz.
    channels : int
    problem : str
        Empty for a good file.

    Example
    -------
    >>> Header(32000, 16000, 1).duration
    2.0
    """

    frames: int = 0
    sample_rate: int = 0
    channels: int = 0
    problem: str = ""

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.frames / self.sample_rate if self.sample_rate else 0.0


def walk(root: Path) -> Iterator[str]:
    """All audio files under a folder, sorted, as posix paths relative to it.

    Follows symbolic links to folders (once each), passes over hidden files.

    Arguments
    ---------
    root : Path

    Yields
    ------
    str

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for name in ("b.wav", "a.FLAC", "notes.txt", ".hidden.wav"):
    ...     (folder / name).touch()
    >>> list(walk(folder))
    ['a.FLAC', 'b.wav']
    """
    seen = set()
    for here, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        inside = Path(here).relative_to(root)
        for name in sorted(files):
            if is_audio(name):
                yield (inside / name).as_posix()


def is_audio(name: str) -> bool:
    """Whether a file name is that of audio.

    Arguments
    ---------
    name : str

    Returns
    -------
    bool

    Example
    -------
    >>> is_audio("a.b.WAV"), is_audio("a.txt"), is_audio("._a.wav")
    (True, False, False)
    """
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in AUDIO


def read_headers(
    paths: Sequence[Path],
    check: str = "ends",
    workers: int = 0,
    progress: bool = True,
) -> list[Header]:
    """Check many files, in threads, with a progress bar.

    Arguments
    ---------
    paths : sequence of Path
    check : str
        ``header``, ``ends`` or ``full``; see the module.
    workers : int
        Threads; 0 = two per core (decoding releases Python's lock).
    progress : bool
        Whether to show the bar (only ever on a terminal).

    Returns
    -------
    list of Header
        In the order of the paths.

    Example
    -------
    >>> read_headers([getfixture("tmp_path") / "none.wav"])[0].problem
    'no such file'
    """
    from tqdm import tqdm

    chunks = [paths[i : i + _CHUNK] for i in range(0, len(paths), _CHUNK)]
    threads = workers or 2 * (os.cpu_count() or 1)
    headers: list[Header] = []
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(
            total=len(paths),
            desc="reading headers",
            unit="file",
            disable=None if progress else True,
        ) as bar,
    ):
        for part in pool.map(partial(_read_chunk, check=check), chunks):
            headers += part
            bar.update(len(part))
    return headers


def _read_chunk(paths: Sequence[Path], check: str) -> list[Header]:
    return [read_header(path, check) for path in paths]


def read_header(path: Path, check: str = "ends") -> Header:
    """Check one file; never raises for a bad one.

    Arguments
    ---------
    path : Path
    check : str
        ``header``, ``ends`` or ``full``.

    Returns
    -------
    Header

    Example
    -------
    >>> path = getfixture("tmp_path") / "empty.wav"
    >>> path.touch()
    >>> read_header(path).problem
    'empty file (0 bytes)'
    """
    import soundfile

    try:
        size = path.stat().st_size
        if size == 0:
            return Header(problem="empty file (0 bytes)")
        problem = _riff_problem(path, size)
        if problem:
            return Header(problem=problem)
        with soundfile.SoundFile(path) as audio:
            header = Header(audio.frames, audio.samplerate, audio.channels)
            if header.frames <= 0:
                return header._replace(problem="no samples")
            if check != "header":
                problem = _decode(audio, whole=check == "full")
            return header._replace(problem=problem)
    except FileNotFoundError:
        return Header(problem="no such file")
    except (OSError, RuntimeError) as error:
        if path.suffix.lower() in (".m4a", ".aac"):
            return Header(problem="AAC, which libsndfile cannot read: convert it")
        reason = str(error).rsplit(": ", 1)[-1].strip().rstrip(".")
        return Header(problem=f"unreadable ({reason})")


def _decode(audio, whole: bool) -> str:
    """Decode the two ends, or all of it in pieces; what is wrong, or ""."""
    import numpy as np

    piece = audio.samplerate if whole else max(1, audio.samplerate // 10)
    last = max(0, audio.frames - piece)
    starts = range(0, audio.frames, piece) if whole else sorted({0, last})
    for start in starts:
        expected = min(piece, audio.frames - start)
        if not whole:
            audio.seek(start)
        block = audio.read(expected, dtype="float32")
        if len(block) < expected:
            told = audio.frames / audio.samplerate
            return f"cut short: declares {told:.2f} s, does not decode to its end"
        if not np.isfinite(block).all():
            return "non-finite samples"
    return ""


def _riff_problem(path: Path, size: int) -> str:
    """A WAV whose data chunk is longer than the file was cut."""
    with path.open("rb") as stream:
        head = stream.read(12)
        if len(head) < 12 or head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return ""
        while True:
            chunk = stream.read(8)
            if len(chunk) < 8:
                return "a WAV without data"
            name, length = struct.unpack("<4sI", chunk)
            if name == b"data":
                here = stream.tell()
                # 0 and the largest numbers: written to a pipe, length unknown
                if 0 < length < _UNKNOWN_LENGTH and here + length > size:
                    share = (size - here) / length
                    return f"cut short: {100 * share:.0f} % of its samples are there"
                return ""
            stream.seek(length + length % 2, os.SEEK_CUR)
