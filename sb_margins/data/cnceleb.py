"""CN-Celeb 1 and 2, as OpenSLR 82 unpacks them.

``CN-Celeb_flac/data/<speaker>/<genre>-<n>-<m>.flac``, ``dev/dev.lst`` (training
speakers), ``eval/enroll``, ``eval/test`` and ``eval/lists/{enroll,trials}.lst``;
``CN-Celeb2_flac/data/<speaker>/...``. The enrolment side of a trial is the
concatenated file of ``eval/enroll`` (what others call CNC-Eval-Concat).
"""

from __future__ import annotations

import os
from pathlib import Path

from sb_margins.data.corpus import (
    Corpus,
    Entry,
    Listing,
    choose,
    existing_folder,
    is_audio,
    path_prefix,
    walk,
    wrong_layout,
)
from sb_margins.data.trials import read_models, read_trials
from sb_margins.errors import UserError, listed
from sb_margins.files import read_text

_EXPECTED = (
    "expected CN-Celeb_flac/ with data/<speaker>/<genre>-01-001.flac, dev/dev.lst, "
    "eval/enroll/, eval/test/, eval/lists/enroll.lst and eval/lists/trials.lst (and, "
    "for training on both, CN-Celeb2_flac/data/<speaker>/ beside it)"
)
_NEEDED = "data dev/dev.lst eval/lists/enroll.lst eval/enroll eval/test".split()


def collect(
    folder: Path,
    *,
    seed: int,
    cnceleb2: str = "",
    train: str = "all",
    dev_speakers: int = 40,
    eval_utterances: int = 20,
) -> Listing:
    """List CN-Celeb's training speakers and its evaluation trials.

    ``folder`` is ``CN-Celeb_flac`` itself, or the folder that holds it.
    """
    choose("train", train, ("all", "cnceleb1", "cnceleb2", "none"))
    first, second = _roots(folder, cnceleb2)
    if train == "cnceleb2" and second is None:
        raise UserError(f"train=cnceleb2, but no CN-Celeb2_flac by {folder}")
    root = Path(os.path.commonpath([first, second])) if second else first
    listing = Listing(
        root,
        [],
        dev_speakers=dev_speakers,
        eval_utterances=eval_utterances,
        official=True,
    )
    tested = _evaluation(listing, first)
    if train in ("all", "cnceleb1"):
        speakers = read_text(first / "dev" / "dev.lst").split()
        _training(listing, first, [s for s in speakers if s not in tested])
    if train in ("all", "cnceleb2") and second is not None:
        speakers = sorted(p.name for p in (second / "data").iterdir() if p.is_dir())
        _training(listing, second, [s for s in speakers if s not in tested])
    return listing


def _first_root(folder: Path) -> Path | None:
    """The folder of CN-Celeb 1, if it is there."""
    for first in (folder, folder / "CN-Celeb_flac", folder / "CN-Celeb"):
        if (first / "eval" / "lists" / "trials.lst").is_file():
            return first
    return None


def _roots(folder: Path, cnceleb2: str) -> tuple[Path, Path | None]:
    """The folders of CN-Celeb 1 and, when there, 2."""
    first = _first_root(folder)
    if first is None:
        raise wrong_layout(folder, "CN-Celeb", _EXPECTED)
    for needed in _NEEDED:
        if not (first / needed).exists():
            raise UserError(f"{first} has no {needed}: {_EXPECTED}")
    if cnceleb2:
        second = existing_folder(cnceleb2)
        if not (second / "data").is_dir():
            raise UserError(f"{second} has no data/<speaker>/ folders: {_EXPECTED}")
        return first, second
    for second in (first.parent / "CN-Celeb2_flac", first.parent / "CN-Celeb2"):
        if (second / "data").is_dir():
            return first, second
    return first, None


def _training(listing: Listing, corpus: Path, speakers: list[str]) -> None:
    prefix = path_prefix(corpus / "data", listing.root)
    absent = [s for s in speakers if not (corpus / "data" / s).is_dir()]
    if absent:
        raise UserError(
            f"{len(absent)} speakers of {corpus / 'dev' / 'dev.lst'} have no folder in "
            f"{corpus / 'data'}: {listed(absent, 5)}. Unpack the archive again"
        )
    for speaker in speakers:
        for inside in walk(corpus / "data" / speaker):
            name = f"{speaker}/{inside}"
            genre = {"genre": inside.split("/")[-1].split("-")[0]}
            listing.entries.append(Entry(name, prefix + name, speaker, "train", genre))


def _evaluation(listing: Listing, corpus: Path) -> set[str]:
    """The test split and its trials; returns the speakers in it."""
    prefix = path_prefix(corpus / "eval", listing.root)
    lists = corpus / "eval" / "lists"
    files = {}  # the lists say .wav, the archive holds .flac
    for side in ("enroll", "test"):
        for name in filter(is_audio, sorted(os.listdir(corpus / "eval" / side))):
            files[f"{side}/{os.path.splitext(name)[0]}"] = f"{side}/{name}"
    models = read_models(lists / "enroll.lst")
    missing: dict[str, None] = {}

    def file_of(name: str) -> str:
        path, *_ = models.get(name, (name,))
        stem = os.path.splitext(path)[0]
        if stem not in files:
            missing[path] = None
        return files.get(stem, path)

    trials = read_trials(lists / "trials.lst", labelled=True).renamed(file_of)
    if missing:
        raise UserError(
            f"{lists / 'trials.lst'} names {len(missing)} files that are not in "
            f"{corpus / 'eval'}: {listed(list(missing), 5)}. Unpack it again"
        )
    listing.trials["test"] = trials
    speakers = set()
    for name in trials.utterances:
        side, stem = name.split("/")
        speaker, _, rest = stem.partition("-")
        genre = {"genre": rest.split("-")[0] if side == "test" else "enroll"}
        listing.entries.append(Entry(name, prefix + name, speaker, "test", genre))
        speakers.add(speaker)
    return speakers


CORPUS = Corpus(
    "cnceleb",
    "CN-Celeb 1 and 2 (training and evaluation)",
    collect,
    help={
        "cnceleb2": "CN-Celeb2_flac, when it is not beside CN-Celeb_flac",
        "train": "all that is there, cnceleb1, cnceleb2 or none",
        "dev_speakers": "training speakers held out to choose the checkpoint",
        "eval_utterances": "most utterances of each of those (0 = all)",
    },
    recognise=lambda folder: _first_root(folder) is not None,
    evaluation={"train": "none"},
)
