"""Any folder of recordings: ``speaker/.../audio``, or one with a ``manifest.csv``.

With a ``manifest.csv`` (columns ``utt_id`` or ``ID``, ``spk_id``, ``path`` or
``wav``, any others are kept as metadata), ``splits.csv`` (``utt_id`` or
``spk_id``, ``split``), ``speakers.csv`` (``spk_id`` and metadata) and
``trials_<split>.txt`` are used when they are there. What is not there is made
from the seed.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

from sb_margins.data.audio_files import AUDIO, walk
from sb_margins.data.corpus import Corpus, Entry, Listing, digest, plain_id
from sb_margins.data.trials import read_trials
from sb_margins.errors import UserError

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
    """List a folder's recordings.

    Arguments
    ---------
    folder : Path
    seed : int
        Not used here: the split is drawn later.
    dev_share, test_share : float
        Share of the speakers held out, when there is no ``splits.csv``.
    eval_utterances : int
        Most utterances of a held-out speaker; 0 = all.

    Returns
    -------
    Listing

    Raises
    ------
    UserError
        When the layout is another one.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for name in ("ann", "bob"):
    ...     (folder / name).mkdir()
    ...     (folder / name / "1.wav").touch()
    >>> [e.id for e in collect(folder, seed=1).entries]
    ['ann/1.wav', 'bob/1.wav']
    """
    if (folder / "manifest.csv").is_file():
        return annotated(folder, dev_share, eval_utterances)
    files = list(walk(folder))
    if not files:
        found = sorted(p.name for p in folder.iterdir())[:5]
        raise UserError(
            f"no audio ({', '.join(sorted(e[1:] for e in AUDIO))}) under {folder}: "
            f"{_EXPECTED}. It holds: {', '.join(found) or 'nothing'}"
        )
    inside = [name for name in files if "/" in name]
    loose = len(files) - len(inside)
    if not inside:
        raise UserError(
            f"{folder} has {loose} audio files and no speaker folders: {_EXPECTED}. "
            f"Found for instance: {files[0]}"
        )
    entries = [Entry(plain_id(n), n, plain_id(n.split("/")[0])) for n in inside]
    listing = Listing(folder, entries)
    if loose:
        listing.notes.append(f"passed over {loose} files outside speaker folders")
    _check_speakers(folder, inside)
    return listing


def _check_speakers(folder: Path, files: list[str]) -> None:
    """Refuse one speaker, and folders that are splits rather than speakers."""
    speakers = Counter(name.split("/")[0] for name in files)
    below = sorted({"/".join(n.split("/")[:2]) for n in files if n.count("/") > 1})
    hint = ""
    if below:
        hint = (
            f". If its {len(below)} folders ({', '.join(below[:3])}, ...) are the "
            f"speakers, give --data_folder {folder / below[0].split('/')[0]}"
        )
    if len(speakers) == 1:
        raise UserError(
            f"only one speaker in {folder}: '{next(iter(speakers))}' with "
            f"{len(files)} files; verification takes several. {_EXPECTED}{hint}"
        )
    named_so = all(_SPLIT_NAME.match(name.lower()) for name in speakers)
    if named_so and len({name.split("/")[0] for name in below}) == len(speakers) < 9:
        raise UserError(
            f"the folders in {folder} ({', '.join(sorted(speakers))}) look like "
            f"splits, not speakers: {_EXPECTED}; a split is told by splits.csv "
            "(utt_id,spk_id,split). To divide the speakers of one of them, give "
            f"--data_folder {folder / max(speakers, key=lambda s: speakers[s])}"
        )


def annotated(
    folder: Path, dev_share: float = 0.15, eval_utterances: int = 20
) -> Listing:
    """List a folder that has a ``manifest.csv``.

    Arguments
    ---------
    folder : Path
    dev_share : float
        Share of the training speakers held out when ``splits.csv`` has no dev.
    eval_utterances : int
        Most utterances of each of those; 0 = all.

    Returns
    -------
    Listing

    Raises
    ------
    UserError
        When a table lacks a column or tables contradict each other.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> table = "ID,spk_id,wav,accent\\nu1,s1,a.wav,x\\nu2,s2,b.wav,y\\n"
    >>> _ = (folder / "manifest.csv").write_text(table)
    >>> annotated(folder).entries[0]
    Entry(id='u1', wav='a.wav', spk_id='s1', split='', meta={'accent': 'x'})
    """
    rows, names = _table(folder / "manifest.csv")
    id_key = _column(names, ("utt_id", "ID", "id"), folder / "manifest.csv")
    wav_key = _column(names, ("path", "wav", "file"), folder / "manifest.csv")
    spk_key = _column(names, ("spk_id", "speaker"), folder / "manifest.csv")
    told = {id_key, wav_key, spk_key, "duration", "sample_rate"}
    about = _speaker_table(folder)
    split_of, by_utterance = _split_table(folder)
    entries, nowhere, ids = [], 0, set()
    for row in rows:
        name, speaker = plain_id(row[id_key]), plain_id(row[spk_key])
        if not row[id_key] or not row[spk_key] or not row[wav_key]:
            raise UserError(
                f"{folder / 'manifest.csv'}: a row lacks its ID, speaker or path: {row}"
            )
        if name in ids:
            raise UserError(f"{folder / 'manifest.csv'} names '{name}' twice")
        ids.add(name)
        split = split_of.get(name if by_utterance else speaker, "")
        if split_of and not split:
            nowhere += 1
            continue
        meta = {k: v for k, v in row.items() if k not in told and k and v}
        meta.update(about.get(speaker, {}))
        wav = row[wav_key].replace("\\", "/")
        entries.append(Entry(name, wav, speaker, split, meta))
    if not entries:
        raise UserError(f"{folder / 'manifest.csv'} and splits.csv share no utterance")
    listing = Listing(folder, entries, eval_utterances=eval_utterances)
    if nowhere:
        listing.notes.append(f"left out {nowhere} utterances without a split")
    splits = {e.split for e in entries}
    speakers = {e.spk_id for e in entries}
    if len(speakers) == 1:
        raise UserError(
            f"only one speaker in {folder / 'manifest.csv'}: "
            f"'{next(iter(speakers))}'; verification takes several"
        )
    if split_of and "train" not in splits:
        raise UserError(
            f"{folder / 'splits.csv'} has no split 'train'; "
            f"it has: {', '.join(sorted(splits))}"
        )
    if split_of:
        trained = len({e.spk_id for e in entries if e.split == "train"})
        listing.dev_speakers = min(50, max(2, round(dev_share * trained)))
        for split in sorted(splits - {"train"}):
            path = folder / f"trials_{split}.txt"
            if path.is_file():
                listing.trials[split] = read_trials(path, labelled=True)
    return listing


def _table(path: Path) -> tuple[list[dict[str, str]], list[str]]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        rows = list(reader)
    if not rows:
        raise UserError(f"{path} is empty")
    return rows, list(reader.fieldnames or ())


def _column(names: list[str], choices: tuple[str, ...], path: Path) -> str:
    for choice in choices:
        if choice in names:
            return choice
    raise UserError(
        f"{path} has no column {' or '.join(choices)}; it has: {', '.join(names)}"
    )


def _speaker_table(folder: Path) -> dict[str, dict[str, str]]:
    path = folder / "speakers.csv"
    if not path.is_file():
        return {}
    rows, names = _table(path)
    key = _column(names, ("spk_id", "speaker"), path)
    drop = {key, "split"}
    return {
        plain_id(row[key]): {k: v for k, v in row.items() if k not in drop and k and v}
        for row in rows
    }


def _split_table(folder: Path) -> tuple[dict[str, str], bool]:
    """Split by utterance ID (True) or by speaker (False)."""
    path = folder / "splits.csv"
    if not path.is_file():
        return {}, True
    rows, names = _table(path)
    split = _column(names, ("split",), path)
    key = _column(names, ("utt_id", "ID", "id", "spk_id", "speaker"), path)
    return {plain_id(r[key]): r[split] for r in rows}, key not in ("spk_id", "speaker")


def stamp(folder: Path) -> str:
    """Changes when files come, go or the tables change; reads no audio.

    Arguments
    ---------
    folder : Path

    Returns
    -------
    str

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> before = stamp(folder)
    >>> (folder / "new.wav").touch()
    >>> stamp(folder) == before
    False
    """
    if not (folder / "manifest.csv").is_file():
        return digest(walk(folder))
    tables = sorted([*folder.glob("*.csv"), *folder.glob("trials_*.txt")])
    return digest(f"{p.name} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in tables)


CORPUS = Corpus(
    "folder",
    "any folder of speaker/.../audio files, or one with a manifest.csv",
    collect,
    help={
        "dev_share": "share of the speakers held out as dev, without a splits.csv",
        "test_share": "share of the speakers held out as test, without a splits.csv",
        "eval_utterances": "most utterances of a held-out speaker (0 = all)",
    },
    stamp=stamp,
)
