"""A prepared folder: manifests, trial lists, and what they were made from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sb_margins.data.manifest import Manifest
from sb_margins.errors import UserError, nearest

FORMAT = 1


@dataclass
class Prepared:
    """What ``prepare`` wrote, and how to read it.

    Arguments
    ---------
    folder : Path
        Holds ``prepare.json``, ``<split>.csv`` and ``trials_<split>.txt``.
    data_root : Path
        Where the audio lies.

    Example
    -------
    >>> Prepared(getfixture("tmp_path"), Path("corpus")).splits
    []
    """

    folder: Path
    data_root: Path

    @classmethod
    def load(cls, folder: str | Path) -> Prepared:
        """Open a folder that ``prepare`` wrote earlier.

        Arguments
        ---------
        folder : str or Path

        Returns
        -------
        Prepared

        Raises
        ------
        UserError
            When there is no ``prepare.json`` in it.

        Example
        -------
        >>> Prepared.load(getfixture("tmp_path"))
        Traceback (most recent call last):
        ...
        sb_margins.errors.UserError: ... is not a prepared folder ...
        """
        folder = Path(folder)
        if not (folder / "prepare.json").is_file():
            raise UserError(
                f"{folder} is not a prepared folder (it has no prepare.json). "
                "Make one with: sb-margins prepare"
            )
        prepared = cls(folder, Path())
        prepared.data_root = Path(prepared.info["data_root"])
        return prepared

    @property
    def info(self) -> dict[str, Any]:
        """What ``prepare.json`` says: corpus, options, counts, seed, notes."""
        return json.loads((self.folder / "prepare.json").read_text(encoding="utf-8"))

    @property
    def splits(self) -> list[str]:
        """The splits, train first, then dev, test and the rest by name."""
        order = {"train": 0, "dev": 1, "test": 2}
        if (self.folder / "prepare.json").is_file():
            names = list(self.info["counts"])
        else:
            names = [path.stem for path in self.folder.glob("*.csv")]
        return sorted(names, key=lambda name: (order.get(name, 3), name))

    def manifest(self, split: str) -> Manifest:
        """Read one split's manifest.

        Arguments
        ---------
        split : str

        Returns
        -------
        Manifest

        Example
        -------
        >>> prepared = Prepared(getfixture("tmp_path"), Path("corpus"))
        >>> Manifest([], ".").write(prepared.folder / "train.csv")
        >>> len(prepared.manifest("train"))
        0
        """
        self._check(split)
        return Manifest.read(self.folder / f"{split}.csv", self.data_root)

    def has_trials(self, split: str) -> bool:
        """Whether the split has a trial list.

        Arguments
        ---------
        split : str

        Returns
        -------
        bool

        Example
        -------
        >>> Prepared(getfixture("tmp_path"), Path("corpus")).has_trials("dev")
        False
        """
        return (self.folder / f"trials_{split}.txt").is_file()

    def trials(self, split: str) -> Path:
        """The split's trial list: lines ``label enrol test``, 1 = target.

        Arguments
        ---------
        split : str

        Returns
        -------
        Path

        Example
        -------
        >>> prepared = Prepared(getfixture("tmp_path"), Path("corpus"))
        >>> Manifest([], ".").write(prepared.folder / "dev.csv")
        >>> _ = (prepared.folder / "trials_dev.txt").write_text("1 a b\\n")
        >>> prepared.trials("dev").name
        'trials_dev.txt'
        """
        self._check(split)
        if not self.has_trials(split):
            raise UserError(f"the split '{split}' of {self.folder} has no trial list")
        return self.folder / f"trials_{split}.txt"

    def verify_flags(self) -> list[str]:
        """What tells ``sb-margins verify`` all of this folder's trial lists.

        Returns
        -------
        list of str

        Example
        -------
        >>> Prepared(Path("data"), Path("corpus")).verify_flags()
        ['--manifest', 'data', '--trials']
        """
        lists = [f"{s}={self.trials(s)}" for s in self.splits if self.has_trials(s)]
        return ["--manifest", str(self.folder), "--trials", *lists]

    def _check(self, split: str) -> None:
        if split not in self.splits:
            raise UserError(
                f"no split '{split}' in {self.folder}."
                f"{nearest(split, self.splits)} It has: {', '.join(self.splits)}"
            )
