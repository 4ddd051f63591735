"""What a comparison trains: a cell for every loss, setting and seed."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sb_margins.comparison.variants import TOP_LEVEL_KEYS, Variant, parse_variants
from sb_margins.data import Prepared
from sb_margins.data.evaluation import TrialList
from sb_margins.data.splitting import parse_fold
from sb_margins.errors import UserError
from sb_margins.files import hash_file, hash_text
from sb_margins.training.config import TrainingConfig, read_config
from sb_margins.training.run import prepare_corpus

# Added to the first seed: that of the runs that choose hard trials.
REFERENCE = 1_000_000
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
    """One run: a variant with a seed on a fold, in a results folder of its own."""

    variant: Variant
    seed: int
    folder: Path
    fold: str = ""  # e.g. 2/5; empty: the corpus's one split

    @property
    def label(self) -> str:
        """The name in messages."""
        fold = f"fold {self.fold}, " if self.fold else ""
        return f"{self.variant.label}, {fold}seed {self.seed}"

    @property
    def run(self) -> tuple[str, int]:
        """What runs of different systems have in common: data and random draws."""
        return self.fold, self.seed


@dataclass(frozen=True)
class Hard:
    """Which trials are hard: a share, as a reference that is not compared ranks them.

    Non-targets count whose speakers are alike in ``same``, columns of the manifest.
    """

    share: float
    reference: Variant
    same: tuple[str, ...] = ()


@dataclass
class Plan:
    """A comparison before anything is trained.

    ``yaml`` and ``flags`` are the training YAML and the training flags that all cells
    share; ``baseline`` is a loss or the label of a variant, as both sides of the
    ``contrasts`` are; ``evals`` are the folders of further trial lists, which no cell's
    training depends on.
    """

    yaml: Path
    flags: list[str]
    variants: list[Variant]
    seeds: list[int]
    output: Path
    baseline: str
    folds: list[str] = field(default_factory=lambda: [""])
    contrasts: list[tuple[str, str]] = field(default_factory=list)
    corpus_options: dict[str, Any] = field(default_factory=dict)
    evals: dict[str, str] = field(default_factory=dict)
    hard: Hard | None = None
    cells: list[Cell] = field(init=False)
    _configs: dict[Path, TrainingConfig] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        place = self.output / "cells"
        # Seed by seed, fold by fold: an unfinished comparison is balanced.
        self.cells = [
            Cell(variant, seed, place / variant.slug / _name(fold, seed), fold)
            for seed in self.seeds
            for fold in self.folds
            for variant in self.variants
        ]

    @property
    def references(self) -> list[Cell]:
        """The runs that choose the hard trials, one on each fold, never reported."""
        if self.hard is None:
            return []
        variant, seed = self.hard.reference, self.seeds[0] + REFERENCE
        place = self.output / "cells" / variant.slug
        return [Cell(variant, seed, place / _name(f, seed), f) for f in self.folds]

    def flags_of(self, fold: str) -> list[str]:
        """The training flags that all runs on a fold share."""
        if not fold:
            return self.flags
        options = {**self.corpus_options, "fold": fold}
        return [*self.flags, f"--corpus_options={json.dumps(options)}"]

    def place(self, fold: str) -> Path:
        """The folder in which ``data`` holds the corpus of a fold."""
        return self.output / "folds" / _name(fold) if fold else self.output

    def train_argv(self, cell: Cell) -> list[str]:
        """The words after ``sb-margins train`` for a cell."""
        return [
            str(self.yaml),
            *self.flags_of(cell.fold),
            *cell.variant.flags,
            f"--seed={cell.seed}",
            f"--output_folder={cell.folder}",
        ]

    def config(self, cell: Cell) -> TrainingConfig:
        """The training configuration of a cell, read once."""
        if cell.folder not in self._configs:
            self._configs[cell.folder] = read_config(self.train_argv(cell))
        return self._configs[cell.folder]


def _name(*parts: object) -> str:
    """A folder's name, such as 2of5-1986."""
    return "-".join(str(part).replace("/", "of") for part in parts if part != "")


def shared_config(yaml: Path, flags: list[str], output: Path) -> TrainingConfig:
    """The configuration that all cells share; its output folder holds the corpus."""
    return read_config([str(yaml), *flags, f"--output_folder={output}"])


def corpus(plan: Plan, fold: str, report_only: bool = False) -> Prepared:
    """The corpus as the runs on a fold see it; made if it is not there."""
    place = plan.place(fold)
    if report_only:
        return Prepared.load(place / "data")
    return prepare_corpus(shared_config(plan.yaml, plan.flags_of(fold), place).settings)


def make_plan(
    yaml: Path,
    losses: list[str],
    seeds: int,
    output: Path,
    *,
    sets: list[str] | None = None,
    baseline: str = "",
    folds: str = "",
    contrasts: list[str] | None = None,
    flags: list[str] | None = None,
    evals: dict[str, str] | None = None,
    hard: float = 0.0,
    hard_by: str = "",
    hard_same: list[str] | None = None,
) -> Plan:
    """Check what is asked for and lay it out; seeds count up from the YAML's.

    ``folds`` is their number, or "2/5" for the first two of five; a contrast is
    "ham:am", two losses or systems. A share ``hard`` of the trials makes lists of its
    own, chosen by a run of the loss ``hard_by`` (default: the baseline).
    """
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
    pairs = [_pair(text, variants) for text in contrasts or []]
    settings = shared_config(yaml, flags, output).settings
    if settings.eval:  # of the YAML: scored by the comparison, once
        flags.append("--eval=")
    if not 0 <= hard <= 0.5:
        raise UserError(f"--hard {hard}: a share of the trials, e.g. 0.1; at most 0.5")
    compared = _compared(baseline or variants[0].loss, variants)
    return Plan(
        yaml,
        flags,
        variants,
        [settings.seed + k for k in range(seeds)],
        output,
        compared,
        _folds(folds),
        list(dict.fromkeys(pairs)),
        settings.corpus_options,
        {**settings.eval, **(evals or {})},
        Hard(hard, _reference(hard_by or compared, variants), tuple(hard_same or ()))
        if hard
        else None,
    )


def _reference(name: str, variants: list[Variant]) -> Variant:
    """A variant that is compared, or any other loss with its defaults."""
    for variant in variants:
        if name in (variant.loss, variant.label, variant.slug):
            return variant
    return parse_variants([name])[0]


def _folds(text: str) -> list[str]:
    first, _, total = text.partition("/")
    total = total or first
    if not text:
        return [""]
    last, _ = parse_fold(f"{first}/{total}")
    return [f"{number}/{total}" for number in range(1, last + 1)]


def _pair(text: str, variants: list[Variant]) -> tuple[str, str]:
    names = text.split(":")
    if len(names) != 2 or names[0] == names[1]:
        raise UserError(f"--contrasts {text}: write SYSTEM:REFERENCE, e.g. ham:am")
    one, two = (_compared(name, variants) for name in names)
    return one, two


def _compared(name: str, variants: list[Variant]) -> str:
    """A loss, or the label of the variant of that label or slug."""
    for variant in variants:
        if name == variant.loss:
            return name
        if name in (variant.label, variant.slug):
            return variant.label
    labels = "; ".join(variant.label for variant in variants)
    raise UserError(f"'{name}' is not compared. There are: {labels}")


def configuration_hash(config: TrainingConfig) -> str:
    """A hash of everything that decides what a run gives, places aside."""
    places: dict[str, Any] = {"data_folder": "corpus", "output_folder": "cell"}
    if "eval" in config.plain:
        places["eval"] = None  # other lists change no training
    text = config.resolve(**places)
    text = re.sub(r"(?m)(^|\s)#.*$|^\s*\n", "", text)  # comments may change
    options = {
        key: repr(value)
        for key, value in config.run_opts.as_dict().items()
        if key not in DISPLAY_OPTIONS
    }
    return hash_text(json.dumps([text, options], sort_keys=True))


def list_hash(one: TrialList) -> str:
    """A hash of the manifest and the trials of a list."""
    folder = one.prepared.folder
    files = folder / f"{one.split}.csv", one.prepared.trials(one.split)
    return hash_text(" ".join(hash_file(file) for file in files))


def data_hash(prepared: Prepared) -> str:
    """A hash of the manifests and trial lists of a corpus."""
    files = [*prepared.folder.glob("*.csv"), *prepared.folder.glob("trials_*.txt")]
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda path: path.name):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()
