"""What a corpus module gives to ``prepare``: where its files are and who speaks."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sb_margins.data.trials import Trials
from sb_margins.errors import UserError, nearest


@dataclass(frozen=True, slots=True)
class Entry:
    """An utterance before its header was read.

    Arguments
    ---------
    id : str
        Its name in trial lists; no white space.
    wav : str
        Posix path relative to the listing's root.
    spk_id : str
    split : str
        ``""``: not divided yet.
    meta : mapping of str to str

    Example
    -------
    >>> Entry("a/1.wav", "a/1.wav", "a").split
    ''
    """

    id: str
    wav: str
    spk_id: str
    split: str = ""
    meta: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Listing:
    """Everything a corpus has, as its own lists tell it.

    Arguments
    ---------
    root : Path
        What the entries' paths are relative to.
    entries : list of Entry
        All with a split, or none (then ``prepare`` divides the speakers).
    trials : dict of str to Trials
        Trial lists by split; those missing are made from the seed.
    notes : list of str
        What the user should know.
    dev_speakers : int
        Training speakers to hold out when there is no dev split; 0 = none.
    eval_utterances : int
        Most utterances of each held-out speaker; 0 = all.
    official : bool
        The trial lists are the corpus's own and know the speakers better than
        ``spk_id`` does: their labels are not checked against it.

    Example
    -------
    >>> Listing(Path("corpus"), []).trials
    {}
    """

    root: Path
    entries: list[Entry]
    trials: dict[str, Trials] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    dev_speakers: int = 0
    eval_utterances: int = 20
    official: bool = False


@dataclass(frozen=True)
class Corpus:
    """A layout that ``prepare`` knows.

    Arguments
    ---------
    name : str
    title : str
        One line for the help page.
    collect : callable
        ``collect(folder, *, seed, **options) -> Listing``; its keyword
        defaults are the corpus's options.
    help : mapping of str to str
        One line per option.
    stamp : callable, optional
        ``stamp(folder) -> str``: changes when the data change, cheaply.
    default_folder : callable, optional
        ``default_folder(seed, options) -> Path`` for a corpus that can be made
        or fetched; its folder need not exist.

    Example
    -------
    >>> def collect(folder, *, seed, lists="O"):
    ...     return Listing(folder, [])
    >>> Corpus("mine", "my corpus", collect).options
    {'lists': 'O'}
    """

    name: str
    title: str
    collect: Callable[..., Listing]
    help: Mapping[str, str] = field(default_factory=dict)
    stamp: Callable[[Path], str] | None = None
    default_folder: Callable[[int, Mapping[str, Any]], Path] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The corpus's own options and their defaults."""
        found = inspect.signature(self.collect).parameters.values()
        return {
            p.name: p.default
            for p in found
            if p.kind is p.KEYWORD_ONLY and p.name != "seed"
        }


def existing_folder(folder: str | Path) -> Path:
    """The folder as an absolute path, or an error that names its neighbours.

    Arguments
    ---------
    folder : str or Path

    Returns
    -------
    Path

    Raises
    ------
    UserError
        When it is not there or not a folder.

    Example
    -------
    >>> here = getfixture("tmp_path")
    >>> (here / "voices").mkdir()
    >>> existing_folder(here / "voice")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    sb_margins.errors.UserError: no such folder: ... Did you mean 'voices'?
    """
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
        f"{near or ' Give the folder of the corpus with --data_folder'}"
    )


def plain_id(name: str) -> str:
    """A path as an ID: white space, which would break trial lines, percent-coded.

    Arguments
    ---------
    name : str

    Returns
    -------
    str

    Example
    -------
    >>> plain_id("Zoë B./take 1.v2.wav")
    'Zoë%20B./take%201.v2.wav'
    """
    if not any(c.isspace() or c == "%" for c in name):
        return name
    return "".join(
        "".join(f"%{byte:02X}" for byte in c.encode()) if c.isspace() or c == "%" else c
        for c in name
    )


def digest(names: Iterable[str]) -> str:
    """A short hash of a list of names, for a corpus's ``stamp``.

    Arguments
    ---------
    names : iterable of str

    Returns
    -------
    str

    Example
    -------
    >>> digest(["a", "b"]) == digest(["b", "a"])
    False
    """
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
