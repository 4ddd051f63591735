"""The settings of ``sb-margins verify``, from its words and a YAML."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal

import torch

from sb_margins.commands.figures import FigureSettings
from sb_margins.commands.options import Files, Folders, Formerly, parse, parse_yaml
from sb_margins.data.prepared import Prepared
from sb_margins.errors import UserError, listed
from sb_margins.select import hparams_dir


@dataclass
class VerifySettings(FigureSettings):
    """Score trial lists with a MODEL (a folder or a hub name), or embeddings.

    EER and minDCF with intervals, DET curves, histograms, score files. SETTINGS.yaml
    has the same keys as the flags (default: hparams/verify.yaml); flags win.

    A manifest is a CSV (ID,wav,spk_id or utt_id,path,spk_id), SpeechBrain's JSON,
    Kaldi's wav.scp or the folder that holds it, or a list of paths.
    """

    trials: Files = field(default_factory=dict)
    """Trial lists, e.g. O=veri_test2.txt."""
    eval: Folders = field(default_factory=dict)
    """And the lists of prepared folders or corpora, e.g. sitw=/data/SITW."""
    enrolment: Annotated[Files, Formerly("enrollment")] = field(default_factory=dict)
    """The utterances of enrolled models, by list."""
    model: str | None = None
    """The same as MODEL as the first word."""
    embeddings: str | None = None
    """Instead of a model: an .npz of embeddings (sb-margins embed makes one)."""
    data_folder: Annotated[str | None, Formerly("data-root")] = None
    """The folder that the names in the lists are relative to."""
    manifest: list[str] = field(default_factory=list)
    """Or: manifests, or prepared folders (whose trial lists are the default)."""
    output_folder: str = "results/verify"
    """Where scores, metrics and pictures go."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the network."""
    trust: bool = False
    """Run whatever the model's YAML names; only for models of people you trust."""
    batch_seconds: float = 120.0
    """Most audio in one batch of equally long utterances."""
    crops: int = 0
    """Average the embeddings of so many crops; 0: whole utterances."""
    crop_seconds: float = 4.0
    """Length of a crop."""
    cache: str = "auto"
    """A folder for embeddings; auto: in the output folder; none."""
    skip_bad: bool = False
    """Leave out trials of unusable or missing audio."""
    save_embeddings: bool = False
    """Also write embeddings.npz."""
    cohort: str | None = None
    """Impostors: a manifest CSV or an .npz of embeddings."""
    cohort_size: int = 0
    """Draw so many cohort utterances; 0: all."""
    cohort_speaker_means: bool = False
    """One cohort entry per speaker."""
    subtract_mean: bool = False
    """Subtract the cohort's mean from all embeddings."""
    norm: Literal["none", "z", "t", "s", "as"] = "none"
    """Score normalisation."""
    top_k: int = 400
    """Cohort scores that count in AS-norm."""
    backend: Literal["similarity", "plda"] = "similarity"
    """The model's own similarity, or a PLDA trained on the cohort."""
    plda_rank: int = 100
    """Dimension of PLDA's speaker space."""
    calibrate_on: str | None = None
    """The list on which scores become log-likelihood ratios (for the last prior)."""
    quality: list[Literal["duration", "speech", "magnitude", "cohort"]] = field(
        default_factory=list
    )
    """Quality measures of the calibration; speech: as --least-speech counts it."""
    json: bool = False
    """Print JSON instead of the table."""

    def check(self) -> None:
        """Raise for settings that do not fit together, before any work is done."""
        lists, dev = ", ".join(self.trials), self.calibrate_on
        strange = sorted(self.enrolment.keys() - self.trials)
        needing_cohort = {
            f"norm {self.norm}": self.norm != "none",
            "backend plda": self.backend == "plda",
            "subtract_mean": self.subtract_mean,
            "quality measure cohort": "cohort" in self.quality,
        }
        used = [what for what, is_used in needing_cohort.items() if is_used]
        problems: dict[str, Any] = {
            "no trials. Give --trials NAME=LIST, --eval NAME=FOLDER, or --manifest a "
            "prepared folder": not (self.trials or self.eval),
            "give a model (folder or hub name; --model) or --embeddings (an .npz)": (
                bool(self.model) == bool(self.embeddings)
            ),
            "where is the audio? Give --data-folder or --manifest": (
                self.model and self.trials and not (self.data_folder or self.manifest)
            ),
            f"enrolment of '{listed(strange)}', none of the lists: {lists}": strange,
            f"calibrate_on '{dev}' is none of the lists: {lists}": (
                dev and dev not in self.trials and not self.eval
            ),
            f"{listed(used)} needs --cohort (a manifest or an .npz of embeddings)": (
                used and not self.cohort
            ),
            "quality measures need --calibrate-on LIST": self.quality and not dev,
            "quality measure cohort needs norm s or as": (
                "cohort" in self.quality and self.norm not in ("s", "as")
            ),
            "quality measures duration and speech need audio, not --embeddings": (
                {"duration", "speech"} & set(self.quality) and self.embeddings
            ),
        }
        for message, is_wrong in problems.items():
            if is_wrong:
                raise UserError(message)
        super().check()

    @property
    def system(self) -> str:
        """What is verified, for titles."""
        return Path(str(self.model or self.embeddings)).name


def read_settings(argv: list[str]) -> VerifySettings:
    """From a model and a YAML (the first words; or the shipped one) and flags."""
    words = list(takewhile(lambda word: not word.startswith("-"), argv))
    argv = argv[len(words) :]
    yamls = [w for w in words if w.endswith((".yaml", ".yml")) or Path(w).is_file()]
    models = [word for word in words if word not in yamls]
    if len(models) > 1 or len(yamls) > 1:
        raise UserError(f"verify takes one MODEL and one YAML, not {' '.join(words)}")
    if models:
        argv = ["--model", *models, *argv]
    path, defaults = Path(*yamls) if yamls else hparams_dir() / "verify.yaml", None
    if path.is_file():
        defaults = parse_yaml(VerifySettings, path, "verify")
    elif yamls:
        raise UserError(f"no settings file {path}")
    settings = parse(VerifySettings, argv, "verify [MODEL] [SETTINGS.yaml]", defaults)
    if not settings.trials:
        for folder in map(Path, settings.manifest):
            if (folder / "prepare.json").is_file():
                settings.trials |= Prepared.load(folder).trial_lists()
    if settings.device == "auto":
        settings.device = "cuda" if torch.cuda.is_available() else "cpu"
    settings.check()
    return settings
