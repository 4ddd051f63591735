"""``sb-margins verify``: trial lists in, scores, figures and pictures out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sb_margins.audio import SpeechGate
from sb_margins.commands.model import ModelSettings
from sb_margins.commands.verify_settings import VerifySettings, read_settings
from sb_margins.data.evaluation import TrialList, other_lists
from sb_margins.data.manifest import Manifest
from sb_margins.data.trials import Trials, read_trials
from sb_margins.errors import UserError, listed
from sb_margins.files import hash_file, write_json
from sb_margins.messages import progress
from sb_margins.plots.scores import plot_scores
from sb_margins.similarity import similarity_from
from sb_margins.verification.bootstrap import speakers_by_path
from sb_margins.verification.calibration import Calibration
from sb_margins.verification.embed import embed_files
from sb_margins.verification.embeddings import Embeddings
from sb_margins.verification.metrics import standard_metrics
from sb_margins.verification.normalisation import Normaliser, draw_cohort, speaker_means
from sb_margins.verification.plda import train_plda
from sb_margins.verification.report import (
    notes_on,
    print_table,
    report_audio,
    with_mean,
    write_lines,
)
from sb_margins.verification.score_file import write_scores
from sb_margins.verification.scorer import Scorer
from sb_margins.verification.sources import known_speakers, locate, read_manifests
from sb_margins.versions import versions

Embedder = Callable[[Any], Embeddings]


def main(argv: list[str]) -> int:
    """Score the lists, print the table, write the files."""
    started = time.monotonic()
    settings = read_settings(argv)
    folder = Path(settings.output_folder)
    given = {
        name: read_trials(path, enrolment=settings.enrolment.get(name))
        for name, path in settings.trials.items()
    }
    if settings.utt2spk:  # complete? Said before the work is done
        for trials in given.values():
            settings.sides(trials)
    manifests = read_manifests(settings.manifest, settings.data_folder)
    others = load_others(settings, given, manifests)
    files = settings.trials | {n: o.prepared.trials(o.split) for n, o in others.items()}
    dev, calibration = settings.calibrate_on, None
    if dev and dev not in given:
        raise UserError(
            f"calibrate_on '{dev}' is none of the lists: {listed(list(given))}"
        )
    if dev and given[dev].labels is None:
        raise UserError(f"calibrate_on: the list '{dev}' has no labels")
    folder.mkdir(parents=True, exist_ok=True)
    speakers = known_speakers(manifests)
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

    rows: dict[str, dict[str, Any]] = {}
    curves: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name, trials in lists.items():
        rows[name] = {
            "list": Path(files[name]).name,
            "list hash": hash_file(files[name])[:16],
            "trials": len(trials),
            "left out": len(given[name]) - len(trials),
            "similarity": scorer.name,
            "normalisation": scorer.normalisation,
        }
        if dev:
            rows[name]["calibration"] = f"on {dev}{shared(trials, lists[dev])}"
        if trials.labels is not None:
            curves[name] = final[name], trials.labels
            judge = replace(settings, utt2spk=None) if name in others else settings
            row = judge.figures(final[name], trials, bool(dev), speakers)
            rows[name] |= row
        if name in others and settings.model:
            trials = trials.renamed(lambda tagged: tagged.partition(":")[2])
        write_scores(folder / f"scores_{name}.txt", trials, scores[name])
        if calibration:
            write_scores(folder / f"llr_{name}.txt", trials, final[name])
    plot_scores(
        curves,
        folder,
        settings.system,
        p_target=settings.p_target[0],
        unit=scorer.unit(bool(dev)),
    )
    judged = {name: row for name, row in rows.items() if "eer" in row}
    metrics = standard_metrics(settings.p_target, calibrated=bool(dev))
    shown = with_mean(judged, metrics, but=dev) if others else judged
    means = {name: row for name, row in shown.items() if name not in rows}
    content = write_results(settings, rows, means, embeddings, calibration)
    if settings.json:
        print(json.dumps(content, indent=2))
        return 0
    if judged:
        print_table(shown, metrics, extra=["normalisation"])
    for note in content["notes"]:
        print(note)
    progress(f"written to {folder} in {time.monotonic() - started:.1f} s")
    return 0


def load_others(
    settings: VerifySettings, given: dict[str, Trials], manifests: list[Manifest]
) -> dict[str, TrialList]:
    """The lists of ``--eval``; their trials and manifests join those that are there.

    Utterances get the name of their folder in front, since corpora may have the same
    names. Stored embeddings have none.
    """
    others = other_lists(settings.eval, Path(settings.output_folder) / "eval")
    if both := [name for name in others if name in given]:
        raise UserError(f"--eval {listed(both)}: a list has that name; choose another")
    tags: dict[Path, str] = {}
    for name, one in others.items():
        tag = tags.setdefault(one.prepared.folder, f"{name}:" if settings.model else "")
        given[name] = one.trials.renamed(partial(str.__add__, tag))
        named = [replace(u, id=tag + u.id) for u in one.manifest]
        manifests.append(Manifest(named, one.manifest.root))
    return others


def shared(trials: Trials, dev: Trials) -> str:
    """How much a list has in common with the one that it is calibrated on."""
    used, known = set(trials.utterances), set(dev.utterances)
    if (trials.enrol, trials.test) == (dev.enrol, dev.test):
        return " (itself)"
    both = len(used & known)
    return f" (which has {both} of its {len(used)} utterances)" if both else ""


def load_embedder(settings: VerifySettings) -> Embedder:
    """A function that embeds files with the model, the settings and the cache."""
    model = ModelSettings(
        model=str(settings.model), device=settings.device, trust=settings.trust
    ).load()
    caches = {"auto": f"{settings.output_folder}/cache", "none": None}
    return partial(
        embed_files,
        model.encoder,
        similarity=model.similarity,
        device=settings.device,
        cache=caches.get(settings.cache, settings.cache),
        crops=settings.crops,
        crop_seconds=settings.crop_seconds,
        precision=settings.precision,
        batch_seconds=settings.batch_seconds,
        skip_bad=settings.skip_bad,
        gate=SpeechGate(0, 0) if "speech" in settings.quality else None,
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
    scorer = Scorer(embeddings, similarity, settings.device)
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


def write_results(
    settings: VerifySettings,
    rows: dict[str, dict[str, Any]],
    means: Mapping[str, Mapping[str, Any]],
    embeddings: Embeddings,
    calibration: Calibration | None,
) -> dict[str, Any]:
    """metrics.json (and calibration.json): without times, so that runs compare."""
    folder = Path(settings.output_folder)
    here = ("output_folder", "cache", "device", "batch_seconds", "json")
    content: dict[str, Any] = {
        "lists": rows,
        **({"means": means} if means else {}),
        "notes": notes_on(rows),
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
    return content
