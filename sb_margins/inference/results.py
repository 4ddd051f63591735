"""A results folder, as a training leaves it, made into a model folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml.comments import CommentedMap
from torch import nn

from sb_margins.errors import UserError
from sb_margins.inference.blocks import encoder_blocks, resolved
from sb_margins.inference.dev_trials import dev_scores
from sb_margins.inference.export import export_model
from sb_margins.inference.heads import similarity_of
from sb_margins.inference.safe_weights import load_into
from sb_margins.inference.safe_yaml import safe_hparams
from sb_margins.inference.thresholds import (
    Threshold,
    calibrate_llr,
    calibrate_thresholds,
)

HEAD = "!apply:sb_margins.select.head"
ABOUT = ("loss", "margin", "scale", "delta", "curvature", "corpus", "seed")


def best_checkpoint(save_folder: str | Path) -> Path:
    """The checkpoint with the lowest dev EER, or the newest when none was measured.

    Arguments
    ---------
    save_folder : str or Path
        Holds SpeechBrain's ``CKPT+...`` folders.

    Returns
    -------
    Path
        Of one checkpoint.

    Raises
    ------
    UserError
        When there is none that is whole.

    Example
    -------
    >>> best_checkpoint(getfixture("tmp_path"))
    Traceback (most recent call last):
    ...
    sb_margins.errors.UserError: no finished checkpoint in ...
    """
    found = []
    for path in sorted(Path(save_folder).glob("CKPT*")):
        meta = path / "CKPT.yaml"
        if not meta.is_file() or not (path / "embedding_model.ckpt").is_file():
            continue
        try:
            told = yaml.safe_load(meta.read_text(encoding="utf-8")) or {}
        except yaml.YAMLError:
            continue
        whole = (path / "COMPLETE").is_file()
        error = told.get("EER")
        rank = float(error) if isinstance(error, (int, float)) else float("inf")
        found.append((not whole, rank, -float(told.get("unixtime", 0)), path))
    if not found:
        raise UserError(
            f"no finished checkpoint in {save_folder}; let the training finish an epoch"
        )
    return min(found)[-1]


@dataclass
class TrainedParts:
    """What a results folder holds of a model.

    Arguments
    ---------
    settings : str
        The training YAML's text.
    tree : mapping
        The same, parsed, references resolved.
    modules : dict of str to torch.nn.Module
        The encoder's parts with the best weights.
    head : torch.nn.Module or None
        The training head with its weights, when the YAML names one of ours.
    checkpoint : Path
        Where the weights came from.

    Example
    -------
    >>> TrainedParts("", CommentedMap(), {}, None, Path("CKPT+1")).checkpoint.name
    'CKPT+1'
    """

    settings: str
    tree: CommentedMap
    modules: dict[str, nn.Module]
    head: nn.Module | None
    checkpoint: Path


def _head(tree: Mapping[str, Any], path: Path) -> nn.Module | None:
    node = tree.get("head")
    tag = getattr(getattr(node, "tag", None), "value", None)
    if tag != HEAD or not isinstance(node, CommentedMap) or not path.is_file():
        return None
    from sb_margins import select

    given = {str(key): value for key, value in node.items() if value is not None}
    if not isinstance(given.get("out_neurons"), int):
        raise UserError(
            f"{path.parents[2] / 'hyperparams.yaml'} does not say how many classes the "
            "head has (out_neurons); train again with this version"
        )
    head = select.head(**given)
    load_into(head, path, "head")
    return head


def read_results(results_dir: str | Path) -> TrainedParts:
    """The model in a results folder.

    Arguments
    ---------
    results_dir : str or Path
        The ``output_folder`` of a training.

    Returns
    -------
    TrainedParts

    Raises
    ------
    UserError
        When it is not such a folder, or its weights are damaged.

    Example
    -------
    >>> read_results("nowhere")
    Traceback (most recent call last):
    ...
    sb_margins.errors.UserError: no results folder nowhere ...
    """
    folder = Path(results_dir)
    described = folder / "hyperparams.yaml"
    if not described.is_file():
        raise UserError(
            f"no results folder {results_dir} of a training (a hyperparams.yaml must "
            "be in it)"
        )
    settings = described.read_text(encoding="utf-8")
    tree = resolved(settings)
    modules = safe_hparams(encoder_blocks(settings))
    checkpoint = best_checkpoint(folder / "save")
    load_into(
        modules["embedding_model"],
        checkpoint / "embedding_model.ckpt",
        "embedding_model",
    )
    if getattr(modules["mean_var_norm"], "norm_type", None) == "global":
        norm = modules["mean_var_norm"]
        load_into(norm, checkpoint / "normalizer.ckpt", "mean_var_norm")
    head = _head(tree, checkpoint / "head.ckpt")
    return TrainedParts(settings, tree, modules, head, checkpoint)


def _about(parts: TrainedParts, checkpoint: Path) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for name in ABOUT:
        value = parts.tree.get(name)
        if isinstance(value, (str, int, float)):
            facts[name] = value
    if facts.get("corpus") == "demo":
        facts["corpus"] = "demo: synthetic voices; its figures say nothing about people"
    size = sum(p.numel() for p in parts.modules["embedding_model"].parameters())
    facts["encoder"] = (
        f"{type(parts.modules['embedding_model']).__name__}, {size / 1e6:.2f} million "
        "parameters"
    )
    meta = yaml.safe_load((checkpoint / "CKPT.yaml").read_text(encoding="utf-8")) or {}
    if "epoch" in meta:
        facts["checkpoint"] = f"epoch {meta['epoch']}"
    return facts


def export_results(
    results_dir: str | Path,
    out_dir: str | Path,
    *,
    dev: tuple[Any, Any, str] | None = None,
    metrics: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> Path:
    """Make a model folder of a finished training.

    Arguments
    ---------
    results_dir : str or Path
        The ``output_folder`` of the training: ``hyperparams.yaml``, ``save``,
        ``label_encoder.txt``, ``metrics.json``, ``data``.
    out_dir : str or Path
        The folder to write.
    dev : tuple, optional
        (scores, labels, words for the data) of the development trials, scored with
        `similarity_of` the head; default: they are computed.
    metrics : mapping, optional
        Trial list to measured results; default: ``metrics.json``.
    device : str
        Where dev scores are computed. Default ``cpu``.

    Returns
    -------
    Path
        The model folder.

    Raises
    ------
    UserError
        When something of the training is missing or damaged.

    Example
    -------
    >>> export_results("nowhere", getfixture("tmp_path") / "model")
    Traceback (most recent call last):
    ...
    sb_margins.errors.UserError: no results folder nowhere ...
    """
    folder = Path(results_dir)
    parts = read_results(folder)
    similarity = similarity_of(parts.head) if parts.head is not None else None
    if dev is None:
        from sb_margins.similarity import CosineSimilarity

        dev = dev_scores(
            parts.modules, folder, similarity or CosineSimilarity(), device
        )
    about = _about(parts, parts.checkpoint)
    thresholds: dict[str, Threshold] = {}
    calibration = None
    if dev is not None:
        thresholds = calibrate_thresholds(*dev)
        try:
            calibration = calibrate_llr(*dev)
        except UserError as error:
            about["calibration"] = f"none; {error}"
    measured = folder / "metrics.json"
    if metrics is None and measured.is_file():
        metrics = json.loads(measured.read_text(encoding="utf-8"))
    classifier: Any = getattr(parts.head, "classifier", None)
    loss = about.get("loss", "")
    return export_model(
        parts.modules,
        out_dir,
        settings=parts.settings,
        sample_rate=int(parts.tree.get("sample_rate", 16000)),
        similarity=similarity,
        classifier=classifier,
        labels=_labels(folder / "label_encoder.txt"),
        metrics=metrics,
        thresholds=thresholds,
        calibration=calibration,
        about=about,
        title=f"Speaker verification with {loss}" if loss else "Speaker verification",
    )


def _labels(path: Path) -> list[str]:
    if not path.is_file():
        return []
    from speechbrain.dataio.encoder import CategoricalEncoder

    encoder = CategoricalEncoder()
    load_into(encoder, path, "label_encoder")
    return [str(encoder.ind2lab[i]) for i in sorted(encoder.ind2lab)]
