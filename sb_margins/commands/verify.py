"""``sb-margins verify``: trial lists in, scores, figures and pictures out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch

from sb_margins.commands.figures import FigureSettings
from sb_margins.commands.options import Files, Formerly, parse, parse_yaml
from sb_margins.data.manifest import Manifest
from sb_margins.data.prepared import Prepared
from sb_margins.data.trials import Trials, read_trials
from sb_margins.errors import UserError, listed
from sb_margins.files import hash_file, write_json
from sb_margins.plots.det import plot_det
from sb_margins.plots.histogram import plot_histogram
from sb_margins.select import hparams_dir
from sb_margins.similarity import similarity_from
from sb_margins.verification.bootstrap import speakers_by_path, speakers_of
from sb_margins.verification.calibration import Calibration
from sb_margins.verification.embed import embed_files
from sb_margins.verification.embeddings import Embeddings
from sb_margins.verification.metrics import standard_metrics
from sb_margins.verification.normalisation import Normaliser, draw_cohort, speaker_means
from sb_margins.verification.plda import train_plda
from sb_margins.verification.report import (
    interval_notes,
    marked_thresholds,
    print_table,
    report_audio,
    write_lines,
)
from sb_margins.verification.score_file import write_scores
from sb_margins.verification.scorer import Scorer
from sb_margins.verification.sources import known_speakers, locate, read_manifests
from sb_margins.versions import versions

Embedder = Callable[[Any], Embeddings]


@dataclass
class VerifySettings(FigureSettings):
    """Score trial lists with a model (or embeddings).

    EER and minDCF with intervals, DET curves, histograms, score files. SETTINGS.yaml
    has the same keys as the flags (default: hparams/verify.yaml); flags win.
    """

    trials: Files = field(default_factory=dict)
    """Trial lists, e.g. O=veri_test2.txt."""
    enrolment: Files = field(default_factory=dict)
    """The utterances of enrolled models, by list."""
    model: str | None = None
    """A model folder (sb-margins export makes one)."""
    embeddings: str | None = None
    """Instead of a model: an .npz of embeddings (sb-margins embed makes one)."""
    data_folder: Annotated[str | None, Formerly("data-root")] = None
    """The folder that the names in the lists are relative to."""
    manifest: list[str] = field(default_factory=list)
    """Or: manifests or prepared folders (of which the trial lists are the default)."""
    output_folder: str = "results/verify"
    """Where scores, metrics and pictures go."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the encoder."""
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
    quality: list[Literal["duration", "magnitude", "cohort"]] = field(
        default_factory=list
    )
    """Quality measures of the calibration."""

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
            "no trials. Give --trials NAME=LIST, or --manifest a prepared folder": (
                not self.trials
            ),
            "give either --model (a model folder) or --embeddings (an .npz)": (
                bool(self.model) == bool(self.embeddings)
            ),
            "where is the audio? Give --data-folder or --manifest": (
                self.model and not (self.data_folder or self.manifest)
            ),
            f"enrolment of '{listed(strange)}', none of the lists: {lists}": strange,
            f"calibrate_on '{dev}' is none of the lists: {lists}": (
                dev and dev not in self.trials
            ),
            f"{listed(used)} needs --cohort (a manifest or an .npz of embeddings)": (
                used and not self.cohort
            ),
            "quality measures need --calibrate-on LIST": self.quality and not dev,
            "quality measure cohort needs norm s or as": (
                "cohort" in self.quality and self.norm not in ("s", "as")
            ),
            "quality measure duration needs audio, not --embeddings": (
                "duration" in self.quality and self.embeddings
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

    @property
    def run_device(self) -> str:
        """The device, ``auto`` resolved."""
        if self.device != "auto":
            return self.device
        return "cuda" if torch.cuda.is_available() else "cpu"


def main(argv: list[str]) -> int:
    """Score the lists, print the table, write the files."""
    started = time.monotonic()
    settings = read_settings(argv)
    folder = Path(settings.output_folder)
    given = {
        name: read_trials(path, enrolment=settings.enrolment.get(name))
        for name, path in settings.trials.items()
    }
    dev, calibration = settings.calibrate_on, None
    if dev and given[dev].labels is None:
        raise UserError(f"calibrate_on: the list '{dev}' has no labels")
    folder.mkdir(parents=True, exist_ok=True)

    manifests = read_manifests(settings.manifest, settings.data_folder)
    embed = load_embedder(settings) if settings.model else None
    embeddings = embed_lists(settings, embed, given, manifests)
    lists = {name: trials.without(embeddings.skipped) for name, trials in given.items()}
    for name, trials in lists.items():
        if not len(trials):
            raise UserError(f"no trial of the list '{name}' can be scored")

    scorer = make_scorer(settings, embed, embeddings)
    final = scores = {name: scorer.score(trials) for name, trials in lists.items()}
    if dev:
        prior = settings.p_target[-1]
        calibration, final = scorer.calibrate(
            lists, scores, dev, settings.quality, prior
        )

    speakers = known_speakers(manifests)
    rows: dict[str, dict[str, Any]] = {}
    curves: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name, trials in lists.items():
        rows[name] = {
            "list": Path(settings.trials[name]).name,
            "list hash": hash_file(settings.trials[name])[:16],
            "trials": len(trials),
            "left out": len(given[name]) - len(trials),
            "similarity": scorer.name,
            "normalisation": scorer.normalisation,
        }
        if calibration:
            itself = " (itself)" if name == dev else ""
            rows[name]["calibration"] = f"on {dev}{itself}"
        if trials.labels is not None:
            curves[name] = final[name], trials.labels
            sides = None
            if settings.bootstrap:
                complete = speakers and all(u in speakers for u in trials.utterances)
                sides = speakers_of(trials, speakers if complete else None)
            rows[name] |= settings.figures(*curves[name], sides, bool(calibration))
        write_scores(folder / f"scores_{name}.txt", trials, scores[name])
        if calibration:
            write_scores(folder / f"llr_{name}.txt", trials, final[name])
    plot(settings, curves, scorer.unit(bool(calibration)))
    write_results(settings, rows, embeddings, calibration)
    print_results(settings, rows)
    print(f"written to {folder} in {time.monotonic() - started:.1f} s")
    return 0


def read_settings(argv: list[str]) -> VerifySettings:
    """From a YAML (the first word, or the shipped one) and flags, which win."""
    path, defaults = hparams_dir() / "verify.yaml", None
    if argv and not argv[0].startswith("-"):
        path, argv = Path(argv[0]), argv[1:]
        if not path.is_file():
            raise UserError(f"no settings file {path}")
    if path.is_file():
        defaults = parse_yaml(VerifySettings, path, "verify")
    settings = parse(VerifySettings, argv, "verify [SETTINGS.yaml]", defaults)
    if not settings.trials:
        for folder in map(Path, settings.manifest):
            if (folder / "prepare.json").is_file():
                settings.trials |= Prepared.load(folder).trial_lists()
    settings.check()
    return settings


def load_embedder(settings: VerifySettings) -> Embedder:
    """A function that embeds files with the model, the settings and the cache."""
    from sb_margins.inference import SpeakerVerifier  # imports SpeechBrain

    device = settings.run_device
    model = SpeakerVerifier.from_hparams(settings.model, device=device)
    caches = {"auto": f"{settings.output_folder}/cache", "none": None}
    return partial(
        embed_files,
        model.encoder,
        similarity=model.similarity,
        device=device,
        cache=caches.get(settings.cache, settings.cache),
        crops=settings.crops,
        crop_seconds=settings.crop_seconds,
        bf16=settings.precision == "bf16",
        batch_seconds=settings.batch_seconds,
        skip_bad=settings.skip_bad,
    )


def embed_lists(
    settings: VerifySettings,
    embed: Embedder | None,
    lists: dict[str, Trials],
    manifests: list[Manifest],
) -> Embeddings:
    """Embeddings of the utterances of all lists; files name what is missing or poor."""
    folder = Path(settings.output_folder)
    needed = sorted({u for trials in lists.values() for u in trials.utterances})
    if embed is None:
        embeddings = Embeddings.load(str(settings.embeddings))
        missing = [name for name in needed if name not in embeddings]
    else:
        files, missing = locate(needed, settings.data_folder, manifests)
    write_lines(folder / "missing.txt", missing)
    if missing and not settings.skip_bad:
        places = [settings.embeddings, settings.data_folder, *settings.manifest]
        raise UserError(
            f"{len(missing)} of {len(needed)} utterances of the trials are not in "
            f"{' and '.join(filter(None, places))}: {listed(missing, 10)}. All are in "
            f"{folder / 'missing.txt'}. Correct --data-folder, or leave their trials "
            "out with --skip-bad"
        )
    if embed is not None:
        embeddings = embed(files)
    absent = dict.fromkeys(missing, "not found")
    embeddings.skipped = {**absent, **embeddings.skipped}
    report_audio(embeddings, folder)
    if settings.save_embeddings:
        embeddings.save(folder / "embeddings.npz")
    return embeddings


def make_scorer(
    settings: VerifySettings, embed: Embedder | None, embeddings: Embeddings
) -> Scorer:
    """The similarity that the embeddings are made for, and what a cohort adds."""
    similarity = similarity_from(embeddings.similarity)
    scorer = Scorer(embeddings, similarity, settings.run_device)
    if settings.cohort is None:
        return scorer
    cohort, speakers = load_cohort(settings, embed, embeddings)
    if settings.backend == "plda":
        scorer.similarity = train_plda(cohort, speakers, rank=settings.plda_rank)
    if settings.subtract_mean:
        scorer.mean = cohort.matrix.mean(axis=0)
    if settings.norm != "none":
        matrix = cohort.matrix
        if settings.cohort_speaker_means:
            matrix = speaker_means(cohort, speakers, scorer.similarity)
        scorer.normaliser = Normaliser(settings.norm, matrix, settings.top_k)
    return scorer


def load_cohort(
    settings: VerifySettings, embed: Embedder | None, embeddings: Embeddings
) -> tuple[Embeddings, dict[str, str]]:
    """Embeddings of the cohort, and its speakers as far as they are known."""
    path, draw = str(settings.cohort), (settings.cohort_size, settings.seed)
    if path.endswith(".npz"):
        cohort = Embeddings.load(path)
        prints = {embeddings.fingerprint, cohort.fingerprint} - {None}
        if len(prints) > 1:
            raise UserError(f"the cohort {path} is of another model: embed it again")
        cohort = cohort.subset(draw_cohort(len(cohort), *draw))
        return cohort, speakers_by_path(cohort.ids)
    if embed is None:
        raise UserError(
            "with --embeddings the cohort must be an .npz of the same model"
        )
    whole = Manifest.read(path)
    rows = draw_cohort(len(whole), *draw).tolist()
    manifest = Manifest([whole[row] for row in rows], whole.root)
    return embed(manifest), known_speakers([manifest])


def plot(
    settings: VerifySettings,
    curves: dict[str, tuple[np.ndarray, np.ndarray]],
    unit: str,
) -> None:
    """One picture of DET curves, and a histogram for each list with labels."""
    folder, first = Path(settings.output_folder), settings.p_target[0]
    for name, (scores, labels) in curves.items():
        plot_histogram(
            scores,
            labels,
            folder / f"histogram_{name}.png",
            thresholds=marked_thresholds(scores, labels, [first]),
            title=f"{name}: {settings.system}",
            unit=unit,
        )
    if curves:
        title = f"Detection error trade-off: {settings.system}"
        plot_det(curves, folder / "det.png", title=title, p_target=first)


def write_results(
    settings: VerifySettings,
    rows: dict[str, dict[str, Any]],
    embeddings: Embeddings,
    calibration: Calibration | None,
) -> None:
    """metrics.json (and calibration.json): without times, so that runs compare."""
    folder = Path(settings.output_folder)
    here = ("output_folder", "cache", "device", "batch_seconds")
    content: dict[str, Any] = {
        "lists": rows,
        "model": settings.system,
        "model hash": embeddings.fingerprint
        or hash_file(str(settings.embeddings))[:16],
        "settings": {k: v for k, v in asdict(settings).items() if k not in here},
        "skipped utterances": len(embeddings.skipped),
        "poor recordings": len(embeddings.notes),
        "versions": versions(),
    }
    if calibration is not None:
        calibration.save(folder / "calibration.json")
        content["calibration"] = asdict(calibration)
    write_json(folder / "metrics.json", content)


def print_results(settings: VerifySettings, rows: dict[str, dict[str, Any]]) -> None:
    """The table of the lists with labels, and what was left out."""
    calibrated = bool(settings.calibrate_on)
    judged = {name: row for name, row in rows.items() if "eer" in row}
    if judged:
        metrics = standard_metrics(settings.p_target, calibrated=calibrated)
        print_table(judged, metrics, extra=["normalisation"])
        print("\n".join(interval_notes(judged)))
    if calibrated:
        print(f"{settings.calibrate_on}: calibrated on itself, so Cllr is optimistic")
    for name, row in rows.items():
        if row.get("eer", 0) > 0.5:
            print(f"{name}: an EER above 50 %: are labels or scores inverted?")
        if row["left out"]:
            every = row["trials"] + row["left out"]
            print(f"{name}: {row['left out']} of {every} trials left out")
