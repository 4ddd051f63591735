"""Speakers in the Wild: evaluation only, core-core condition.

``dev/`` and ``eval/``, each with ``lists/enroll-core.lst`` (model, file),
``keys/core-core.lst`` (model, file, tgt or imp) and ``audio/``. About 60 of its
speakers are in VoxCeleb1 as well: models for it are trained on VoxCeleb2.
"""

from __future__ import annotations

import os
from pathlib import Path

from sb_margins.data.corpus import Corpus, Entry, Listing, wrong_layout
from sb_margins.data.trials import Trials, read_models, read_trials
from sb_margins.errors import UserError, listed

_EXPECTED = (
    "expected dev/ and eval/, each with lists/enroll-core.lst, keys/core-core.lst and "
    "audio/*.flac (or *.wav)"
)


def collect(folder: Path, *, seed: int) -> Listing:
    """List SITW's core-core trials: ``dev`` and ``test`` (its eval)."""
    parts = _parts(folder)
    if not parts:
        raise wrong_layout(folder, "SITW", _EXPECTED)
    listing = Listing(folder, [], official=True)
    listing.notes.append("SITW is for evaluation: nothing to train on")
    for split, part in parts.items():
        trials = _trials(part)
        listing.trials[split] = trials
        # speakers, as far as the target trials say which files share one
        names, group = trials.groups()
        speaker: dict[int, str] = {}
        for name, number in zip(names, group, strict=True):
            speaker.setdefault(number, Path(name).stem)
            listing.entries.append(Entry(name, name, speaker[number], split))
    return listing


def _parts(folder: Path) -> dict[str, Path]:
    """The folder of each split that is there."""
    return {
        split: folder / name
        for split, name in (("dev", "dev"), ("test", "eval"))
        if (folder / name / "keys" / "core-core.lst").is_file()
    }


def _trials(part: Path) -> Trials:
    """The core-core trials under paths as they are: as listed, or converted."""
    models = part / "lists" / "enroll-core.lst"
    keys = part / "keys" / "core-core.lst"
    if not models.is_file():
        raise UserError(f"no {models}: {_EXPECTED}")
    files = read_models(models)
    missing: dict[str, None] = {}

    def path_of(name: str) -> str:
        name, *_ = files.get(name, (name,))
        stem = os.path.splitext(name)[0]
        for path in (name, f"{stem}.wav", f"{stem}.flac"):
            if (part / path).is_file():
                return f"{part.name}/{path}"
        missing[name] = None
        return name

    trials = read_trials(keys, labelled=True).renamed(path_of)
    if missing:
        raise UserError(
            f"{keys} names {len(missing)} models or files that are not in {part}: "
            f"{listed(list(missing), 5)}. {_EXPECTED}"
        )
    return trials


CORPUS = Corpus(
    "sitw",
    "Speakers in the Wild, core-core (evaluation only)",
    collect,
    recognise=lambda folder: bool(_parts(folder)),
)
