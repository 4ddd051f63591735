"""The settings of ``sb-margins verify``: a YAML's, replaced by flags."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from sb_margins.errors import UserError, nearest

NORMS = ("none", "z", "t", "s", "as")
QUALITIES = ("duration", "magnitude", "cohort")


@dataclass
class VerifyOptions:
    """What to score, with what, and how; the keys of ``hparams/verify.yaml``.

    Example
    -------
    >>> VerifyOptions(trials={"O": "veri_test2.txt"}).p_target
    [0.01, 0.05]
    """

    trials: dict[str, str] = field(default_factory=dict)
    enrolment: dict[str, str] = field(default_factory=dict)
    model: str | None = None
    embeddings: str | None = None
    data_root: str | None = None
    manifest: list[str] = field(default_factory=list)
    output_folder: str = "results/verify"
    device: str = "auto"
    precision: str = "fp32"
    batch_seconds: float = 120.0
    crops: int = 0
    crop_seconds: float = 4.0
    cache: str = "auto"
    skip_bad: bool = False
    save_embeddings: bool = False
    cohort: str | None = None
    cohort_size: int = 0
    cohort_speaker_means: bool = False
    subtract_mean: bool = False
    norm: str = "none"
    top_k: int = 400
    backend: str = "similarity"
    plda_rank: int = 100
    calibrate_on: str | None = None
    quality: list[str] = field(default_factory=list)
    p_target: list[float] = field(default_factory=lambda: [0.01, 0.05])
    bootstrap: int = 1000
    confidence: float = 0.95
    seed: int = 1986

    def check(self) -> None:
        """Raise for settings that cannot be, before any work is done."""
        for name, choices in (
            ("norm", NORMS),
            ("backend", ("similarity", "plda")),
            ("precision", ("fp32", "bf16")),
        ):
            value = getattr(self, name)
            if value not in choices:
                raise UserError(
                    f"no {name} '{value}'.{nearest(str(value), choices)} There are: "
                    f"{', '.join(choices)}"
                )
        for value in self.quality:
            if value not in QUALITIES:
                raise UserError(
                    f"no quality measure '{value}'.{nearest(value, QUALITIES)} There "
                    f"are: {', '.join(QUALITIES)}"
                )
        if not self.trials:
            raise UserError("no trials. Give --trials NAME=LIST ...")
        if bool(self.model) == bool(self.embeddings):
            raise UserError(
                "give either --model (a model folder) or --embeddings (an .npz with "
                "ids and matrix)"
            )
        if self.model and not (self.data_root or self.manifest):
            raise UserError(
                "where is the audio? Give --data-root (the folder that the names in "
                "the lists are relative to) or --manifest (a CSV or prepared folder)"
            )
        needing = [
            (self.norm != "none", f"norm {self.norm}"),
            (self.backend == "plda", "backend plda"),
            (self.subtract_mean, "subtract_mean"),
            ("cohort" in self.quality, "quality measure cohort"),
        ]
        for wanted, what in needing:
            if wanted and not self.cohort:
                raise UserError(
                    f"{what} needs --cohort (a manifest CSV or an .npz of embeddings "
                    "of training speakers)"
                )
        if "cohort" in self.quality and self.norm not in ("s", "as"):
            raise UserError("quality measure cohort needs norm s or as")
        if "duration" in self.quality and self.embeddings:
            raise UserError("quality measure duration needs audio, not --embeddings")
        if self.quality and not self.calibrate_on:
            raise UserError("quality measures need --calibrate-on LIST")
        if self.calibrate_on and self.calibrate_on not in self.trials:
            raise UserError(
                f"calibrate_on '{self.calibrate_on}' is none of the lists: "
                f"{', '.join(self.trials)}. Name it in --trials as well"
            )
        for name in self.enrolment:
            if name not in self.trials:
                raise UserError(
                    f"enrolment is given for '{name}', which is none of the lists: "
                    f"{', '.join(self.trials)}"
                )
        for p_target in self.p_target:
            if not 0 < p_target < 1:
                raise UserError(f"p_target must lie between 0 and 1, not {p_target}")
        if self.bootstrap == 1 or self.bootstrap < 0:
            raise UserError("bootstrap must be 0 (no intervals) or at least 2")


def parser() -> argparse.ArgumentParser:
    """The flags; every key of the YAML is one.

    Example
    -------
    >>> parser().parse_args(["--trials", "O=a.txt"]).trials
    ['O=a.txt']
    """
    tool = argparse.ArgumentParser(
        prog="sb-margins verify",
        description="Score trial lists with a model (or embeddings): EER and minDCF "
        "with intervals, DET curves, histograms, score files.",
        allow_abbrev=False,
    )
    tool.add_argument("yaml", nargs="?", help="settings (default: verify.yaml)")
    about = {
        "trials": "trial lists, as NAME=FILE (e.g. O=veri_test2.txt)",
        "enrolment": "utterances of enrolled models, as NAME=FILE",
        "model": "a model folder (sb-margins export makes one)",
        "embeddings": "precomputed embeddings instead of a model: .npz, ids and matrix",
        "data_root": "the folder that the names in the lists are relative to",
        "manifest": "manifests or prepared folders that tell where utterances are",
        "output_folder": "where scores, metrics and pictures go",
        "device": "auto, cpu, cuda, ...",
        "precision": "fp32 or bf16",
        "batch_seconds": "most audio in one batch of equally long utterances",
        "crops": "average the embeddings of so many crops; 0: whole utterances",
        "crop_seconds": "length of a crop",
        "cache": "folder for embeddings; auto: in the output folder; none",
        "skip_bad": "leave out trials of unreadable or missing audio",
        "save_embeddings": "also write embeddings.npz",
        "cohort": "impostors: a manifest CSV or .npz",
        "cohort_size": "draw so many cohort utterances; 0: all",
        "cohort_speaker_means": "one cohort entry per speaker",
        "subtract_mean": "subtract the cohort's mean from all embeddings",
        "norm": "none, z, t, s or as",
        "top_k": "cohort scores that count in as-norm",
        "backend": "similarity (the model's own) or plda (trained on the cohort)",
        "plda_rank": "dimension of PLDA's speaker space",
        "calibrate_on": "the list to fit the calibration on",
        "quality": "quality measures: duration, magnitude, cohort",
        "p_target": "priors of the detection costs",
        "bootstrap": "replicates for the intervals; 0: none",
        "confidence": "of the intervals",
        "seed": "of the bootstrap and the cohort's draw",
    }
    for option in fields(VerifyOptions):
        flag = "--" + option.name.replace("_", "-")
        names = [flag] if "_" not in option.name else [flag, "--" + option.name]
        kind: dict[str, Any] = {"help": about[option.name], "dest": option.name}
        kind["default"] = None
        if option.type == "bool":
            kind |= {"nargs": "?", "const": True, "type": _truth, "metavar": "True"}
        elif option.type.startswith(("list", "dict")):  # type: ignore[union-attr]
            number = option.type == "list[float]"
            kind |= {"nargs": "+", "type": float if number else str}
        elif option.type in ("int", "float"):
            kind["type"] = {"int": int, "float": float}[str(option.type)]
        tool.add_argument(*names, **kind)
    return tool


def _truth(word: str) -> bool:
    if word.lower() in ("true", "yes", "1"):
        return True
    if word.lower() in ("false", "no", "0"):
        return False
    raise argparse.ArgumentTypeError("expected True or False")


def read_options(argv: list[str]) -> VerifyOptions:
    """Settings from the words of the command line.

    Arguments
    ---------
    argv : list of str
        An optional YAML and flags.

    Returns
    -------
    VerifyOptions

    Raises
    ------
    UserError
        For unknown keys and settings that cannot be.

    Example
    -------
    >>> argv = ["--embeddings", "e.npz", "--trials", "O=lists/o.txt", "lists/h.txt"]
    >>> read_options(argv).trials
    {'O': 'lists/o.txt', 'h': 'lists/h.txt'}
    """
    flags = vars(parser().parse_args(argv))
    path = flags.pop("yaml")
    settings = _read_yaml(Path(path)) if path else _read_yaml(_shipped())
    settings |= {name: value for name, value in flags.items() if value is not None}
    for name in ("trials", "enrolment"):
        settings[name] = _named(settings.get(name), name)
    for name in ("manifest", "quality", "p_target"):
        value = settings.get(name)
        if value is not None and not isinstance(value, (list, tuple)):
            settings[name] = [value]
    options = VerifyOptions()
    for option in fields(VerifyOptions):
        value = settings.get(option.name)
        if value is not None:
            setattr(options, option.name, _typed(option.name, str(option.type), value))
    options.check()
    return options


def _typed(name: str, kind: str, value: Any) -> Any:
    try:
        if kind == "bool":
            return _truth(str(value))
        if kind in ("int", "float"):
            return {"int": int, "float": float}[kind](value)
        if kind == "list[float]":
            return [float(v) for v in value]
        if kind == "list[str]":
            return [str(v) for v in value]
        return value if kind.startswith("dict") else str(value)
    except (TypeError, ValueError, argparse.ArgumentTypeError):
        raise UserError(f"{name}: {value!r} is not of type {kind}") from None


def _named(value: Any, what: str) -> dict[str, str]:
    """NAME=FILE words, or a mapping, to a mapping."""
    if isinstance(value, Mapping):
        return {str(name): str(path) for name, path in value.items()}
    found: dict[str, str] = {}
    for word in [value] if isinstance(value, str) else value or []:
        name, equals, path = str(word).partition("=")
        if not equals:
            name, path = Path(word).stem, str(word)
        if name in found:
            raise UserError(f"{what} names the list '{name}' twice")
        if not name or not path or "/" in name:
            raise UserError(f"{what}: expected NAME=FILE, found '{word}'")
        found[name] = path
    return found


def _shipped() -> Path | None:
    from sb_margins.select import hparams_dir

    path = hparams_dir() / "verify.yaml"
    return path if path.is_file() else None


def _read_yaml(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    if not path.is_file():
        raise UserError(f"no settings file {path}")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} must hold keys and values")
    known = [option.name for option in fields(VerifyOptions)]
    unknown = [key for key in found if key not in known]
    if unknown:
        raise UserError(
            f"{path}: unknown key '{unknown[0]}'.{nearest(str(unknown[0]), known)}"
        )
    return found
