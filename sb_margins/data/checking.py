"""Sorts good files from bad ones, and tells the user about all of them at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sb_margins.data.audio_files import Header
from sb_margins.data.corpus import Entry, Listing
from sb_margins.data.manifest import Utterance
from sb_margins.errors import UserError

MODEL_RATE = 16_000
_SHOWN = 20


def usable(
    listing: Listing,
    headers: Sequence[Header],
    common: Mapping[str, Any],
    save: Path,
) -> tuple[list[tuple[Entry, Utterance]], dict[str, str]]:
    """The good files as utterances; bad ones told all at once, by name.

    Arguments
    ---------
    listing : Listing
        Its ``notes`` grow.
    headers : sequence of Header
        One per entry.
    common : mapping
        ``skip_bad`` and ``min_seconds``.
    save : Path
        Gets ``bad_files.txt`` when something is left out.

    Returns
    -------
    tuple of list and dict
        Entries with their utterances, and the IDs left out with the reason.

    Raises
    ------
    UserError
        For unreadable files, unless ``skip_bad``.

    Example
    -------
    >>> listing = Listing(Path("corpus"), [Entry("a", "a.wav", "s")])
    >>> common = {"skip_bad": False, "min_seconds": 0.4}
    >>> good, _ = usable(listing, [Header(16000, 16000, 1)], common, Path("."))
    >>> good[0][1].duration
    1.0
    """
    bad: dict[str, str] = {}
    short: dict[str, str] = {}
    rates: Counter[int] = Counter()
    several = 0
    good, left_out = [], {}
    for entry, header in zip(listing.entries, headers, strict=True):
        if header.problem:
            bad[entry.wav] = left_out[entry.id] = header.problem
        elif header.duration < common["min_seconds"]:
            short[entry.wav] = left_out[entry.id] = f"{header.duration:.2f} s"
        else:
            rates[header.sample_rate] += 1
            several += header.channels > 1
            utterance = Utterance(
                entry.id,
                entry.wav,
                round(header.duration, 6),
                entry.spk_id,
                header.sample_rate,
                entry.meta,
            )
            good.append((entry, utterance))
    listed = save / "bad_files.txt"
    listed.unlink(missing_ok=True)
    if bad or short:
        lines = [f"{wav}\t{why}" for wav, why in {**bad, **short}.items()]
        listed.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if bad and not common["skip_bad"]:
        raise UserError(
            f"{len(bad)} of {len(headers)} files in {listing.root} cannot be used:"
            f"{_told(bad, listed)}\nRepair or remove them, or leave them out with "
            f"skip_bad (--skip_bad true){_advice(bad)}"
        )
    if bad:
        listing.notes.append(
            f"left out {len(bad)} unreadable files:{_told(bad, listed)}"
        )
    if short:
        listing.notes.append(
            f"left out {len(short)} files shorter than {common['min_seconds']} s "
            f"(min_seconds):{_told(short, listed)}"
        )
    if set(rates) - {MODEL_RATE}:
        told = ", ".join(f"{rate} Hz: {n}" for rate, n in sorted(rates.items()))
        listing.notes.append(f"sample rates differ from 16000 Hz ({told} files)")
    if several:
        listing.notes.append(f"{several} files have several channels")
    return good, left_out


def _told(files: Mapping[str, str], listed: Path) -> str:
    lines = [f"\n  {name}: {why}" for name, why in list(files.items())[:_SHOWN]]
    if len(files) > _SHOWN:
        lines.append(f"\n  ... and {len(files) - _SHOWN} more, all in {listed}")
    return "".join(lines)


def _advice(bad: Mapping[str, str]) -> str:
    if any("AAC" in why for why in bad.values()):
        return (
            ".\nAAC files (.m4a): convert each beside itself, for instance with\n"
            "  find FOLDER -name '*.m4a' -print0 | xargs -0 -P 8 -I{} sh -c "
            '\'ffmpeg -loglevel error -n -i "$1" -ar 16000 -ac 1 "${1%.m4a}.flac"\' '
            "_ {}"
        )
    return ""
