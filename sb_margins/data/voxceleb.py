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
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from sb_margins.data.audio_files import is_audio
from sb_margins.data.corpus import Corpus, Entry, Listing, digest, existing_folder
from sb_margins.data.trials import Trials, read_trials
from sb_margins.errors import UserError

LISTS = {
    "O": ("test", "veri_test2.txt", "Vox1-O, cleaned: 40 speakers of VoxCeleb1 test"),
    "E": ("vox1_e", "list_test_all2.txt", "Vox1-E, cleaned: all of VoxCeleb1"),
    "H": ("vox1_h", "list_test_hard2.txt", "Vox1-H, cleaned: alike pairs, VoxCeleb1"),
}
LISTS_ADDRESS = "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/meta/"
TRAIN = ("auto", "vox1", "vox2", "vox1+vox2")
_ID = re.compile(r"id\d{5}$")
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
    """List VoxCeleb: training speakers, and the files of the trial lists.

    Arguments
    ---------
    folder : Path
        VoxCeleb1, or a folder that holds both.
    seed : int
        Not used here: dev speakers are drawn later.
    voxceleb2 : str
        A second folder, when VoxCeleb2 lies elsewhere.
    train : str
        ``vox2``, ``vox1``, ``vox1+vox2``, or ``auto``: vox2 when it is there.
    lists : str
        Trial lists, as ``O`` or ``O,E,H``; no speaker in any of them is trained on.
    list_folder : str
        Where the lists are; default: looked for in and near the data folder.
    dev_speakers : int
        Training speakers held out to choose the best checkpoint.
    eval_utterances : int
        Most utterances of each of those.

    Returns
    -------
    Listing

    Raises
    ------
    UserError
        When the layout is another one, a list or a file of a list is missing, or
        no training speaker remains.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for name in (
    ...     "id10001/v/1.wav",
    ...     "id10001/v/2.wav",
    ...     "id10002/v/1.wav",
    ...     "id10003/v/1.wav",
    ... ):
    ...     (folder / "wav" / name).parent.mkdir(parents=True, exist_ok=True)
    ...     (folder / "wav" / name).touch()
    >>> _ = (folder / "veri_test2.txt").write_text(
    ...     "1 id10001/v/1.wav id10001/v/2.wav\\n0 id10001/v/1.wav id10002/v/1.wav"
    ... )
    >>> [(e.id, e.split) for e in collect(folder, seed=1).entries][-1]
    ('id10003/v/1.wav', 'train')
    """
    if train not in TRAIN:
        raise UserError(f"train='{train}': choose {', '.join(TRAIN)}")
    roots = [folder] + ([existing_folder(voxceleb2)] if voxceleb2 else [])
    root = Path(os.path.commonpath(roots))
    trees = [tree for one in roots for tree in speaker_trees(one)]
    if not trees:
        found = sorted(p.name for p in folder.iterdir())[:6]
        raise UserError(
            f"no VoxCeleb in {folder}: {_EXPECTED}. It holds: "
            f"{', '.join(found) or 'nothing'}"
        )
    files = _files(root, trees)
    if not files:
        raise UserError(f"the speaker folders in {folder} hold no audio: {_EXPECTED}")
    gender = _genders(roots)
    near = [existing_folder(list_folder)] if list_folder else [*roots, *trees]
    listing = Listing(
        root, [], dev_speakers=dev_speakers, eval_utterances=eval_utterances
    )
    tested: set[str] = set()

    def add(name: str, split: str) -> None:
        speaker = name.split("/")[0]
        meta = {"gender": gender[speaker]} if speaker in gender else {}
        listing.entries.append(Entry(name, wavs[name], speaker, split, meta))

    wavs = dict(files.values())
    for name in _list_names(lists):
        split, file_name, _ = LISTS[name]
        given = read_trials(_find(file_name, near), labelled=True)
        trials = _with_ids(given, files, file_name)
        listing.trials[split] = trials
        names = trials.utterances
        tested |= {side.split("/")[0] for side in names}
        for side in names:
            add(side, split)
    half = _half(train, {name.split("/")[0] for name in wavs})
    for name in sorted(wavs):
        speaker = name.split("/")[0]
        if speaker not in tested and half(speaker):
            add(name, "train")
    if not any(entry.split == "train" for entry in listing.entries):
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

    Arguments
    ---------
    folder : Path
    depth : int
        How far down to look.

    Returns
    -------
    list of Path

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "dev" / "aac" / "id00012").mkdir(parents=True)
    >>> [tree.relative_to(folder).as_posix() for tree in speaker_trees(folder)]
    ['dev/aac']
    """
    inside = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    speakers = [name for name in inside if _ID.match(name)]
    if speakers:
        vox2_test = speakers[0] < _FIRST_OF_VOX1 and any(
            part == "test" or part.startswith("vox2_test")
            for part in (folder.name, folder.parent.name)
        )
        return [] if vox2_test else [folder]
    if depth == 0:
        return []
    below = (speaker_trees(folder / n, depth - 1) for n in inside if n[0] != ".")
    return [tree for trees in below for tree in trees]


def _files(root: Path, trees: list[Path]) -> dict[str, tuple[str, str]]:
    """``speaker/video/utterance`` to its ID (with extension) and path."""
    files: dict[str, tuple[str, str]] = {}
    for tree in trees:
        inside = tree.relative_to(root).as_posix()
        for name in _audio(tree):
            stem, kind = os.path.splitext(name)
            if stem in files and _rank(files[stem][0]) <= _rank(name):
                continue
            files[stem] = (name, name if inside == "." else f"{inside}/{name}")
    return files


def _audio(tree: Path) -> Iterator[str]:
    for speaker in sorted(os.listdir(tree)):
        if not _ID.match(speaker):
            continue
        for here, folders, names in os.walk(tree / speaker, followlinks=True):
            folders.sort()
            inside = Path(here).relative_to(tree).as_posix()
            yield from (f"{inside}/{name}" for name in sorted(names) if is_audio(name))


def _rank(name: str) -> int:
    kind = os.path.splitext(name)[1].lower()
    return _PREFERENCE.index(kind) if kind in _PREFERENCE else len(_PREFERENCE)


def _list_names(lists: str) -> list[str]:
    names = [name.strip().upper() for name in lists.split(",") if name.strip()]
    for name in names:
        if name not in LISTS:
            known = "; ".join(f"{key}: {text}" for key, (_, _, text) in LISTS.items())
            raise UserError(f"no trial list '{name}' (lists={lists}). Known: {known}")
    if not names:
        raise UserError("lists is empty; give O, or O,E,H")
    return list(dict.fromkeys(names))


def _find(file_name: str, near: Iterable[Path]) -> Path:
    """The list in one of the folders, two levels above them, or in meta folders."""
    for folder in near:
        places = (folder, folder.parent, folder.parent.parent)
        for place in places:
            for inside in ("", "meta", "metadata", "trials", "lists"):
                path = place / inside / file_name
                if path.is_file():
                    return path
    raise UserError(
        f"the trial list {file_name} is in none of {', '.join(map(str, near))}. Get it "
        f"from {LISTS_ADDRESS}{file_name} and put it in the data folder, or tell its "
        "folder with list_folder (nothing is downloaded by itself)"
    )


def _with_ids(
    trials: Trials, files: dict[str, tuple[str, str]], file_name: str
) -> Trials:
    """The trials with our IDs: the extensions of the files that are there."""
    missing: dict[str, None] = {}

    def name(side: str) -> str:
        stem = os.path.splitext(side)[0]
        if stem not in files:
            missing[side] = None
            return side
        return files[stem][0]

    named = trials.renamed(name)
    if missing:
        first = next(iter(missing))
        raise UserError(
            f"{file_name} names {len(missing)} files that are not in the data folder, "
            f"for instance {first}. The lists O, E and H take "
            "VoxCeleb1 (dev and test) as <...>/wav/id10001/<video>/00001.wav"
        )
    return named


def _half(train: str, speakers: set[str]) -> Callable[[str], bool]:
    """Which speakers may be trained on, by the corpus their number belongs to."""
    has_vox2 = any(speaker < _FIRST_OF_VOX1 for speaker in speakers)
    if train == "auto":
        train = "vox2" if has_vox2 else "vox1"
    if "vox2" in train and not has_vox2:
        raise UserError(
            f"train={train}, but there is no VoxCeleb2 (id00012, ...): give its folder "
            "as voxceleb2, or train=vox1"
        )
    return lambda speaker: (
        ("vox2" if speaker < _FIRST_OF_VOX1 else "vox1") in train.split("+")
    )


def _genders(roots: Iterable[Path]) -> dict[str, str]:
    """From ``vox1_meta.csv`` and ``vox2_meta.csv``, when they are there."""
    gender = {}
    for root in roots:
        for name in ("vox1_meta.csv", "vox2_meta.csv"):
            path = next(
                (p for p in (root / name, root / "meta" / name) if p.is_file()), None
            )
            if path is None:
                continue
            for line in path.read_text(encoding="utf-8").splitlines():
                words = [word.strip() for word in re.split(r"[\t,]", line)]
                told = next((word for word in words[1:] if word in ("m", "f")), "")
                if _ID.match(words[0]) and told:
                    gender[words[0]] = told
    return gender


def stamp(folder: Path) -> str:
    """Changes when speakers come or go; does not look at their files.

    Arguments
    ---------
    folder : Path

    Returns
    -------
    str

    Example
    -------
    >>> len(stamp(getfixture("tmp_path")))
    16
    """
    return digest(
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
        "train": "vox2, vox1, vox1+vox2 or auto (vox2 when it is there)",
        "lists": "trial lists, as O or O,E,H",
        "list_folder": "where veri_test2.txt etc. are, when not beside the data",
        "dev_speakers": "training speakers held out to choose the checkpoint",
        "eval_utterances": "most utterances of each of those (0 = all)",
    },
    stamp=stamp,
)
