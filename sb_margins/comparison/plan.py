"""What a comparison will train: a cell for every loss, setting and seed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sb_margins.comparison.variants import OWN_KEYS, Variant, parse_variants
from sb_margins.data import Prepared
from sb_margins.errors import UserError
from sb_margins.training.config import TrainingConfig, read_config

# Set by the comparison itself.
OURS = ("loss", "loss_options", "output_folder", "save_folder", *OWN_KEYS)
# Run options that change how a training is shown or saved, not what comes out.
SHOWN_ONLY = {
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
    """One training: a variant with a seed, in a folder of its own.

    Arguments
    ---------
    variant : Variant
        Loss and settings.
    seed : int
        Of initial weights, data order and augmentation.
    folder : Path
        Its results folder.

    Example
    -------
    >>> Cell(Variant("am"), 1986, Path("cells/am/1986")).label
    'am, seed 1986'
    """

    variant: Variant
    seed: int
    folder: Path

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"{self.variant.label}, seed {self.seed}"


@dataclass
class Plan:
    """A comparison, before anything is trained.

    Arguments
    ---------
    path : Path
        The training YAML.
    flags : list of str
        Training flags that all cells share.
    variants : list of Variant
        What is compared.
    seeds : list of int
        Each variant is trained with each.
    output : Path
        Holds ``cells``, ``data`` and the report.
    baseline : str
        A loss, or the label of a variant.
    epochs : dict of str to int
        With ``--budget``: the epochs of each variant, by label; otherwise empty.

    Example
    -------
    >>> plan = Plan(Path("t.yaml"), [], [Variant("am")], [1, 2], Path("out"), "am")
    >>> [cell.folder.as_posix() for cell in plan.cells]
    ['out/cells/am/1', 'out/cells/am/2']
    """

    path: Path
    flags: list[str]
    variants: list[Variant]
    seeds: list[int]
    output: Path
    baseline: str
    epochs: dict[str, int] | None = None

    @property
    def cells(self) -> list[Cell]:
        """All trainings, seed by seed: what is there early is balanced."""
        place = self.output / "cells"
        return [
            Cell(variant, seed, place / variant.slug / str(seed))
            for seed in self.seeds
            for variant in self.variants
        ]

    def words(self, cell: Cell) -> list[str]:
        """What follows ``sb-margins train`` for a cell."""
        words = [str(self.path), *self.flags, *cell.variant.flags]
        words += [f"--seed={cell.seed}", f"--output_folder={cell.folder}"]
        if self.epochs and cell.variant.label in self.epochs:
            words.append(f"--number_of_epochs={self.epochs[cell.variant.label]}")
        return words

    def config(self, cell: Cell) -> TrainingConfig:
        """The configuration that ``words`` tell."""
        return read_config(self.words(cell))

    def config_of_all(self) -> TrainingConfig:
        """The configuration without a loss of the comparison: for its corpus."""
        return read_config(
            [str(self.path), *self.flags, f"--output_folder={self.output}"]
        )


def make_plan(
    path: str | Path,
    losses: str,
    seeds: int,
    output: str | Path,
    *,
    sets: Sequence[str] = (),
    baseline: str | None = None,
    flags: Sequence[str] = (),
) -> Plan:
    """Check what was asked for, and lay it out.

    Arguments
    ---------
    path : str or Path
        A training YAML.
    losses : str
        Names, separated by commas.
    seeds : int
        How many; they count up from the YAML's ``seed``.
    output : str or Path
        The folder of the comparison.
    sets : sequence of str
        ``LOSS.SETTING=VALUE,...``.
    baseline : str, optional
        What the others are compared with; default: the first loss.
    flags : sequence of str
        Training flags for all cells.

    Returns
    -------
    Plan

    Raises
    ------
    UserError
        For anything that does not exist or cannot be.

    Example
    -------
    >>> make_plan("hparams/train_ecapa.yaml", "amm", 3, "results/compare")
    Traceback (most recent call last):
    ...
    sb_margins.errors.UserError: no loss 'amm'. Did you mean 'am', ...
    """
    variants = parse_variants(losses, sets)
    if seeds < 1:
        raise UserError(f"--seeds {seeds}: train with at least one")
    for word in flags:
        name = word.removeprefix("--").partition("=")[0]
        if word.startswith("--") and name in OURS:
            raise UserError(
                f"--{name} is set by the comparison: use --losses, --output, or "
                f"--set LOSS.{name if name in OWN_KEYS else 'SETTING'}=VALUE"
            )
    names = {v.loss for v in variants} | {v.label for v in variants}
    if baseline is None:
        baseline = variants[0].loss
    if baseline not in names:
        raise UserError(
            f"the baseline '{baseline}' is not compared. There are: "
            f"{'; '.join(dict.fromkeys(v.label for v in variants))}"
        )
    plan = Plan(Path(path), list(flags), variants, [], Path(output), baseline)
    first = plan.config_of_all().plain.get("seed", 1986)
    plan.seeds = [first + k for k in range(seeds)]
    return plan


def fingerprint(config: TrainingConfig) -> str:
    """A hash of everything that decides what a training gives, places aside.

    Arguments
    ---------
    config : TrainingConfig
        Of a cell.

    Returns
    -------
    str
        Hexadecimal.

    Example
    -------
    >>> from sb_margins.select import hparams_dir
    >>> words = [str(hparams_dir() / "train_ecapa.yaml"), "--data_folder=a"]
    >>> one = fingerprint(read_config([*words, "--output_folder=x"]))
    >>> two = fingerprint(read_config([*words, "--output_folder=y"]))
    >>> one == two, one == fingerprint(read_config([*words, "--loss=ham"]))
    (True, False)
    """
    places = {"data_folder": "corpus", "output_folder": "cell"}
    # Comments may change.
    text = re.sub(r"(?m)(^|\s)#.*$|^\s*\n", "", config.resolve(**places))
    options = {
        key: repr(value)
        for key, value in config.run_opts.as_dict().items()
        if key not in SHOWN_ONLY
    }
    told = json.dumps([text, options], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def data_fingerprint(prepared: Prepared) -> str:
    """A hash of the manifests and trial lists of a corpus.

    Arguments
    ---------
    prepared : Prepared

    Returns
    -------
    str
        Hexadecimal.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> len(data_fingerprint(Prepared(folder, folder)))
    64
    """
    files = [*prepared.folder.glob("*.csv"), *prepared.folder.glob("trials_*.txt")]
    whole = hashlib.sha256()
    for file in sorted(files, key=lambda path: path.name):
        whole.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return whole.hexdigest()


def settings_of_cell(config: TrainingConfig) -> dict[str, Any]:
    """The plain settings of a cell, as ``run.json`` keeps them.

    Example
    -------
    >>> from sb_margins.select import hparams_dir
    >>> words = [str(hparams_dir() / "train_ecapa.yaml"), "--data_folder=a"]
    >>> settings_of_cell(read_config(words))["loss"]
    'aam'
    """
    from sb_margins.training.run import settings_of

    return settings_of(config.plain)
