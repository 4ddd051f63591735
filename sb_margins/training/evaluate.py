"""After a run: its figures on every trial list, pictures, and the exported model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sb_margins.data.evaluation import TrialList
from sb_margins.encoder import SpeakerEncoder
from sb_margins.files import write_json
from sb_margins.inference.results import export_results
from sb_margins.plots.curves import plot_training
from sb_margins.plots.scores import plot_scores
from sb_margins.training.run import Trained, lists_of
from sb_margins.verification.bootstrap import speakers_of
from sb_margins.verification.embed import embed_files
from sb_margins.verification.report import figures, print_table, with_mean
from sb_margins.verification.score_file import write_scores
from sb_margins.verification.scoring import score_trials
from sb_margins.versions import versions


def score_lists(
    encoder: SpeakerEncoder,
    similarity: Any,
    lists: Mapping[str, TrialList],
    device: str = "cpu",
) -> dict[str, np.ndarray]:
    """The scores [N] of each list; utterances that lists share are embedded once."""
    groups: dict[Path, list[str]] = {}
    for name, one in lists.items():
        groups.setdefault(one.prepared.folder, []).append(name)
    scores = {}
    for names in groups.values():
        manifests = [lists[name].manifest for name in names]
        files = {u.id: m.path(u) for m in manifests for u in m}
        embeddings = embed_files(encoder, files, device=device)
        for name in names:
            trials = lists[name].trials
            scores[name] = score_trials(embeddings, trials, similarity)
    return scores


def evaluate(trained: Trained, show: bool = True) -> dict[str, np.ndarray]:
    """Evaluate every list, write figures and pictures, export the model's folder.

    ``show`` prints the figures. Returns the scores [N] of each list.
    """
    folder, prepared, settings = trained.folder, trained.prepared, trained.settings
    corpus = prepared.data_root.resolve().name
    if prepared.info["corpus"] == "demo":
        corpus = "the synthetic demo corpus"
    loss = settings.loss or type(trained.hparams["head"].loss).__name__
    title = f"{loss} on {corpus}, seed {settings.seed}"
    plot_training(trained.history.rows, folder / "curve.png", title)
    lists: dict[str, Any] = {}
    curves: dict[str, Any] = {}
    encoder, similarity = trained.last
    now = trained.encoder.fingerprint(trained.similarity)
    best_is_last = encoder.fingerprint(similarity) == now
    there = lists_of(settings, prepared)
    scores = score_lists(trained.encoder, trained.similarity, there, trained.device)
    last = scores
    if not best_is_last:
        last = score_lists(encoder, similarity, there, trained.device)
    for name, one in there.items():
        write_scores(folder / f"scores_{name}.txt", one.trials, scores[name])
        write_scores(folder / f"scores_last_{name}.txt", one.trials, last[name])
        curves[name] = scores[name], one.labels
        sides = speakers_of(one.trials, one.speakers)
        lists[name] = figures(*curves[name], speakers=sides)
    if not lists:
        export_results(folder, folder / "model")
        return scores
    plot_scores(curves, folder, folder.name)
    write_json(folder / "metrics.json", {"lists": lists, "versions": versions()})
    if show:
        print_table(with_mean(lists) if settings.eval else lists)
    dev = None
    if "dev" in curves:
        dev = (*curves["dev"], f"the dev trials of {corpus}")
    export_results(folder, folder / "model", dev=dev, metrics=lists)
    return scores
