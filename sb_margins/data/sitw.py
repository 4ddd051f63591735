"""Speakers in the Wild: evaluation only, core-core condition.

``dev/`` and ``eval/``, each with ``lists/enroll-core.lst`` (model, file),
``keys/core-core.lst`` (model, file, tgt or imp) and ``audio/``. About 60 of its
speakers are in VoxCeleb1 as well: models for it are trained on VoxCeleb2.
"""

from __future__ import annotations

import os
from pathlib import Path

from sb_margins.data.corpus import Corpus, Entry, Listing
from sb_margins.data.trials import Trials, read_trials
from sb_margins.errors import UserError

_EXPECTED = (
    "expected dev/ and eval/, each with lists/enroll-core.lst, keys/core-core.lst and "
    "audio/*.flac (or *.wav)"
)


def collect(folder: Path, *, seed: int) -> Listing:
    """List SITW's core-core trials: ``dev`` and ``test`` (its eval).

    Arguments
    ---------
    folder : Path
        The one that holds ``dev`` and ``eval`` (or only ``eval``).
    seed : int
        Not used: nothing is drawn.

    Returns
    -------
    Listing

    Raises
    ------
    UserError
        When the layout is another one.

    Example
    -------
    >>> collect(getfixture("tmp_path"), seed=1)
    Traceback (most recent call last):
    ...
    sb_margins.errors.UserError: no SITW in ...: expected dev/ and eval/, ...
    """
    parts = {
        split: folder / name
        for split, name in (("dev", "dev"), ("test", "eval"))
        if (folder / name / "keys" / "core-core.lst").is_file()
    }
    if not parts:
        found = sorted(p.name for p in folder.iterdir())[:6]
        raise UserError(
            f"no SITW in {folder}: {_EXPECTED}. It holds: "
            f"{', '.join(found) or 'nothing'}"
        )
    listing = Listing(folder, [], official=True)
    listing.notes.append("SITW is for evaluation: nothing to train on")
    for split, part in parts.items():
        models = _models(part / "lists" / "enroll-core.lst")
        missing: dict[str, None] = {}

        def name(
            word: str,
            part: Path = part,
            models: dict[str, str] = models,
            missing: dict[str, None] = missing,
        ) -> str:
            path = _there(part, models.get(word, word))
            if path is None:
                missing[models.get(word, word)] = None
            return f"{part.name}/{path or word}"

        keys = part / "keys" / "core-core.lst"
        trials = read_trials(keys, labelled=True).renamed(name)
        if missing:
            raise UserError(
                f"{keys} names {len(missing)} models or files that are not in {part}: "
                f"{', '.join(list(missing)[:5])}. {_EXPECTED}"
            )
        listing.trials[split] = trials
        for utterance, speaker in _speakers(trials).items():
            listing.entries.append(Entry(utterance, utterance, speaker, split))
    return listing


def _models(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise UserError(f"no {path}: {_EXPECTED}")
    lines = path.read_text(encoding="utf-8").splitlines()
    return {line.split()[0]: line.split()[1] for line in lines if len(line.split()) > 1}


def _there(part: Path, name: str) -> str | None:
    """The file as listed, or converted to WAV beside it."""
    stem = os.path.splitext(name)[0]
    for path in (name, f"{stem}.wav", f"{stem}.flac"):
        if (part / path).is_file():
            return path
    return None


def _speakers(trials: Trials) -> dict[str, str]:
    """Speakers, as far as the target trials tell which files share one."""
    parent: dict[str, str] = {}

    def find(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for label, enrol, test in trials:
        a, b = find(enrol), find(test)
        if label:
            parent[max(a, b)] = min(a, b)
    return {name: Path(find(name)).stem for name in sorted(parent)}


CORPUS = Corpus("sitw", "Speakers in the Wild, core-core (evaluation only)", collect)
