"""``sb-margins verify``: trial lists in, scores, figures and pictures out."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from sb_margins.data.trials import Trials, read_trials
from sb_margins.errors import UserError, listed
from sb_margins.files import write_json, write_text
from sb_margins.plots.det import plot_det
from sb_margins.plots.histogram import plot_histogram
from sb_margins.verification.bootstrap import speakers_of
from sb_margins.verification.calibration import Calibration, quality_measures
from sb_margins.verification.embeddings import Embeddings
from sb_margins.verification.metrics import standard_metrics
from sb_margins.verification.normalisation import Normaliser, speaker_means
from sb_margins.verification.options import VerifyOptions, read_options
from sb_margins.verification.report import (
    figures,
    marked_thresholds,
    print_table,
)
from sb_margins.verification.score_file import write_scores
from sb_margins.verification.scoring import (
    index_trials,
    is_cosine,
    model_name,
    score_trials,
)
from sb_margins.verification.sources import (
    Located,
    System,
    embed,
    file_hash,
    load_cohort,
    load_system,
    locate,
    read_manifests,
)
from sb_margins.versions import versions


def main(argv: list[str]) -> int:
    """Score the lists, print the table, write the files.

    Arguments
    ---------
    argv : list of str
        A YAML (optional) and flags; see ``--help``.

    Returns
    -------
    int
        0.

    Raises
    ------
    UserError
        For settings, lists, audio or models that cannot be used.
    """
    options = read_options(argv)
    started = time.monotonic()
    folder = Path(options.output_folder)
    lists = {
        name: read_trials(path, enrolment=options.enrolment.get(name))
        for name, path in options.trials.items()
    }
    told = options.calibrate_on
    if told and lists[told].labels is None:
        raise UserError(f"calibrate_on: the list '{told}' has no labels")
    folder.mkdir(parents=True, exist_ok=True)
    system = load_system(options)
    embeddings, located = _embeddings(options, system, lists, folder)
    kept = {n: t.without(embeddings.skipped) for n, t in lists.items()}
    for name, trials in kept.items():
        if not len(trials):
            raise UserError(f"no trial of the list '{name}' can be scored")
    if options.save_embeddings:
        embeddings.save(folder / "embeddings.npz")
    scorer = _Scorer(options, system, embeddings)
    scores = {name: scorer.score(trials) for name, trials in kept.items()}
    final = scorer.calibrated(kept, scores) if told else scores
    results: dict[str, Any] = {}
    curves = {}
    for name, trials in kept.items():
        write_scores(folder / f"scores_{name}.txt", trials, scores[name])
        if told:
            write_scores(folder / f"llr_{name}.txt", trials, final[name])
        result = {
            "list": Path(options.trials[name]).name,
            "list hash": file_hash(options.trials[name]),
            "trials": len(trials),
            "left out": len(lists[name]) - len(trials),
            "similarity": scorer.similarity_name,
            "normalisation": scorer.norm_name,
        }
        if told:
            result["calibration"] = f"on {told}" + (" (itself)" if told == name else "")
        if trials.labels is not None:
            result |= _judge(
                options, trials, final[name], located, folder, name, scorer.unit
            )
            curves[name] = (final[name], trials.labels)
        results[name] = result
    _write(options, system, scorer, results, embeddings, folder)
    if curves:
        title = f"Detection error trade-off: {_model_name(options)}"
        plot_det(curves, folder / "det.png", title=title, p_target=options.p_target[0])
        judged = {name: results[name] for name in curves}
        metrics = standard_metrics(options.p_target, calibrated=bool(told))
        print_table(judged, metrics, extra=["normalisation"])
        if options.bootstrap:
            print(
                f"[low, high]: {options.confidence:.0%} confidence, "
                f"{options.bootstrap} bootstrap replicates over speakers"
            )
    for name, result in results.items():
        if result["left out"]:
            print(f"{name}: {result['left out']} of {len(lists[name])} trials left out")
    print(f"written to {folder} in {time.monotonic() - started:.1f} s")
    return 0


def _model_name(options: VerifyOptions) -> str:
    return Path(str(options.model or options.embeddings)).name


def _embeddings(
    options: VerifyOptions, system: System, lists: dict[str, Trials], folder: Path
) -> tuple[Embeddings, Located]:
    """One pass over the utterances of all lists; what is missing is told at once."""
    needed = sorted({u for trials in lists.values() for u in trials.utterances})
    manifests = read_manifests(options.manifest, options.data_root)
    if options.embeddings:
        found = Embeddings.load(options.embeddings)
        known = set(found.ids)
        missing = [name for name in needed if name not in known]
        located = Located({}, missing, {})
        for manifest in manifests:
            located.speakers.update({u.id: u.spk_id for u in manifest})
        where = str(options.embeddings)
    else:
        located = locate(needed, options.data_root, manifests)
        missing = located.missing
        where = " and ".join(filter(None, [options.data_root, *options.manifest]))
    report = folder / "missing.txt"
    for stale in (report, folder / "skipped.txt"):
        stale.unlink(missing_ok=True)
    if missing:
        write_text(report, "".join(f"{name}\n" for name in missing))
        if not options.skip_bad:
            raise UserError(
                f"{len(missing)} of {len(needed)} utterances of the trials are not in "
                f"{where}: {listed(missing, 10)}. All are in {report}. Correct "
                "--data-root, or leave their trials out with --skip-bad"
            )
    if not options.embeddings:
        found = embed(system, options, located.files, skip_bad=options.skip_bad)
    skipped = {**dict.fromkeys(missing, "not found"), **found.skipped}
    found.skipped = dict(sorted(skipped.items()))
    if skipped:
        lines = [f"{name}\t{why}\n" for name, why in found.skipped.items()]
        write_text(folder / "skipped.txt", "".join(lines))
        print(f"{len(skipped)} utterances cannot be used; see {folder / 'skipped.txt'}")
    return found, located


class _Scorer:
    """Similarity, cohort, normalisation and calibration of one run."""

    def __init__(
        self, options: VerifyOptions, system: System, embeddings: Embeddings
    ) -> None:
        self.options, self.system, self.embeddings = options, system, embeddings
        self.similarity = system.similarity
        self.mean: np.ndarray | None = None
        self.normaliser: Normaliser | None = None
        self.calibration: Calibration | None = None
        cosine = is_cosine(self.similarity)
        name = "cosine" if cosine else type(self.similarity).__name__
        self.similarity_name = name
        if options.cohort is None:
            return
        cohort, speakers = load_cohort(system, options)
        if options.backend == "plda":
            from sb_margins.verification.plda import train_plda

            self.similarity = train_plda(cohort, speakers, rank=options.plda_rank)
            self.similarity_name = "PLDA"
        if options.subtract_mean:
            self.mean = cohort.matrix.mean(axis=0)
            self.similarity_name += ", mean subtracted"
        if options.norm != "none":
            matrix = cohort.matrix
            if options.cohort_speaker_means:
                matrix = speaker_means(cohort, speakers, self.similarity)
            self.normaliser = Normaliser(options.norm, matrix, options.top_k)

    @property
    def norm_name(self) -> str:
        return self.normaliser.name if self.normaliser else "none"

    @property
    def unit(self) -> str:
        """What a score is, for an axis."""
        if self.options.calibrate_on:
            return "log-likelihood ratio (nats)"
        if self.normaliser:
            return f"{self.normaliser.method}-norm score (cohort standard deviations)"
        if self.similarity_name == "PLDA":
            return "PLDA score (log-likelihood ratio, nats)"
        known = {"PoincareSimilarity": "negative Poincaré distance"}
        return known.get(self.similarity_name, self.similarity_name)

    def score(self, trials: Trials) -> np.ndarray:
        return score_trials(
            self.embeddings,
            trials,
            self.similarity,
            mean=self.mean,
            normaliser=self.normaliser,
            device=self.system.device,
        )

    def calibrated(
        self, lists: dict[str, Trials], scores: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Log-likelihood ratios of all lists by a map fitted on one of them."""
        dev = self.options.calibrate_on
        assert dev is not None
        quality: dict[str, np.ndarray | None] = dict.fromkeys(lists)
        names: list[str] = []
        if self.options.quality:
            for name, trials in lists.items():
                quality[name], names = self._quality(trials)
        self.calibration = Calibration.fit(
            scores[dev],
            lists[dev].labels,
            quality[dev],
            measures=names,
            p_target=self.options.p_target[-1],
        )
        return {
            name: self.calibration.apply(scores[name], quality[name]) for name in lists
        }

    def _quality(self, trials: Trials) -> tuple[np.ndarray, list[str]]:
        wanted = self.options.quality
        index = index_trials(self.embeddings, trials, self.similarity)
        seconds = None
        if "duration" in wanted:
            seconds = dict(self.embeddings.seconds)
            for name, members in trials.models.items():
                seconds[model_name(name)] = sum(seconds[m] for m in members)
        cohort_mean = None
        if "cohort" in wanted and self.normaliser is not None:
            cohort_mean = self.normaliser.cohort_means(index.names)
        return quality_measures(
            index,
            seconds=seconds,
            magnitude="magnitude" in wanted,
            cohort_mean=cohort_mean,
        )


def _judge(
    options: VerifyOptions,
    trials: Trials,
    scores: np.ndarray,
    located: Located,
    folder: Path,
    name: str,
    unit: str,
) -> dict[str, Any]:
    """Figures of one list, and its histogram."""
    labels = trials.labels
    assert labels is not None
    speakers = located.speakers
    members = {m for n in set(trials.enrol) for m in trials.models.get(n, (n,))}
    complete = speakers and all(n in speakers for n in members | set(trials.test))
    sides = None
    if options.bootstrap:
        sides = speakers_of(trials, speakers if complete else None)
    found = figures(
        scores,
        labels,
        speakers=sides,
        p_targets=options.p_target,
        calibrated=bool(options.calibrate_on),
        replicates=options.bootstrap,
        confidence=options.confidence,
        seed=options.seed,
    )
    plot_histogram(
        scores,
        labels,
        folder / f"histogram_{name}.png",
        thresholds=marked_thresholds(scores, labels, options.p_target[:1]),
        title=f"{name}: {_model_name(options)}",
        unit=unit,
    )
    return found


def _write(
    options: VerifyOptions,
    system: System,
    scorer: _Scorer,
    results: dict[str, Any],
    embeddings: Embeddings,
    folder: Path,
) -> None:
    """metrics.json (and calibration.json): no times in it, so that runs compare."""
    settings = {
        key: value
        for key, value in asdict(options).items()
        if key not in ("output_folder", "cache", "device", "batch_seconds")
    }
    content = {
        "lists": results,
        "model": _model_name(options),
        "model hash": system.hash,
        "settings": settings,
        "skipped utterances": len(embeddings.skipped),
        "versions": versions(),
    }
    if scorer.calibration is not None:
        scorer.calibration.save(folder / "calibration.json")
        content["calibration"] = asdict(scorer.calibration)
    write_json(folder / "metrics.json", content)
