"""What a comparison trains: a cell for every loss, setting and seed."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from sb_margins.comparison.variants import TOP_LEVEL_KEYS, Variant, parse_variants
from sb_margins.data import Prepared
from sb_margins.errors import UserError
from sb_margins.files import hash_text
from sb_margins.training.config import TrainingConfig, read_config

SET_BY_COMPARISON = ("loss", "loss_options", "save_folder", *TOP_LEVEL_KEYS)
# Run options that change what is shown or saved, not what comes out.
DISPLAY_OPTIONS = {
    "ckpt_interval_minutes",
    "ckpt_interval_steps",
    "noprogressbar",
    "overridden_args",
    "param_file",
    "tqdm_barcolor",
    "tqdm_colored_bar",
}


@dataclass(frozen=True)
class Cell:
    """One run: a variant with a seed, in a results folder of its own."""

    variant: Variant
    seed: int
    folder: Path

    @property
    def label(self) -> str:
        """The name in messages."""
        return f"{self.variant.label}, seed {self.seed}"


@dataclass
class Plan:
    """A comparison before anything is trained.

    ``yaml`` and ``flags`` are the training YAML and the training flags that all cells
    share; ``baseline`` is a loss or the label of a variant.
    """

    yaml: Path
    flags: list[str]
    variants: list[Variant]
    seeds: list[int]
    output: Path
    baseline: str
    cells: list[Cell] = field(init=False)
    _configs: dict[Path, TrainingConfig] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        place = self.output / "cells"
        # Seed by seed: an unfinished comparison is balanced.
        self.cells = [
            Cell(variant, seed, place / variant.slug / str(seed))
            for seed in self.seeds
            for variant in self.variants
        ]

    def train_argv(self, cell: Cell) -> list[str]:
        """The words after ``sb-margins train`` for a cell."""
        return [
            str(self.yaml),
            *self.flags,
            *cell.variant.flags,
            f"--seed={cell.seed}",
            f"--output_folder={cell.folder}",
        ]

    def config(self, cell: Cell) -> TrainingConfig:
        """The training configuration of a cell, read once."""
        if cell.folder not in self._configs:
            self._configs[cell.folder] = read_config(self.train_argv(cell))
        return self._configs[cell.folder]


def shared_config(yaml: Path, flags: list[str], output: Path) -> TrainingConfig:
    """The configuration that all cells share; its output folder holds the corpus."""
    return read_config([str(yaml), *flags, f"--output_folder={output}"])


def make_plan(
    yaml: Path,
    losses: list[str],
    seeds: int,
    output: Path,
    *,
    sets: list[str] | None = None,
    baseline: str = "",
    flags: list[str] | None = None,
) -> Plan:
    """Check what is asked for and lay it out; seeds count up from the YAML's."""
    variants = parse_variants(losses, sets or [])
    # As the training YAMLs spell their keys.
    flags = [
        re.sub(r"^--[\w-]+", lambda m: "--" + m[0][2:].replace("-", "_"), flag)
        for flag in flags or []
    ]
    if seeds < 1:
        raise UserError(f"--seeds {seeds}: train with at least one")
    for flag in flags:
        name = flag.removeprefix("--").partition("=")[0]
        if flag.startswith("--") and name in SET_BY_COMPARISON:
            setting = name if name in TOP_LEVEL_KEYS else "SETTING"
            raise UserError(
                f"--{name} is set by the comparison: use --losses, or "
                f"--set LOSS.{setting}=VALUE"
            )
    labels = [v.label for v in variants]
    baseline = baseline or variants[0].loss
    if baseline not in {v.loss for v in variants} | set(labels):
        raise UserError(
            f"the baseline '{baseline}' is not compared. There are: {'; '.join(labels)}"
        )
    first = shared_config(yaml, flags, output).settings.seed
    numbers = [first + k for k in range(seeds)]
    return Plan(yaml, flags, variants, numbers, output, baseline)


def configuration_hash(config: TrainingConfig) -> str:
    """A hash of everything that decides what a run gives, places aside."""
    text = config.resolve(data_folder="corpus", output_folder="cell")
    text = re.sub(r"(?m)(^|\s)#.*$|^\s*\n", "", text)  # comments may change
    options = {
        key: repr(value)
        for key, value in config.run_opts.as_dict().items()
        if key not in DISPLAY_OPTIONS
    }
    return hash_text(json.dumps([text, options], sort_keys=True))


def data_hash(prepared: Prepared) -> str:
    """A hash of the manifests and trial lists of a corpus."""
    files = [*prepared.folder.glob("*.csv"), *prepared.folder.glob("trials_*.txt")]
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda path: path.name):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()
