"""Which recordings of a corpus are usable; the others are named all at once."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from sb_margins.audio import SAMPLE_RATE, SILENT, AudioInfo, audio_info, load_audio
from sb_margins.data.corpus import Entry, Listing
from sb_margins.data.manifest import Utterance
from sb_margins.errors import UserError
from sb_margins.files import hash_file, write_text

CHECKS = ("header", "ends", "full")
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
    paths = [listing.root / entry.wav for entry in listing.entries]
    infos = _read_infos(paths, check, workers, progress)
    good: list[tuple[Entry, AudioInfo]] = []
    bad, short, silent, reasons = {}, {}, {}, {}
    for entry, path, info in zip(listing.entries, paths, infos, strict=True):
        if isinstance(info, str):
            bad[entry.wav] = reasons[entry.id] = info
        elif info.notes:
            bad[entry.wav] = reasons[entry.id] = "; ".join(info.notes)
        elif info.seconds < min_seconds:
            short[entry.wav] = reasons[entry.id] = f"{info.seconds:.2f} s"
        elif _is_silent(path, info):
            silent[entry.wav] = reasons[entry.id] = "silent"
        else:
            good.append((entry, info))
    left_out = {**bad, **short, **silent}
    bad_files = save / "bad_files.txt"
    bad_files.unlink(missing_ok=True)
    if left_out:
        lines = [f"{wav}\t{reason}\n" for wav, reason in left_out.items()]
        write_text(bad_files, "".join(lines))
    if bad and not skip_bad:
        advice = _CONVERT if any("AAC" in reason for reason in bad.values()) else ""
        raise UserError(
            f"{len(bad)} of {len(infos)} files in {listing.root} cannot be used:"
            f"{_lines(bad, bad_files)}\nRepair or remove them, or leave them out with "
            f"skip_bad (prepare: --skip-bad; train: --skip_bad=True){advice}"
        )
    for group, kind in (
        (bad, "unreadable files"),
        (short, f"files shorter than {min_seconds} s (min_seconds)"),
        (silent, "silent files"),
    ):
        if group:
            listing.notes.append(
                f"left out {len(group)} {kind}:{_lines(group, bad_files)}"
            )
    listing.notes += _notes(listing.root, good)
    utterances = [
        (e, Utterance(e.id, e.wav, round(i.seconds, 6), e.spk_id, i.rate, e.meta))
        for e, i in good
    ]
    return utterances, reasons


def _read_infos(
    paths: Sequence[Path], check: str, workers: int, progress: bool
) -> list[AudioInfo | str]:
    """What each file is, or why it is unreadable; in threads."""
    from tqdm import tqdm

    chunks = [paths[i : i + _CHUNK] for i in range(0, len(paths), _CHUNK)]
    infos: list[AudioInfo | str] = []
    with (
        ThreadPoolExecutor(workers or 2 * (os.cpu_count() or 1)) as pool,
        tqdm(
            total=len(paths),
            desc="reading headers",
            unit="file",
            disable=None if progress else True,
        ) as bar,
    ):
        for part in pool.map(partial(_read_chunk, check=check), chunks):
            infos += part
            bar.update(len(part))
    return infos


def _read_chunk(paths: Sequence[Path], check: str) -> list[AudioInfo | str]:
    return [_read_info(path, check) for path in paths]


def _read_info(path: Path, check: str) -> AudioInfo | str:
    try:
        return audio_info(path, check)
    except UserError as error:
        return str(error).replace(f"{path}: ", "").replace(f"{path} ", "")


def _is_silent(path: Path, info: AudioInfo) -> bool:
    """Decodes all of a file whose ends are silent."""
    if info.peak is None or info.peak >= SILENT:
        return False
    return float(np.ptp(load_audio(path))) / 2 < SILENT


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
        more = f"\n  ... and {len(copies) - _NAMED} more" * (len(copies) > _NAMED)
        lines = "".join(f"\n  {' = '.join(files)}" for files in copies[:_NAMED])
        notes.append(
            f"{len(copies)} recordings are under several speakers (remove the wrong "
            f"ones):{lines}{more}"
        )
    return notes


def _copies(root: Path, good: Iterable[tuple[Entry, AudioInfo]]) -> list[list[str]]:
    """Files with the same bytes under different speakers."""
    alike: defaultdict[object, list[Entry]] = defaultdict(list)
    for entry, info in good:
        if info.peak is not None:
            alike[info.frames, info.rate, info.checksum].append(entry)
    copies = []
    for entries in alike.values():
        if len({entry.spk_id for entry in entries}) == 1:
            continue
        same: defaultdict[str, list[Entry]] = defaultdict(list)
        for entry in entries:
            same[hash_file(root / entry.wav)].append(entry)
        copies += [
            [entry.wav for entry in group]
            for group in same.values()
            if len({entry.spk_id for entry in group}) > 1
        ]
    return copies


def _lines(files: Mapping[str, str], bad_files: Path) -> str:
    lines = [f"\n  {wav}: {reason}" for wav, reason in list(files.items())[:_NAMED]]
    if len(files) > _NAMED:
        lines.append(f"\n  ... and {len(files) - _NAMED} more, all in {bad_files}")
    return "".join(lines)
