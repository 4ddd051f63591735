"""What a corpus module gives to ``prepare``: where its files are and who speaks."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sb_margins.data.trials import Trials
from sb_margins.errors import UserError, listed, nearest
from sb_margins.files import hash_text

AUDIO = frozenset(
    (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac", ".aiff", ".aif", ".sph")
)


@dataclass(frozen=True, slots=True)
class Entry:
    """An utterance before its file was read."""

    id: str  # its name in trial lists; no white space
    wav: str  # posix path relative to the listing's root
    spk_id: str
    split: str = ""  # not divided yet
    meta: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Listing:
    """Everything a corpus has, according to its own lists."""

    root: Path  # what the entries' paths are relative to
    entries: list[Entry]  # all with a split, or none: then speakers are divided
    trials: dict[str, Trials] = field(default_factory=dict)  # others are made
    notes: list[str] = field(default_factory=list)  # what the user should know
    dev_speakers: int = 0  # training speakers to hold out when there is no dev split
    eval_utterances: int = 20  # most of each held-out speaker; 0 = all
    official: bool = False  # labels are not checked against ``spk_id``


@dataclass(frozen=True)
class Corpus:
    """A layout that ``prepare`` knows."""

    name: str
    title: str  # one line for the help page
    # collect(folder, *, seed, **options): its keyword defaults are the options
    collect: Callable[..., Listing]
    help: Mapping[str, str] = field(default_factory=dict)  # a line per option
    # stamp(folder): changes when the data change, cheaply
    stamp: Callable[[Path], str] | None = None
    # recognise(folder): whether a folder is one of this corpus
    recognise: Callable[[Path], bool] | None = None
    # the options that list no training speakers
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    # collect makes or fetches the corpus: its folder need not exist
    writes: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """The corpus's own options and their defaults."""
        return {
            p.name: p.default
            for p in inspect.signature(self.collect).parameters.values()
            if p.kind is p.KEYWORD_ONLY and p.name != "seed"
        }

    @property
    def default_folder(self) -> Path:
        """A folder in the user's cache."""
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(cache) / "sb_margins" / self.name


def is_audio(name: str) -> bool:
    """Whether a file name is that of audio (hidden files are not)."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in AUDIO


def walk(root: Path) -> Iterator[str]:
    """All audio files under a folder, sorted, as posix paths relative to it.

    Follows symbolic links to folders (once each), passes over hidden files.
    """
    seen = set()
    for here, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        inside = Path(here).relative_to(root)
        for name in sorted(files):
            if is_audio(name):
                yield (inside / name).as_posix()


def existing_folder(folder: str | Path) -> Path:
    """The folder as an absolute path, or an error that names its neighbours."""
    path = Path(folder).expanduser().absolute()
    if path.is_dir():
        return path
    if path.exists():
        raise UserError(f"{path} is a file; the data folder must be a folder")
    parent = path.parent
    while not parent.is_dir():
        parent = parent.parent
    inside = path.relative_to(parent).parts[0]
    near = nearest(inside, [p.name for p in parent.iterdir() if p.is_dir()])
    raise UserError(
        f"no such folder: {path} ('{inside}' is not in {parent})."
        f"{near or ' Give the folder of the corpus with --data-folder'}"
    )


def refuse_other_files(folder: Path, corpus: str, own: str) -> None:
    """Refuse to write a corpus into a folder with files other than its ``own``.

    ``own`` is a regular expression of names. The folder may be a user's recordings.
    """
    if not folder.is_dir():
        return
    names = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
    others = [name for name in names if not re.fullmatch(own, name)]
    if others:
        raise UserError(
            f"{folder} holds other files ({listed(others, 3)}), and the corpus "
            f"'{corpus}' is written only to an empty folder or its own. Give another "
            "--data-folder; or, to use the recordings in this one, the corpus 'folder' "
            "(sb-margins train: --corpus=folder)"
        )


def wrong_layout(folder: Path, corpus: str, expected: str) -> UserError:
    """The error for a folder that does not hold the corpus."""
    names = sorted(p.name for p in folder.iterdir())
    return UserError(
        f"no {corpus} in {folder}: {expected}. It holds: "
        f"{listed(names, 6) or 'nothing'}"
    )


def choose(option: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a value of an option that is not one of the choices."""
    if value not in choices:
        raise UserError(f"{option}={value!r}: choose {', '.join(choices)}")


def path_prefix(folder: Path, root: Path) -> str:
    """What to put before a name in ``folder`` for a posix path relative to root."""
    inside = folder.relative_to(root).as_posix()
    return "" if inside == "." else f"{inside}/"


def plain_id(name: str) -> str:
    """A path as an ID: white space, which would break trial lines, percent-coded.

    >>> plain_id("Zoë B./take 1.v2.wav")
    'Zoë%20B./take%201.v2.wav'
    """
    if not any(c.isspace() or c == "%" for c in name):
        return name
    return "".join(
        "".join(f"%{byte:02X}" for byte in c.encode()) if c.isspace() or c == "%" else c
        for c in name
    )


def genders(path: Path, separator: str) -> dict[str, str]:
    """Speaker to ``m`` or ``f``: the first column, and the first column that is one.

    ``separator`` is the regular expression between columns; lines that begin with a
    semicolon are comments.
    """
    if not path.is_file():
        return {}
    found = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        speaker, *words = (word.strip() for word in re.split(separator, line.lower()))
        gender = next((word for word in words if word in ("m", "f")), "")
        if gender and not speaker.startswith(";"):
            found[speaker] = gender
    return found


def short_hash(names: Iterable[str]) -> str:
    """A short hash of a list of names, for a corpus's ``stamp``."""
    return hash_text("\n".join(names))[:16]
