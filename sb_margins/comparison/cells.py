"""Cells on disk: finished, interrupted, or of another comparison."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sb_margins.comparison.plan import (
    Cell,
    Plan,
    configuration_hash,
    data_hash,
    list_hash,
)
from sb_margins.data import Prepared
from sb_margins.data.evaluation import TrialList
from sb_margins.encoder import SpeakerEncoder
from sb_margins.errors import UserError
from sb_margins.files import hash_file, write_json
from sb_margins.inference.results import read_epoch
from sb_margins.inference.verifier import SpeakerVerifier
from sb_margins.similarity import similarity_of
from sb_margins.training.evaluate import score_lists
from sb_margins.training.log import History
from sb_margins.training.settings import check_same_run
from sb_margins.verification.score_file import write_scores

MARKER = "finished.json"
RESULTS = ("history.csv", "metrics.json", "run.json")  # and scores_*.txt


def mark_finished(cell: Cell, plan: Plan, **facts: Any) -> None:
    """Write the marker of a finished cell, last of all, with hashes of its results."""
    scores = sorted(cell.folder.glob("scores_*.txt"))
    files = [cell.folder / name for name in RESULTS] + scores
    for path in files:
        if not path.is_file():
            raise UserError(
                f"{cell.label}: the run ended without {path.name}; see "
                f"{cell.folder / 'train.log'}"
            )
    if not scores:
        raise UserError(
            f"{cell.label}: there are no trial lists to compare on. Give the corpus "
            "trials, or speakers with two utterances in its dev and test splits"
        )
    marker = {
        "configuration": configuration_hash(plan.config(cell)),
        "data": data_hash(Prepared.load(cell.folder / "data")),
        "files": {path.name: hash_file(path) for path in files},
        **facts,
    }
    write_json(cell.folder / MARKER, marker)


def finished_marker(cell: Cell, plan: Plan, data: str | None) -> dict[str, Any] | None:
    """The marker of a finished cell; None when it is still to be trained.

    Refuses a folder of another configuration, of other data (``data`` is the hash of
    the comparison's corpus; None: not known yet), or with results that were changed
    later.
    """
    folder, path = cell.folder, cell.folder / MARKER
    _remove_torn(folder)
    config = plan.config(cell)
    if (folder / "run.json").is_file():
        check_same_run(folder, config.recorded())
    if not path.is_file():
        return None
    again = f"Delete {folder} to train it again"
    try:
        marker = json.loads(path.read_text(encoding="utf-8"))
        hashes = dict(marker["files"])
        configuration, marked_data = marker["configuration"], marker["data"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a valid marker ({error}). {again}") from error
    for name, value in hashes.items():
        if not (folder / name).is_file():
            raise UserError(
                f"{cell.label} is marked as finished but has no {name}. {again}"
            )
        if hash_file(folder / name) != value:
            raise UserError(f"{folder / name} was changed after the run. {again}")
    elsewhere = "Choose another --output-folder, or delete it"
    if configuration != configuration_hash(config):
        raise UserError(
            f"{folder} was trained with another version of {plan.yaml.name}, or with "
            f"other run options. {elsewhere}"
        )
    if data is not None and marked_data != data:
        raise UserError(
            f"{folder} was trained and evaluated on other data than this comparison "
            "(its manifests or trial lists differ): the results cannot be compared. "
            f"{elsewhere}"
        )
    return marker


def score_others(
    cell: Cell, marker: dict[str, Any], lists: Mapping[str, TrialList], device: str
) -> list[str]:
    """Score further lists with a finished cell's model, and note them in its marker.

    Its exported model has the best epoch's weights; those of the last epoch are used
    where their checkpoint is still there. Returns the names of the lists that were
    scored. Refuses a list that another one of that name was scored for.
    """
    scored = marker.get("lists", {})
    for name in scored.keys() & lists.keys():
        if scored[name] != list_hash(lists[name]):
            raise UserError(
                f"--eval {name}: {cell.label} was scored on another list of that name "
                "(its manifest or trials differ). Choose another name"
            )
    new = {name: one for name, one in lists.items() if name not in scored}
    if not new:
        return []
    model = SpeakerVerifier.from_hparams(
        str(cell.folder / "model"), run_opts={"device": device}
    )
    similarity = model.similarity.cpu()  # scores are computed there
    best = score_lists(model.encoder, similarity, new, device)
    last = {}
    ended = History(cell.folder / "history.csv").rows[-1]["epoch"]
    if parts := read_epoch(cell.folder, ended):
        encoder = SpeakerEncoder.from_modules(parts.modules, model.sample_rate).eval()
        similarity = similarity_of(parts.head) if parts.head else similarity
        last = best
        if encoder.fingerprint(similarity) != model.fingerprint:
            last = score_lists(encoder.to(device), similarity, new, device)
    for end, scores in (("", best), ("last_", last)):
        for name, values in scores.items():
            path = cell.folder / f"scores_{end}{name}.txt"
            write_scores(path, new[name].trials, values)
            marker["files"][path.name] = hash_file(path)
    marker["lists"] = scored | {name: list_hash(one) for name, one in new.items()}
    write_json(cell.folder / MARKER, marker)
    return list(new)


def _remove_torn(folder: Path) -> None:
    """Delete a folder that was killed before its first checkpoint, half-written."""
    path = folder / "run.json"
    if not path.is_file():
        return
    try:
        json.loads(path.read_text(encoding="utf-8"))["settings"]
    except (ValueError, KeyError, TypeError) as error:
        if list((folder / "save").glob("CKPT*")) or (folder / MARKER).exists():
            raise UserError(
                f"{path} is damaged, so the settings of {folder} are not known. Delete "
                "the folder to train it again"
            ) from error
        shutil.rmtree(folder)
