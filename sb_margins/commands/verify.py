"""``sb-margins verify``: trial lists in, scores, figures and pictures out."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch

from sb_margins.commands.options import Files, Formerly, Numbers, parse, parse_yaml
from sb_margins.data.manifest import Manifest
from sb_margins.data.prepared import Prepared
from sb_margins.data.trials import Trials, read_trials
from sb_margins.errors import UserError, listed
from sb_margins.files import hash_file, write_json, write_text
from sb_margins.plots.det import plot_det
from sb_margins.plots.histogram import plot_histogram
from sb_margins.select import hparams_dir
from sb_margins.similarity import Similarity, similarity_from
from sb_margins.verification.bootstrap import SEED, speakers_of
from sb_margins.verification.calibration import Calibration
from sb_margins.verification.embed import embed_files
from sb_margins.verification.embeddings import Embeddings
from sb_margins.verification.metrics import bayes_threshold, standard_metrics
from sb_margins.verification.normalisation import Normaliser, speaker_means
from sb_margins.verification.plda import train_plda
from sb_margins.verification.report import figures, marked_thresholds, print_table
from sb_margins.verification.score_file import write_scores
from sb_margins.verification.scorer import Scorer
from sb_margins.verification.sources import locate, read_manifests
from sb_margins.versions import versions

if TYPE_CHECKING:
    from sb_margins.inference import SpeakerVerifier


@dataclass
class VerifySettings:
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
    """The list on which scores are calibrated to log-likelihood ratios."""
    quality: list[Literal["duration", "magnitude", "cohort"]] = field(
        default_factory=list
    )
    """Quality measures of the calibration."""
    p_target: Numbers = field(default_factory=lambda: [0.01, 0.05])
    """Priors of the detection costs; the last one is that of the calibration."""
    bootstrap: int = 1000
    """Replicates over speakers for the intervals; 0: none."""
    confidence: float = 0.95
    """Of the intervals."""
    seed: int = SEED
    """Of the bootstrap and of the cohort's draw."""

    def check(self) -> None:
        """Raise for settings that do not fit together, before any work is done."""
        needing_cohort = {
            f"norm {self.norm}": self.norm != "none",
            "backend plda": self.backend == "plda",
            "subtract_mean": self.subtract_mean,
            "quality measure cohort": "cohort" in self.quality,
        }
        used = [what for what, is_used in needing_cohort.items() if is_used]
        lists, dev = ", ".join(self.trials), self.calibrate_on
        strange = sorted(self.enrolment.keys() - self.trials)
        problems: list[tuple[Any, str]] = [
            (
                not self.trials,
                "no trials. Give --trials NAME=LIST ..., or --manifest a prepared "
                "folder that has lists",
            ),
            (
                bool(self.model) == bool(self.embeddings),
                "give either --model (a model folder) or --embeddings (an .npz of "
                "embeddings)",
            ),
            (
                self.model and not (self.data_folder or self.manifest),
                "where is the audio? Give --data-folder (the folder that the names in "
                "the lists are relative to) or --manifest (a CSV or prepared folder)",
            ),
            (
                strange,
                f"enrolment is given for '{listed(strange)}', none of the lists: "
                f"{lists}",
            ),
            (
                dev and dev not in self.trials,
                f"calibrate_on '{dev}' is none of the lists: {lists}. Name it in "
                "--trials as well",
            ),
            (
                used and not self.cohort,
                f"{listed(used)} needs --cohort (a manifest CSV or an .npz of "
                "embeddings of training speakers)",
            ),
            (
                self.quality and not dev,
                "quality measures need --calibrate-on LIST",
            ),
            (
                "cohort" in self.quality and self.norm not in ("s", "as"),
                "quality measure cohort needs norm s or as",
            ),
            (
                "duration" in self.quality and self.embeddings,
                "quality measure duration needs audio, not --embeddings",
            ),
            (not self.p_target, "p_target is empty; give one prior at least"),
            (
                self.bootstrap == 1 or self.bootstrap < 0,
                "bootstrap must be 0 (no intervals) or at least 2",
            ),
        ]
        for is_wrong, message in problems:
            if is_wrong:
                raise UserError(message)
        for p_target in self.p_target:
            bayes_threshold(p_target)  # checks it

    @property
    def system(self) -> str:
        """What is verified, for titles."""
        return Path(str(self.model or self.embeddings)).name


def main(argv: list[str]) -> int:
    """Score the lists, print the table, write the files."""
    started = time.monotonic()
    settings = read_settings(argv)
    folder = Path(settings.output_folder)
    given = read_lists(settings)
    folder.mkdir(parents=True, exist_ok=True)

    model = load_model(settings)
    embeddings, speakers = embed_lists(settings, model, given, folder)
    lists = {name: trials.without(embeddings.skipped) for name, trials in given.items()}
    for name, trials in lists.items():
        if not len(trials):
            raise UserError(f"no trial of the list '{name}' can be scored")

    scorer = make_scorer(settings, model, embeddings)
    scores = {name: scorer.score(trials) for name, trials in lists.items()}
    calibration, llrs = calibrate(settings, scorer, lists, scores)
    final = llrs or scores

    rows: dict[str, dict[str, Any]] = {}
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
            itself = " (itself)" if settings.calibrate_on == name else ""
            rows[name]["calibration"] = f"on {settings.calibrate_on}{itself}"
        if trials.labels is not None:
            rows[name] |= judge(settings, trials, final[name], speakers)

    for name, trials in lists.items():
        write_scores(folder / f"scores_{name}.txt", trials, scores[name])
        if llrs:
            write_scores(folder / f"llr_{name}.txt", trials, llrs[name])
    draw(settings, folder, lists, final, scorer.unit(bool(llrs)))
    write_results(settings, folder, rows, embeddings, calibration)
    print_results(settings, rows, calibrated=bool(llrs))
    print(f"written to {folder} in {time.monotonic() - started:.1f} s")
    return 0


def read_settings(argv: list[str]) -> VerifySettings:
    """From a YAML (the first word, or the shipped one) and flags, which win."""
    path: str | Path = hparams_dir() / "verify.yaml"
    if argv and not argv[0].startswith("-"):
        path, *argv = argv
        if not Path(path).is_file():
            raise UserError(f"no settings file {path}")
    defaults = None
    if Path(path).is_file():
        defaults = parse_yaml(VerifySettings, path, "verify")
    settings = parse(VerifySettings, argv, "verify [SETTINGS.yaml]", defaults)
    if not settings.trials:
        for folder in filter(os.path.isdir, settings.manifest):
            settings.trials |= Prepared.load(folder).trial_lists()
    settings.check()
    return settings


def read_lists(settings: VerifySettings) -> dict[str, Trials]:
    """The trial lists by name."""
    lists = {
        name: read_trials(path, enrolment=settings.enrolment.get(name))
        for name, path in settings.trials.items()
    }
    dev = settings.calibrate_on
    if dev and lists[dev].labels is None:
        raise UserError(f"calibrate_on: the list '{dev}' has no labels")
    return lists


def device_of(settings: VerifySettings) -> str:
    """The device, ``auto`` resolved."""
    if settings.device != "auto":
        return settings.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_model(settings: VerifySettings) -> SpeakerVerifier | None:
    """The model, unless there are embeddings."""
    if settings.model is None:
        return None
    from sb_margins.inference import SpeakerVerifier  # imports SpeechBrain

    options = {"device": device_of(settings)}
    return SpeakerVerifier.from_hparams(settings.model, run_opts=options)


def embed(settings: VerifySettings, model: SpeakerVerifier, files: Any) -> Embeddings:
    """Embeddings of files with the settings and the cache."""
    cache: Path | None = Path(settings.output_folder) / "cache"
    if settings.cache != "auto":
        cache = None if settings.cache == "none" else Path(settings.cache)
    return embed_files(
        model.encoder,
        files,
        similarity=model.similarity,
        device=device_of(settings),
        cache=cache,
        crops=settings.crops,
        crop_seconds=settings.crop_seconds,
        bf16=settings.precision == "bf16",
        batch_seconds=settings.batch_seconds,
        skip_bad=settings.skip_bad,
    )


def embed_lists(
    settings: VerifySettings,
    model: SpeakerVerifier | None,
    lists: dict[str, Trials],
    folder: Path,
) -> tuple[Embeddings, dict[str, str]]:
    """Embeddings of the utterances of all lists, and the speakers that are known."""
    needed = sorted({u for trials in lists.values() for u in trials.utterances})
    manifests = read_manifests(settings.manifest, settings.data_folder)
    speakers = {u.id: u.spk_id for manifest in manifests[::-1] for u in manifest}
    if model is None:
        assert settings.embeddings is not None
        embeddings = Embeddings.load(settings.embeddings)
        missing = [name for name in needed if name not in embeddings]
        where = settings.embeddings
    else:
        files, missing = locate(needed, settings.data_folder, manifests)
        where = " and ".join(filter(None, [settings.data_folder, *settings.manifest]))
    for stale in ("missing.txt", "skipped.txt", "notes.txt"):
        (folder / stale).unlink(missing_ok=True)
    if missing:
        write_text(folder / "missing.txt", "".join(f"{name}\n" for name in missing))
    if missing and not settings.skip_bad:
        raise UserError(
            f"{len(missing)} of {len(needed)} utterances of the trials are not in "
            f"{where}: {listed(missing, 10)}. All are in {folder / 'missing.txt'}. "
            "Correct --data-folder, or leave their trials out with --skip-bad"
        )
    if model is not None:
        embeddings = embed(settings, model, files)
    skipped = {**dict.fromkeys(missing, "not found"), **embeddings.skipped}
    embeddings.skipped = dict(sorted(skipped.items()))
    if skipped:
        lines = [f"{name}\t{why}\n" for name, why in embeddings.skipped.items()]
        write_text(folder / "skipped.txt", "".join(lines))
        print(f"{len(skipped)} utterances cannot be used; see {folder / 'skipped.txt'}")
    if embeddings.notes:
        poor = sorted(embeddings.notes.items())
        lines = [f"{name}\t{note}\n" for name, notes in poor for note in notes]
        write_text(folder / "notes.txt", "".join(lines))
        print(f"{len(poor)} recordings are poor; see {folder / 'notes.txt'}")
    if settings.save_embeddings:
        embeddings.save(folder / "embeddings.npz")
    return embeddings, speakers


def make_scorer(
    settings: VerifySettings, model: SpeakerVerifier | None, embeddings: Embeddings
) -> Scorer:
    """The similarity of the model or the embeddings' file, and what a cohort adds."""
    similarity: Similarity = similarity_from(
        embeddings.similarity if model is None else model.similarity
    )
    name = similarity.settings()["name"]
    scorer = Scorer(embeddings, similarity, name, device_of(settings))
    if settings.cohort is None:
        return scorer
    cohort, speakers = load_cohort(settings, model, embeddings)
    if settings.backend == "plda":
        scorer.similarity = train_plda(cohort, speakers, rank=settings.plda_rank)
        scorer.name = "PLDA"
    if settings.subtract_mean:
        scorer.mean = cohort.matrix.mean(axis=0)
        scorer.name += ", mean subtracted"
    if settings.norm != "none":
        matrix = cohort.matrix
        if settings.cohort_speaker_means:
            matrix = speaker_means(cohort, speakers, scorer.similarity)
        scorer.normaliser = Normaliser(settings.norm, matrix, settings.top_k)
    return scorer


def load_cohort(
    settings: VerifySettings, model: SpeakerVerifier | None, embeddings: Embeddings
) -> tuple[Embeddings, dict[str, str]]:
    """Embeddings of the cohort, and its speakers as far as they are known.

    Of an ``.npz``: the first part of names like ``id00012/x/1.wav``.
    """
    path = str(settings.cohort)
    rng = np.random.default_rng(settings.seed)
    if path.endswith(".npz"):
        cohort = Embeddings.load(path)
        prints = {embeddings.fingerprint, cohort.fingerprint} - {None}
        if len(prints) > 1:
            raise UserError(f"the cohort {path} is of another model: embed it again")
        cohort = cohort.subset(_draw(rng, len(cohort), settings.cohort_size))
        named = all("/" in name for name in cohort.ids)
        return cohort, {n: n.split("/")[0] for n in cohort.ids} if named else {}
    if model is None:
        raise UserError(
            "with --embeddings the cohort must be an .npz of the same model"
        )
    if not Path(path).is_file():
        raise UserError(f"no cohort {path}: give a manifest CSV or an .npz")
    (manifest,) = read_manifests([path], None)
    chosen = _draw(rng, len(manifest), settings.cohort_size)
    manifest = Manifest([manifest[int(i)] for i in chosen], manifest.root)
    return embed(settings, model, manifest), {u.id: u.spk_id for u in manifest}


def _draw(rng: np.random.Generator, count: int, wanted: int) -> np.ndarray:
    """Sorted indices: all, or so many without replacement."""
    if wanted <= 0 or wanted >= count:
        return np.arange(count)
    return np.sort(rng.choice(count, wanted, replace=False))


def calibrate(
    settings: VerifySettings,
    scorer: Scorer,
    lists: dict[str, Trials],
    scores: dict[str, np.ndarray],
) -> tuple[Calibration | None, dict[str, np.ndarray]]:
    """Log-likelihood ratios of all lists by a map fitted on one of them."""
    dev = settings.calibrate_on
    if not dev:
        return None, {}
    quality: dict[str, np.ndarray | None] = dict.fromkeys(lists)
    names: list[str] = []
    if settings.quality:
        for name, trials in lists.items():
            quality[name], names = scorer.quality(trials, settings.quality)
    calibration = Calibration.fit(
        scores[dev],
        lists[dev].labels,
        quality[dev],
        measures=names,
        p_target=settings.p_target[-1],
    )
    llrs = {name: calibration.apply(scores[name], quality[name]) for name in lists}
    return calibration, llrs


def judge(
    settings: VerifySettings,
    trials: Trials,
    scores: np.ndarray,
    speakers: dict[str, str],
) -> dict[str, Any]:
    """The figures of one list; intervals over the manifests' speakers if complete."""
    sides = None
    if settings.bootstrap:
        complete = bool(speakers) and all(u in speakers for u in trials.utterances)
        sides = speakers_of(trials, speakers if complete else None)
    assert trials.labels is not None
    return figures(
        scores,
        trials.labels,
        speakers=sides,
        p_targets=settings.p_target,
        calibrated=bool(settings.calibrate_on),
        replicates=settings.bootstrap,
        confidence=settings.confidence,
        seed=settings.seed,
    )


def write_results(
    settings: VerifySettings,
    folder: Path,
    rows: dict[str, dict[str, Any]],
    embeddings: Embeddings,
    calibration: Calibration | None,
) -> None:
    """metrics.json (and calibration.json): without times, so that runs compare."""
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


def draw(
    settings: VerifySettings,
    folder: Path,
    lists: dict[str, Trials],
    scores: dict[str, np.ndarray],
    unit: str,
) -> None:
    """One picture of DET curves, and a histogram for each list with labels."""
    curves = {
        name: (scores[name], trials.labels)
        for name, trials in lists.items()
        if trials.labels is not None
    }
    for name, (values, labels) in curves.items():
        plot_histogram(
            values,
            labels,
            folder / f"histogram_{name}.png",
            thresholds=marked_thresholds(values, labels, settings.p_target[:1]),
            title=f"{name}: {settings.system}",
            unit=unit,
        )
    if curves:
        title = f"Detection error trade-off: {settings.system}"
        first = settings.p_target[0]
        plot_det(curves, folder / "det.png", title=title, p_target=first)


def print_results(
    settings: VerifySettings, rows: dict[str, dict[str, Any]], calibrated: bool
) -> None:
    """The table of the lists with labels, and what was left out."""
    judged = {name: row for name, row in rows.items() if "eer" in row}
    if judged:
        metrics = standard_metrics(settings.p_target, calibrated=calibrated)
        print_table(judged, metrics, extra=["normalisation"])
        if settings.bootstrap:
            print(
                f"[low, high]: {settings.confidence:.0%} confidence, "
                f"{settings.bootstrap} bootstrap replicates over speakers"
            )
    if calibrated:
        print(f"{settings.calibrate_on}: calibrated on itself, so Cllr is optimistic")
    for name, row in rows.items():
        if row.get("eer", 0) > 0.5:
            print(f"{name}: an EER above 50 %: are labels or scores inverted?")
        if row["left out"]:
            every = row["trials"] + row["left out"]
            print(f"{name}: {row['left out']} of {every} trials left out")
