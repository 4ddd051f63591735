"""What audio files say about themselves, held against what is there.

The decoders behind soundfile shorten truncated files, and drop damaged pages, without a
word; these checks find the words.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

PLAIN_FORMATS = (1, 3, 0xFFFE)  # PCM, float, extensible
UNKNOWN_SIZE = 0x7FFFF000  # written to a pipe, where the length is not known yet
MAX_PAGES = 200_000


def _riff_notes(file: BinaryIO, size: int) -> list[str]:
    notes = []
    at = 12
    while at + 8 <= size:
        file.seek(at)
        kind, length = struct.unpack("<4sI", file.read(8))
        if kind == b"fmt " and at + 24 <= size:
            form, channels, rate, speed, align, bits = struct.unpack(
                "<HHIIHH", file.read(16)
            )
            fits = align == channels * ((bits + 7) // 8) and speed == rate * align
            if form in PLAIN_FORMATS and not fits:
                notes.append("has a header that contradicts itself: it may be damaged")
        if kind == b"data":
            there = size - at - 8
            if 0 < length < UNKNOWN_SIZE and there < length:
                notes.append(
                    f"is truncated: {there} of {length} bytes of sound are there"
                )
            break
        at += 8 + length + length % 2
    return notes


def _ogg_notes(file: BinaryIO, size: int, seconds: float | None) -> list[str]:
    """Pages follow each other; the last is marked and tells the length."""
    at, pages, granule, ended, stream = 0, 0, -1, False, b""
    rate, skip = 0, 0
    while at + 27 <= size and pages < MAX_PAGES:
        file.seek(at)
        head = file.read(27)
        table = file.read(head[26])
        if head[:4] != b"OggS" or len(table) < head[26]:
            return ["is damaged: its pages do not follow each other"]
        if not pages:
            stream, first = head[14:18], file.read(64)
            if first[:8] == b"OpusHead":
                rate, skip = 48000, int.from_bytes(first[10:12], "little")
            elif first[:7] == b"\x01vorbis":
                rate = int.from_bytes(first[12:16], "little")
        if head[14:18] == stream:
            position = int.from_bytes(head[6:14], "little", signed=True)
            granule = max(granule, position)
            ended = bool(head[5] & 4)
        at += 27 + len(table) + sum(table)
        pages += 1
    if at > size or not ended:
        return ["is truncated: its last page is missing"]
    promised = (granule - skip) / rate if rate else 0.0
    if seconds is not None and seconds < 0.99 * promised - 0.05:
        return [f"is damaged: {seconds:.2f} of {promised:.2f} s could be read"]
    return []


def container_notes(path: Path, seconds: float | None) -> list[str]:
    """What is wrong with a wave, AIFF or Ogg file that its decoder does not tell.

    Arguments
    ---------
    path : Path
        The file.
    seconds : float, optional
        How much sound was decoded; None when decoding was stopped early.

    Returns
    -------
    list of str
        Endings of sentences about the file; empty for a whole one.

    Example
    -------
    >>> import numpy as np, soundfile
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> soundfile.write(path, np.zeros(1000), 8000)
    >>> container_notes(path, 0.125)
    []
    >>> _ = path.write_bytes(path.read_bytes()[:1044])
    >>> container_notes(path, 0.0625)
    ['is truncated: 1000 of 2000 bytes of sound are there']
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] == b"RIFF" and head[8:] == b"WAVE":
            return _riff_notes(file, size)
        if head[:4] == b"FORM" and len(head) == 12:
            promised = int.from_bytes(head[4:8], "big") + 8
            if size < promised:
                return [f"is truncated: {size} of {promised} bytes are there"]
        if head[:4] == b"OggS":
            return _ogg_notes(file, size, seconds)
    return []
