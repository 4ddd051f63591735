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

    ``folder`` holds ``prepare.json``, ``<split>.csv`` and ``trials_<split>.txt``;
    the audio lies in ``data_root``.
    """

    folder: Path
    data_root: Path

    @classmethod
    def load(cls, folder: str | Path) -> Prepared:
        """Open a folder that ``prepare`` wrote earlier."""
        prepared = cls(Path(folder), Path())
        if not (prepared.folder / "prepare.json").is_file():
            raise UserError(
                f"{folder} is not a prepared folder (it has no prepare.json). "
                "Make one with: sb-margins prepare"
            )
        prepared.data_root = Path(prepared.info["data_root"])
        return prepared

    @property
    def info(self) -> dict[str, Any]:
        """The content of ``prepare.json``: corpus, options, counts, seed, notes."""
        return json.loads((self.folder / "prepare.json").read_text(encoding="utf-8"))

    @property
    def splits(self) -> list[str]:
        """The splits, train first, then dev, test and the rest by name."""
        order = {"train": 0, "dev": 1, "test": 2}
        return sorted(self.info["counts"], key=lambda name: (order.get(name, 3), name))

    def manifest(self, split: str) -> Manifest:
        """Read one split's manifest."""
        self._check(split)
        return Manifest.read(self.folder / f"{split}.csv", self.data_root)

    def has_trials(self, split: str) -> bool:
        """Whether the split has a trial list."""
        return (self.folder / f"trials_{split}.txt").is_file()

    def trials(self, split: str) -> Path:
        """The split's trial list: lines ``label enrol test``, 1 = target."""
        self._check(split)
        if not self.has_trials(split):
            raise UserError(f"the split '{split}' of {self.folder} has no trial list")
        return self.folder / f"trials_{split}.txt"

    def trial_lists(self) -> dict[str, str]:
        """The trial list of each split that has one."""
        return {s: str(self.trials(s)) for s in self.splits if self.has_trials(s)}

    def _check(self, split: str) -> None:
        if split not in self.splits:
            raise UserError(
                f"no split '{split}' in {self.folder}."
                f"{nearest(split, self.splits)} It has: {', '.join(self.splits)}"
            )
