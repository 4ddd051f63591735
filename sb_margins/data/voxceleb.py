"""VoxCeleb 1 and 2: ``.../<speaker id>/<video>/<utterance>.wav|flac|m4a``.

Any folder (up to four levels down) whose sub-folders are called ``id10001`` and so
on is taken for a tree of speakers, so both the archives' own layout
(``wav/...``, ``dev/aac/...``) and common rearrangements work. VoxCeleb1 has the
ids from id10001, VoxCeleb2 those below. Of a file that is there twice, the format
that can be read is used: m4a files may be converted beside themselves.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from sb_margins.data.corpus import (
    Corpus,
    Entry,
    Listing,
    choose,
    existing_folder,
    genders,
    path_prefix,
    short_hash,
    walk,
    wrong_layout,
)
from sb_margins.data.trials import Trials, read_trials
from sb_margins.errors import UserError

LISTS = {
    "O": ("test", "veri_test2.txt", "Vox1-O, cleaned: 40 speakers of VoxCeleb1 test"),
    "E": ("vox1_e", "list_test_all2.txt", "Vox1-E, cleaned: all of VoxCeleb1"),
    "H": ("vox1_h", "list_test_hard2.txt", "Vox1-H, cleaned: alike pairs, VoxCeleb1"),
}
LISTS_ADDRESS = "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/meta/"
_SPEAKER = re.compile(r"id\d{5}$")
_FIRST_OF_VOX1 = "id10001"
_PREFERENCE = (".wav", ".flac", ".ogg", ".mp3", ".m4a")
_EXPECTED = (
    "expected <data folder>/.../wav/id10001/<video>/00001.wav (VoxCeleb1) and "
    ".../dev/aac/id00012/<video>/00001.m4a, or wav or flac (VoxCeleb2)"
)


def collect(
    folder: Path,
    *,
    seed: int,
    voxceleb2: str = "",
    train: str = "auto",
    lists: str = "O",
    list_folder: str = "",
    dev_speakers: int = 40,
    eval_utterances: int = 20,
) -> Listing:
    """List VoxCeleb: the files of the trial lists, and all other speakers to train.

    No speaker of a list is trained on.
    """
    choose("train", train, ("auto", "vox1", "vox2", "vox1+vox2", "none"))
    roots = [folder] + ([existing_folder(voxceleb2)] if voxceleb2 else [])
    root = Path(os.path.commonpath(roots))
    trees = [tree for one in roots for tree in speaker_trees(one)]
    if not trees:
        raise wrong_layout(folder, "VoxCeleb", _EXPECTED)
    files = _files(root, trees)
    if not files:
        raise UserError(f"the speaker folders in {folder} hold no audio: {_EXPECTED}")
    wavs = dict(files.values())
    gender = _genders(roots)
    near = [existing_folder(list_folder)] if list_folder else [*roots, *trees]
    listing = Listing(
        root, [], dev_speakers=dev_speakers, eval_utterances=eval_utterances
    )

    def add(name: str, split: str) -> None:
        speaker = name.split("/")[0]
        meta = {"gender": gender[speaker]} if speaker in gender else {}
        listing.entries.append(Entry(name, wavs[name], speaker, split, meta))

    tested: set[str] = set()
    for list_name in _list_names(lists, near):
        split, file_name, _ = LISTS[list_name]
        trials = _with_ids(_find(file_name, near), files)
        listing.trials[split] = trials
        for name in trials.utterances:
            tested.add(name.split("/")[0])
            add(name, split)
    parts = _training_parts(train, wavs)
    for name in sorted(wavs):
        if name.split("/")[0] not in tested and _part(name) in parts:
            add(name, "train")
    if parts and not any(entry.split == "train" for entry in listing.entries):
        raise UserError(
            f"no speaker is left to train on (train={train}, lists={lists}): the "
            "speakers of the lists are never trained on, and the lists E and H use "
            "all of VoxCeleb1, so that they take VoxCeleb2 to train"
        )
    return listing


def speaker_trees(folder: Path, depth: int = 4) -> list[Path]:
    """The folders whose sub-folders are VoxCeleb speakers.

    VoxCeleb2's own test part is passed over, as everybody does: its 118 speakers
    are in no list and the published results do not train on them.
    """
    inside = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    speakers = [name for name in inside if _SPEAKER.match(name)]
    if speakers:
        in_test = any(
            part == "test" or part.startswith("vox2_test")
            for part in (folder.name, folder.parent.name)
        )
        return [] if in_test and _part(speakers[0]) == "vox2" else [folder]
    if depth == 0:
        return []
    below = (speaker_trees(folder / n, depth - 1) for n in inside if n[0] != ".")
    return [tree for trees in below for tree in trees]


def _part(name: str) -> str:
    """Which VoxCeleb a speaker, or an utterance of one, belongs to."""
    return "vox2" if name.split("/")[0] < _FIRST_OF_VOX1 else "vox1"


def _files(root: Path, trees: list[Path]) -> dict[str, tuple[str, str]]:
    """``speaker/video/utterance`` to its ID (with extension) and path."""
    files: dict[str, tuple[str, str]] = {}
    for tree in trees:
        prefix = path_prefix(tree, root)
        for speaker in filter(_SPEAKER.match, sorted(os.listdir(tree))):
            for inside in walk(tree / speaker):
                name = f"{speaker}/{inside}"
                stem = os.path.splitext(name)[0]
                if stem not in files or _rank(name) < _rank(files[stem][0]):
                    files[stem] = (name, prefix + name)
    return files


def _rank(name: str) -> int:
    kind = os.path.splitext(name)[1].lower()
    return _PREFERENCE.index(kind) if kind in _PREFERENCE else len(_PREFERENCE)


def _list_names(lists: str, near: Iterable[Path]) -> list[str]:
    if lists == "any":
        there = [n for n, (_, file, _) in LISTS.items() if _places(file, near)]
        return there or ["O"]  # whose error says what is missing
    names = [name.strip().upper() for name in lists.split(",") if name.strip()]
    for name in names:
        if name not in LISTS:
            known = "; ".join(f"{key}: {text}" for key, (_, _, text) in LISTS.items())
            raise UserError(f"no trial list '{name}' (lists={lists}). Known: {known}")
    if not names:
        raise UserError("lists is empty; give O, or O,E,H")
    return list(dict.fromkeys(names))


def _places(file_name: str, near: Iterable[Path]) -> list[Path]:
    """The list in the folders, two levels above them, or in meta folders."""
    return [
        path
        for folder in near
        for place in (folder, folder.parent, folder.parent.parent)
        for inside in ("", "meta", "metadata", "trials", "lists")
        if (path := place / inside / file_name).is_file()
    ]


def _find(file_name: str, near: Iterable[Path]) -> Path:
    if places := _places(file_name, near):
        return places[0]
    raise UserError(
        f"the trial list {file_name} is in none of {', '.join(map(str, near))}. Get it "
        f"from {LISTS_ADDRESS}{file_name} and put it in the data folder, or give its "
        "folder as list_folder (nothing is downloaded by itself)"
    )


def _with_ids(path: Path, files: dict[str, tuple[str, str]]) -> Trials:
    """The list's trials with our IDs: the extensions of the files that are there."""
    trials = read_trials(path, labelled=True)
    missing = [n for n in trials.utterances if os.path.splitext(n)[0] not in files]
    if missing:
        raise UserError(
            f"{path.name} names {len(missing)} files that are not in the data folder, "
            f"for instance {missing[0]}. The lists O, E and H take "
            "VoxCeleb1 (dev and test) as <...>/wav/id10001/<video>/00001.wav"
        )
    return trials.renamed(lambda name: files[os.path.splitext(name)[0]][0])


def _training_parts(train: str, names: Iterable[str]) -> list[str]:
    if train == "none":
        return []
    has_vox2 = any(_part(name) == "vox2" for name in names)
    if train == "auto":
        return ["vox2" if has_vox2 else "vox1"]
    if "vox2" in train and not has_vox2:
        raise UserError(
            f"train={train}, but there is no VoxCeleb2 (id00012, ...): give its folder "
            "as voxceleb2, or train=vox1"
        )
    return train.split("+")


def _genders(roots: Iterable[Path]) -> dict[str, str]:
    """From ``vox1_meta.csv`` and ``vox2_meta.csv``, when they are there."""
    gender = {}
    for root in roots:
        for name in ("vox1_meta.csv", "vox2_meta.csv"):
            for path in (root / "meta" / name, root / name):  # the latter counts
                gender.update(genders(path, r"[\t,]"))
    return gender


def stamp(folder: Path) -> str:
    """Changes when speakers come or go; does not look at their files."""
    return short_hash(
        f"{tree.relative_to(folder)}/{name}"
        for tree in speaker_trees(folder)
        for name in sorted(os.listdir(tree))
    )


CORPUS = Corpus(
    "voxceleb",
    "VoxCeleb 1 and 2, trial lists O, E and H (cleaned)",
    collect,
    help={
        "voxceleb2": "a second folder, when VoxCeleb2 lies elsewhere",
        "train": "vox2, vox1, vox1+vox2, none or auto (vox2 when it is there)",
        "lists": "trial lists, as O or O,E,H; any: those that are there",
        "list_folder": "where veri_test2.txt etc. are, when not beside the data",
        "dev_speakers": "training speakers held out to choose the checkpoint",
        "eval_utterances": "most utterances of each of those (0 = all)",
    },
    stamp=stamp,
    recognise=lambda folder: bool(speaker_trees(folder)),
    evaluation={"train": "none", "lists": "any"},
)
