"""After a run: its figures on every trial list, pictures, and the exported model."""

from __future__ import annotations

from typing import Any

from sb_margins.data.trials import read_trials
from sb_margins.files import write_json
from sb_margins.inference.results import export_results
from sb_margins.plots.curves import plot_training
from sb_margins.plots.scores import plot_scores
from sb_margins.training.run import Trained
from sb_margins.verification.bootstrap import speakers_of
from sb_margins.verification.embed import embed_files
from sb_margins.verification.report import figures, print_table
from sb_margins.verification.score_file import write_scores
from sb_margins.verification.scoring import score_trials
from sb_margins.versions import versions


def evaluate(trained: Trained) -> None:
    """Evaluate every list, write figures and pictures, export the model's folder."""
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
    for split in prepared.splits[1:]:
        if not prepared.has_trials(split):
            continue
        manifest, trials = prepared.manifest(split), read_trials(prepared.trials(split))
        embeddings = embed_files(trained.encoder, manifest, device=trained.device)
        scores = score_trials(embeddings, trials, similarity=trained.similarity)
        labels = trials.labels
        assert labels is not None
        speakers = {u.id: u.spk_id for u in manifest}
        write_scores(folder / f"scores_{split}.txt", trials, scores)
        last = scores
        if not best_is_last:
            embeddings = embed_files(encoder, manifest, device=trained.device)
            last = score_trials(embeddings, trials, similarity=similarity)
        write_scores(folder / f"scores_last_{split}.txt", trials, last)
        lists[split] = figures(scores, labels, speakers=speakers_of(trials, speakers))
        curves[split] = (scores, labels)
    if not lists:
        export_results(folder, folder / "model")
        return
    plot_scores(curves, folder, folder.name)
    write_json(folder / "metrics.json", {"lists": lists, "versions": versions()})
    print_table(lists)
    dev = None
    if "dev" in curves:
        dev = (*curves["dev"], f"the dev trials of {corpus}")
    export_results(folder, folder / "model", dev=dev, metrics=lists)
