"""Trial lists of other corpora: what ``--eval NAME=FOLDER`` stands for."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from sb_margins.data.manifest import Manifest
from sb_margins.data.preparation import prepare, recognise
from sb_margins.data.prepared import Prepared
from sb_margins.data.trials import Trials, read_trials
from sb_margins.errors import UserError, listed

_LIST = re.compile(r"trials_(.+)\.txt")


@dataclass(frozen=True)
class TrialList:
    """A split of a prepared folder that has trials."""

    prepared: Prepared
    split: str

    @cached_property
    def manifest(self) -> Manifest:
        """Its utterances."""
        return self.prepared.manifest(self.split)

    @cached_property
    def trials(self) -> Trials:
        """Who is compared with whom."""
        return read_trials(self.prepared.trials(self.split))

    @property
    def labels(self) -> np.ndarray:
        """The labels [N] of its trials."""
        labels = self.trials.labels
        assert labels is not None, "prepared lists have labels"
        return labels

    @cached_property
    def speakers(self) -> dict[str, str]:
        """The speaker of each utterance."""
        return {u.id: u.spk_id for u in self.manifest}


def own_lists(prepared: Prepared) -> dict[str, TrialList]:
    """The lists of a prepared folder, by split."""
    return {split: TrialList(prepared, split) for split in prepared.trial_lists()}


def named_folders(words: Sequence[str]) -> dict[str, str]:
    """``NAME=FOLDER`` words; a folder with commas or blanks in its name is fine."""
    folders: dict[str, str] = {}
    for word in words:
        name, _, folder = word.partition("=")
        if not folder or not re.fullmatch(r"\w[\w.-]*", name):
            raise UserError(f"--eval {word}: write NAME=FOLDER, e.g. sitw=/data/SITW")
        if name in folders:
            raise UserError(f"--eval {name} is given twice")
        folders[name] = folder
    return folders


def other_lists(
    folders: Mapping[str, str], place: str | Path, own: Prepared | None = None
) -> dict[str, TrialList]:
    """The lists of ``--eval``, by name; corpora are prepared in ``place``/NAME.

    A folder is a prepared one, or that of a corpus, whose layout is recognised and of
    which no training speakers are listed; ``.../trials_SPLIT.txt`` is one list of it.
    A folder's only list is called NAME, several are NAME_SPLIT (a split that begins
    with NAME_ keeps its name). Refused, all before anything is trained: names that the
    corpus ``own`` of a run has, and utterances that it trains on.
    """
    lists: dict[str, TrialList] = {}
    for name, text in folders.items():
        path = Path(text).expanduser()
        one = _LIST.fullmatch(path.name) if path.is_file() else None
        folder = path.parent if one else path
        try:
            if (folder / "prepare.json").is_file():
                prepared = Prepared.load(folder)
            else:
                save = Path(place) / name
                corpus = recognise(folder)
                prepared = prepare(corpus, folder, save, evaluation_only=True)
        except UserError as error:
            raise UserError(f"--eval {name}: {error}") from error
        there = own_lists(prepared)
        if one:
            prepared.trials(one[1])  # an error names the splits that there are
        splits = [one[1]] if one else list(there)
        if not splits:
            raise UserError(f"--eval {name}: {folder} has no trial lists")
        for split in splits:
            called = f"{name}_{split}".replace(f"{name}_{name}_", f"{name}_")
            called = called if len(splits) > 1 else name
            if called in lists:
                raise UserError(f"--eval: two lists are called {called}; rename one")
            lists[called] = there[split]
    if own is not None:
        _check_names(lists, own.splits)
        if "train" in own.splits:
            check_unseen(lists, own.manifest("train"))
    return lists


def _check_names(lists: Collection[str], own: Collection[str]) -> None:
    """No list may be called like a split of the run, or like scores of its end."""
    taken = [n for n in lists if n in own or n.startswith("last_") or n == "train"]
    if taken:
        raise UserError(
            f"--eval: {listed(taken)} is a name that the run's own corpus has "
            f"({', '.join(own)}) or that is reserved (last_...); choose another one"
        )


def check_unseen(lists: Mapping[str, TrialList], manifest: Manifest) -> None:
    """No file of a list may be trained on."""
    trained = {manifest.path(u).absolute() for u in manifest} if lists else set()
    for name, one in lists.items():
        tested = one.manifest
        both = [u.id for u in tested if tested.path(u).absolute() in trained]
        if both:
            raise UserError(
                f"--eval {name}: {len(both)} of its files are trained on "
                f"({listed(both)}); a verifier is tested on other speakers"
            )
