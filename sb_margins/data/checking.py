"""Which recordings of a corpus are usable; the others are named all at once."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from hashlib import sha256
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np

from sb_margins.audio import SAMPLE_RATE, SILENT, AudioInfo, audio_info, load_audio
from sb_margins.data.corpus import Entry, Listing
from sb_margins.data.manifest import Utterance
from sb_margins.errors import UserError
from sb_margins.files import write_text
from sb_margins.messages import progress_bar

CHECKS = ("header", "ends", "full")
_UNREADABLE, _SHORT, _SILENT = KINDS = (
    "unreadable files",
    "files shorter than {min_seconds} s (min_seconds)",
    "silent files",
)
_CHUNK = 64  # files that a thread takes at once
_NAMED = 20  # files in a message
_CONVERT = """.
AAC files (.m4a): convert each beside itself, for instance with
  find FOLDER -name '*.m4a' -print0 | xargs -0 -P 8 -I{} sh -c \
'ffmpeg -loglevel error -n -i "$1" -ar 16000 -ac 1 "${1%.m4a}.flac"' _ {}"""


def usable(
    listing: Listing,
    save: Path,
    *,
    check: str,
    min_seconds: float,
    skip_bad: bool,
    workers: int,
    progress: bool,
) -> tuple[list[tuple[Entry, Utterance]], dict[str, str]]:
    """The listing's usable entries as utterances, and the other IDs with the reason.

    Unreadable files raise, unless ``skip_bad``; short and silent ones are left out.
    All are named in ``bad_files.txt`` in ``save``; the listing's notes grow.
    """
    left_out: dict[str, dict[str, str]] = {kind: {} for kind in KINDS}
    good: list[tuple[Entry, AudioInfo]] = []
    reasons = {}
    judge = partial(_judge, check=check, min_seconds=min_seconds)
    paths = [listing.root / entry.wav for entry in listing.entries]
    with ThreadPool(workers or 2 * (os.cpu_count() or 1)) as pool:
        verdicts = progress_bar(
            pool.imap(judge, paths, _CHUNK),
            "reading headers",
            len(paths),
            unit="file",
            shown=progress,
        )
        for entry, verdict in zip(listing.entries, verdicts, strict=True):
            if isinstance(verdict, AudioInfo):
                good.append((entry, verdict))
            else:
                kind, reasons[entry.id] = verdict
                left_out[kind][entry.wav] = reasons[entry.id]
    bad_files = save / "bad_files.txt"
    more = f", all in {bad_files}"
    bad_files.unlink(missing_ok=True)
    if reasons:
        every = [pair for group in left_out.values() for pair in group.items()]
        write_text(bad_files, "".join(f"{wav}\t{reason}\n" for wav, reason in every))
    named = {
        kind: _lines((f"{wav}: {why}" for wav, why in group.items()), more)
        for kind, group in left_out.items()
        if group
    }
    bad = left_out[_UNREADABLE]
    if bad and not skip_bad:
        advice = _CONVERT if any("AAC" in reason for reason in bad.values()) else ""
        raise UserError(
            f"{len(bad)} of {len(paths)} files in {listing.root} cannot be used:"
            f"{named[_UNREADABLE]}\nRepair or remove them, or leave them out with "
            f"--skip-bad (in Python: skip_bad=True){advice}"
        )
    listing.notes += [
        f"left out {len(left_out[kind])} {kind.format(min_seconds=min_seconds)}:{lines}"
        for kind, lines in named.items()
    ]
    listing.notes += _notes(listing.root, good)
    utterances = [
        (e, Utterance(e.id, e.wav, round(i.seconds, 6), e.spk_id, i.rate, e.meta))
        for e, i in good
    ]
    return utterances, reasons


def _judge(path: Path, check: str, min_seconds: float) -> AudioInfo | tuple[str, str]:
    """What a file is, or of which of ``KINDS`` it is, and why.

    Of a file whose ends are silent, all is decoded.
    """
    try:
        info = audio_info(path, check)
        if info.notes:
            return _UNREADABLE, "; ".join(info.notes)
        if info.seconds < min_seconds:
            return _SHORT, f"{info.seconds:.2f} s"
        if info.peak is not None and info.peak < SILENT:
            if np.ptp(load_audio(path)) / 2 < SILENT:
                return _SILENT, "silent"
    except UserError as error:
        return _UNREADABLE, str(error).replace(f"{path}: ", "").replace(f"{path} ", "")
    return info


def _notes(root: Path, good: Sequence[tuple[Entry, AudioInfo]]) -> list[str]:
    """What is odd about the usable files."""
    notes = []
    rates = Counter(info.rate for _, info in good)
    if set(rates) - {SAMPLE_RATE}:
        counts = ", ".join(f"{rate} Hz: {n}" for rate, n in sorted(rates.items()))
        notes.append(f"sample rates differ from {SAMPLE_RATE} Hz ({counts} files)")
    several = sum(info.channels > 1 for _, info in good)
    if several:
        notes.append(f"{several} files have several channels")
    copies = _copies(root, good)
    if copies:
        notes.append(
            f"{len(copies)} recordings are under several speakers (remove the wrong "
            f"ones):{_lines(map(' = '.join, copies))}"
        )
    return notes


def _copies(root: Path, good: Iterable[tuple[Entry, AudioInfo]]) -> list[list[str]]:
    """Files with the same samples under different speakers.

    In any lossless format: with the same length and ends, all samples decide.
    """
    alike: defaultdict[object, list[Entry]] = defaultdict(list)
    for entry, info in good:
        if info.peak is not None:
            alike[info.frames, info.rate, info.checksum].append(entry)
    same: defaultdict[object, list[Entry]] = defaultdict(list)
    for key, entries in alike.items():
        if _speakers(entries) > 1:
            for entry in entries:
                same[key, _samples_hash(root / entry.wav)].append(entry)
    return [[e.wav for e in group] for group in same.values() if _speakers(group) > 1]


def _speakers(entries: Iterable[Entry]) -> int:
    return len({entry.spk_id for entry in entries})


def _samples_hash(path: Path) -> str:
    """Of the decoded samples; damage in the middle makes a file unlike all others."""
    try:
        return sha256(load_audio(path).tobytes()).hexdigest()
    except UserError:
        return str(path)


def _lines(texts: Iterable[str], where: str = "") -> str:
    """A few of many lines for a message."""
    lines = [f"\n  {text}" for text in texts]
    if len(lines) > _NAMED:
        lines[_NAMED:] = [f"\n  ... and {len(lines) - _NAMED} more{where}"]
    return "".join(lines)
