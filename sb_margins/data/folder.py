"""Any folder of recordings: ``speaker/.../audio``, or one with a manifest.

With a ``manifest.csv``, a ``manifest.json`` or Kaldi's ``wav.scp`` and ``utt2spk`` (see
`Manifest.read`), ``splits.csv`` (``utt_id`` or ``spk_id``, ``split``), ``speakers.csv``
(``spk_id`` and metadata) and ``trials_<split>.txt`` are used when they are there.
What is not there is made from the seed.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from sb_margins.data.corpus import (
    AUDIO,
    Corpus,
    Entry,
    Listing,
    plain_id,
    short_hash,
    walk,
)
from sb_margins.data.manifest import COLUMNS, ID, SPEAKER, Manifest
from sb_margins.data.tables import Row, read_table
from sb_margins.data.trials import read_trials
from sb_margins.errors import UserError, listed, nearest

_SPLIT_NAME = re.compile(
    r"(train|dev|test|eval|valid)(ation|ing|uation)?([-_ .\d].*)?$"
)
_EXPECTED = (
    "expected <data folder>/<speaker>/.../<audio file>, or a manifest.csv "
    "(utt_id,spk_id,path) in the data folder"
)


def collect(
    folder: Path,
    *,
    seed: int,
    dev_share: float = 0.15,
    test_share: float = 0.15,
    eval_utterances: int = 20,
) -> Listing:
    """List a folder's recordings."""
    if _manifest_of(folder):
        return annotated(folder, dev_share, eval_utterances)
    files = list(walk(folder))
    if not files:
        names = sorted(p.name for p in folder.iterdir())
        raise UserError(
            f"no audio ({', '.join(sorted(e[1:] for e in AUDIO))}) under {folder}: "
            f"{_EXPECTED}. It holds: {listed(names, 5) or 'nothing'}"
        )
    inside = [name for name in files if "/" in name]
    loose = [name for name in files if "/" not in name]
    if not inside:
        raise UserError(
            f"{folder} has {len(loose)} audio files and no speaker folders: "
            f"{_EXPECTED}. Found for instance: {loose[0]}"
        )
    _check_speakers(folder, inside)
    entries = [Entry(plain_id(n), n, plain_id(n.split("/")[0])) for n in inside]
    listing = Listing(folder, entries)
    if loose:
        listing.notes.append(
            f"passed over {len(loose)} files outside speaker folders: {listed(loose)}"
        )
    return listing


def _manifest_of(folder: Path) -> Path | None:
    for names in (["manifest.csv"], ["manifest.json"], ["wav.scp", "utt2spk"]):
        if all((folder / name).is_file() for name in names):
            return folder / names[0]
    return None


def _check_speakers(folder: Path, files: list[str]) -> None:
    """Refuse one speaker, and folders that are splits rather than speakers."""
    speakers = Counter(name.split("/")[0] for name in files)
    below = sorted({"/".join(n.split("/")[:2]) for n in files if n.count("/") > 1})
    if len(speakers) == 1:
        hint = ""
        if below:
            hint = (
                f". If its {len(below)} folders ({', '.join(below[:3])}, ...) are the "
                f"speakers, give --data-folder {folder / below[0].split('/')[0]}"
            )
        raise UserError(
            f"only one speaker in {folder}: '{next(iter(speakers))}' with "
            f"{len(files)} files; verification takes several. {_EXPECTED}{hint}"
        )
    named_like_splits = all(_SPLIT_NAME.match(name.lower()) for name in speakers)
    with_folders = {name.split("/")[0] for name in below}
    if named_like_splits and len(with_folders) == len(speakers) < 9:
        raise UserError(
            f"the folders in {folder} ({', '.join(sorted(speakers))}) look like "
            f"splits, not speakers: {_EXPECTED}; a split is given by splits.csv "
            "(utt_id,spk_id,split). To divide the speakers of one of them, give "
            f"--data-folder {folder / max(speakers, key=lambda s: speakers[s])}"
        )


def annotated(
    folder: Path, dev_share: float = 0.15, eval_utterances: int = 20
) -> Listing:
    """List a folder that has a manifest.

    Without a dev split in ``splits.csv``, ``dev_share`` of the training speakers is
    held out; without a training split, the folder is for evaluation only.
    """
    table = _manifest_of(folder)
    assert table is not None
    about_speaker = _speaker_table(folder)
    split_of, by_utterance = _split_table(folder)
    listing = Listing(folder, [], eval_utterances=eval_utterances)
    without_split = []
    for u in Manifest.read(table, folder):
        if not u.spk_id:
            raise UserError(f"{table} has no speaker of '{u.id}'")
        name, speaker = plain_id(u.id), plain_id(u.spk_id)
        split = split_of.get(name if by_utterance else speaker, "")
        if split_of and not split:
            without_split.append(name)
            continue
        about = {**u.meta, **about_speaker.get(speaker, {})}
        meta = {k: v for k, v in about.items() if k not in COLUMNS}
        wav = u.wav.replace("\\", "/")
        listing.entries.append(Entry(name, wav, speaker, split, meta))
    speakers = {e.spk_id for e in listing.entries}
    if not speakers:
        what = "and splits.csv share no utterance" if without_split else "is empty"
        raise UserError(f"{table} {what}")
    if len(speakers) == 1:
        raise UserError(
            f"only one speaker in {table}: '{speakers.pop()}'; verification takes "
            "several"
        )
    if without_split:
        listing.notes.append(
            f"left out {len(without_split)} utterances without a split: "
            f"{listed(without_split)}"
        )
    if split_of:
        _use_splits(listing, dev_share)
    return listing


def _use_splits(listing: Listing, dev_share: float) -> None:
    """Check the splits of ``splits.csv`` and read the trial lists that are there."""
    splits = sorted({e.split for e in listing.entries})
    if "train" in splits:
        trained = len({e.spk_id for e in listing.entries if e.split == "train"})
        listing.dev_speakers = min(50, max(2, round(dev_share * trained)))
        splits.remove("train")
    elif near := nearest("train", splits):
        raise UserError(
            f"{listing.root / 'splits.csv'} has no split 'train'; it has: "
            f"{', '.join(splits)}.{near.replace('Did you mean', 'Is it')}"
        )
    else:
        listing.notes.append("no split 'train': for evaluation only")
    for split in splits:
        path = listing.root / f"trials_{split}.txt"
        if path.is_file():
            listing.trials[split] = read_trials(path, labelled=True)


def _rows(path: Path, **columns: tuple[str, ...]) -> list[Row]:
    rows = list(read_table(path, **columns))
    if not rows:
        raise UserError(f"{path} is empty")
    return rows


def _speaker_table(folder: Path) -> dict[str, dict[str, str]]:
    """Metadata by speaker."""
    path = folder / "speakers.csv"
    if not path.is_file():
        return {}
    return {
        plain_id(known["spk_id"]): {k: v for k, v in others.items() if k != "split"}
        for _, known, others in _rows(path, spk_id=SPEAKER)
    }


def _split_table(folder: Path) -> tuple[dict[str, str], bool]:
    """Split by utterance ID (True) or by speaker (False)."""
    path = folder / "splits.csv"
    if not path.is_file():
        return {}, True
    rows = _rows(path, key=(*ID, ""), split=("split",))
    by_utterance = any(row.known["key"] for row in rows)
    if not by_utterance:
        rows = _rows(path, key=SPEAKER, split=("split",))
    return {plain_id(r.known["key"]): r.known["split"] for r in rows}, by_utterance


def stamp(folder: Path) -> str:
    """Changes when files come, go or the tables change; reads no audio."""
    if not (table := _manifest_of(folder)):
        return short_hash(walk(folder))
    tables = {*folder.glob("*.csv"), *folder.glob("trials_*.txt"), table}
    stats = ((p.name, p.stat()) for p in sorted(tables))
    return short_hash(f"{name} {s.st_size} {s.st_mtime_ns}" for name, s in stats)


CORPUS = Corpus(
    "folder",
    "any folder of speaker/.../audio files, or one with a manifest",
    collect,
    help={
        "dev_share": "share of the speakers held out as dev, without a splits.csv",
        "test_share": "share of the speakers held out as test, without a splits.csv",
        "eval_utterances": "most utterances of a held-out speaker (0 = all)",
    },
    stamp=stamp,
)
