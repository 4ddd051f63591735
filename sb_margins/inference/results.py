"""The results folder of a run: its best checkpoint, read safely, and made a model."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

from sb_margins import files
from sb_margins.encoder import ENCODER_MODULES, SpeakerEncoder
from sb_margins.errors import UserError
from sb_margins.inference.export import encoder_blocks, export_model
from sb_margins.inference.model_folder import find_folder, folder_file
from sb_margins.inference.safe_build import build
from sb_margins.inference.safe_weights import load_into
from sb_margins.inference.safe_yaml import HEAD, Call, Refused, read_hparams, read_text
from sb_margins.inference.thresholds import (
    calibrate_llr,
    calibrate_thresholds,
    is_finite,
    reservations,
)
from sb_margins.inference.verifier import SpeakerVerifier
from sb_margins.similarity import CosineSimilarity, Similarity, similarity_of

ABOUT = ("loss", "margin", "scale", "delta", "curvature", "corpus", "seed")
START = ("init_from", "warnings")
# How a model folder and a checkpoint call the same things.
FILES = {
    "embedding_model": ("embedding_model.ckpt",),
    "mean_var_norm": ("mean_var_norm.ckpt", "normalizer.ckpt"),
}


def _meta(checkpoint: Path) -> dict[str, Any]:
    """What SpeechBrain's checkpointer noted: EER, epoch, unixtime."""
    try:
        text = (checkpoint / "CKPT.yaml").read_text(encoding="utf-8")
        meta = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return meta if isinstance(meta, dict) else {}


def best_checkpoint(save_folder: str | Path) -> Path:
    """The checkpoint with the lowest dev EER, or the newest when none was measured.

    Raises ``UserError`` when no checkpoint in the folder is whole.
    """
    ranked = []
    for path in sorted(Path(save_folder).glob("CKPT*")):
        meta = _meta(path)
        if not meta or not (path / "embedding_model.ckpt").is_file():
            continue
        error = meta["EER"] if is_finite(meta.get("EER")) else math.inf
        age = -meta["unixtime"] if is_finite(meta.get("unixtime")) else 0.0
        ranked.append((not (path / "COMPLETE").is_file(), error, age, path))
    if not ranked:
        raise UserError(
            f"no finished checkpoint in {save_folder}; let the run finish an epoch"
        )
    return min(ranked)[-1]


@dataclass
class TrainedParts:
    """What a results folder holds of a model."""

    settings: str  # the training YAML's text
    values: dict[str, Any]  # its plain top-level values that matter here
    modules: dict[str, nn.Module]  # the encoder's parts with the best weights
    head: nn.Module | None  # with its weights, when the YAML names one of ours
    checkpoint: Path  # where the weights came from


def _head(text: str, path: Path) -> nn.Module | None:
    try:
        call = read_hparams(text, ["head"]).get("head")
    except Refused:
        return None  # a head of the user's own
    if not isinstance(call, Call) or call.name != HEAD or not path.is_file():
        return None
    if not isinstance(call.kwargs.get("out_neurons"), int):
        raise UserError(
            f"{path.parents[2] / 'hyperparams.yaml'} does not say how many classes the "
            "head has (out_neurons); train again with this version"
        )
    head = build({"head": call})["head"]
    load_into(head, path, "head")
    return head


def read_epoch(results_dir: str | Path, epoch: float) -> TrainedParts | None:
    """`read_results` with the weights after an epoch; None if they are gone."""
    for path in sorted((Path(results_dir) / "save").glob("CKPT*")):
        meta = _meta(path)
        whole = meta.get("end-of-epoch") and (path / "COMPLETE").is_file()
        if whole and meta.get("epoch") == epoch and "mean_of" not in meta:
            return read_results(results_dir, path)
    return None


def read_results(
    results_dir: str | Path, checkpoint: Path | None = None
) -> TrainedParts:
    """The model in a results folder, built by the safe reader.

    ``checkpoint`` is one of its checkpoints; default: the best. Raises ``UserError``
    when it is not such a folder, or its weights are damaged.
    """
    folder = Path(results_dir)
    described = folder / "hyperparams.yaml"
    if not described.is_file():
        raise UserError(
            f"no results folder {results_dir} of a training (a hyperparams.yaml must "
            "be in it)"
        )
    text = read_text(described)
    built = build(read_hparams(text, (*ENCODER_MODULES, "sample_rate")))
    modules: dict[str, Any] = {name: built.get(name) for name in ENCODER_MODULES}
    absent = [name for name in modules if not isinstance(modules[name], nn.Module)]
    if absent:
        raise UserError(f"{described} does not describe {', '.join(absent)}")
    checkpoint = checkpoint or best_checkpoint(folder / "save")
    load_encoder_weights(checkpoint, modules)
    values = {"sample_rate": built.get("sample_rate", 16000)}
    for name in (*ABOUT, *START):
        with suppress(UserError):
            value = read_hparams(text, [name]).get(name)
            if isinstance(value, (str, int, float, list)):
                values[name] = value
    head = _head(text, checkpoint / "head.ckpt")
    return TrainedParts(text, values, modules, head, checkpoint)


@dataclass(frozen=True)
class Pretrained:
    """A model that is there: its encoder in evaluation mode, and what describes it.

    ``blocks`` are those of `encoder_blocks`, ``size`` is D, ``warnings`` what its
    verdicts say first.
    """

    source: str
    blocks: dict[str, Call]
    encoder: SpeakerEncoder
    similarity: Similarity
    size: int
    warnings: list[str]


def read_model(source: str | Path) -> Pretrained:
    """A model folder, a hub name, or the results folder of a run (its best epoch).

    Raises ``UserError`` when it is none of these, when it is damaged, or when its
    encoder is made of other classes than a model folder can describe.
    """
    folder = find_folder(source)
    if any((folder / "save").glob("CKPT*")):
        parts = read_results(folder)
        text, modules, rate = parts.settings, parts.modules, parts.values["sample_rate"]
        similarity = similarity_of(parts.head) if parts.head else CosineSimilarity()
        warnings = _warnings(parts, _labels(folder / "label_encoder.txt"))
    else:
        model = SpeakerVerifier.from_hparams(folder, device="cpu")
        text = read_text(folder_file(folder, "hyperparams.yaml"))
        modules, rate = dict(model.mods.items()), model.sample_rate
        similarity, warnings = model.similarity, model.warnings
    encoder = SpeakerEncoder.from_modules(modules, rate).eval()
    with torch.no_grad():
        size = encoder(torch.randn(1, rate)).shape[1]
    name = str(source)
    return Pretrained(name, encoder_blocks(text), encoder, similarity, size, warnings)


def load_encoder_weights(
    source: str | Path, modules: Mapping[str, nn.Module]
) -> dict[str, str]:
    """Fill a training's encoder with the weights of a pretrained one; what was loaded,
    and from which files.

    Only weights are read: the source's YAML is not, so nothing of it can run. The
    training's YAML must describe the same encoder: class, sizes, features.

    Arguments
    ---------
    source : str or Path
        A model folder (ours, or any of SpeechBrain's with ``embedding_model.ckpt``),
        the results folder of a training (its best checkpoint is taken), or a hub
        name such as ``speechbrain/spkrec-ecapa-voxceleb``.
    modules : mapping of str to torch.nn.Module
        The training's ``embedding_model``, and ``mean_var_norm`` when it should get
        the source's statistics (only a ``global`` one has any).

    Raises
    ------
    UserError
        When there is no such source, it has no encoder, the encoder is another one,
        or its weights are damaged or hold code.

    Example
    -------
    >>> import torch
    >>> folder = getfixture("tmp_path")
    >>> torch.save(nn.Linear(2, 2).state_dict(), folder / "embedding_model.ckpt")
    >>> list(load_encoder_weights(folder, {"embedding_model": nn.Linear(2, 2)}))
    ['embedding_model']
    >>> load_encoder_weights(folder, {"embedding_model": nn.Linear(2, 3)})
    Traceback (most recent call last):
    ...
    sb_margins.errors.UserError: embedding_model: 'weight' is [2, 2] in the weights ...
    """
    folder = find_folder(source)
    if (folder / "save").is_dir() and not (folder / "embedding_model.ckpt").is_file():
        folder = best_checkpoint(folder / "save")
    if "embedding_model" not in modules:
        raise UserError("the training has no 'embedding_model' to start from another's")
    loaded: dict[str, str] = {}
    for name, choices in FILES.items():
        target: Any = modules.get(name)
        if target is None or (
            name == "mean_var_norm" and getattr(target, "norm_type", "") != "global"
        ):
            continue
        there = [file for file in choices if os.path.lexists(folder / file)]
        if there:
            path = folder_file(folder, there[0])
            load_into(target, path, name)
            loaded[name] = str(path)
        elif name == "embedding_model":
            raise UserError(f"{source} has no {choices[0]} to start from")
    return loaded


def dev_scores(
    parts: TrainedParts, results_dir: Path, similarity: nn.Module, device: str
) -> tuple[np.ndarray, Any, str] | None:
    """Scores [N] and labels [N] of the development trials, and words for the data; None
    without dev trials or when the audio is not where it was."""
    from sb_margins.data import Prepared
    from sb_margins.data.trials import read_trials
    from sb_margins.verification.embed import embed_files
    from sb_margins.verification.scoring import score_trials

    if not (results_dir / "data" / "prepare.json").is_file():
        return None
    prepared = Prepared.load(results_dir / "data")
    there = "dev" in prepared.splits and prepared.has_trials("dev")
    if not there or not prepared.data_root.is_dir():
        return None
    trials = read_trials(prepared.trials("dev"))
    encoder = SpeakerEncoder.from_modules(parts.modules, parts.values["sample_rate"])
    manifest = prepared.manifest("dev")
    embeddings = embed_files(encoder.eval().to(device), manifest, device=device)
    scores = score_trials(embeddings, trials, similarity)
    demo = prepared.info.get("corpus") == "demo"
    data = "synthetic demo voices" if demo else prepared.data_root.name
    return scores, trials.labels, f"dev trials of {data}"


def _about(parts: TrainedParts) -> dict[str, Any]:
    facts = {name: parts.values[name] for name in ABOUT if name in parts.values}
    if facts.get("corpus") == "demo":
        facts["corpus"] = "demo: synthetic voices; its figures say nothing about people"
    network = parts.modules["embedding_model"]
    size = sum(p.numel() for p in network.parameters()) / 1e6
    facts["encoder"] = f"{type(network).__name__}, {size:.2f} million parameters"
    if start := parts.values.get("init_from"):  # no absolute path into a model folder
        facts["started from"] = Path(start).name if Path(start).is_absolute() else start
    meta = _meta(parts.checkpoint)
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
    """Make a model folder of a finished training; where it is.

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
    similarity = similarity_of(parts.head) if parts.head else CosineSimilarity()
    if dev is None:
        dev = dev_scores(parts, folder, similarity, device)
    about = _about(parts)
    thresholds, calibration = {}, None
    if dev is not None:
        thresholds = calibrate_thresholds(*dev)
        try:
            calibration = calibrate_llr(*dev)
        except UserError as error:
            about["calibration"] = f"none; {error}"
    measured = folder / "metrics.json"
    if metrics is None and measured.is_file():
        metrics = _measured(measured)
    loss = about.get("loss", "")
    labels = _labels(folder / "label_encoder.txt")
    return export_model(
        parts.modules,
        out_dir,
        settings=parts.settings,
        sample_rate=parts.values["sample_rate"],
        similarity=similarity,
        classifier=getattr(parts.head, "classifier", None),
        labels=labels,
        metrics=metrics,
        thresholds=thresholds,
        calibration=calibration,
        about=about,
        warnings=_warnings(parts, labels),
        title=f"Speaker verification with {loss}" if loss else "Speaker verification",
    )


def _warnings(parts: TrainedParts, labels: list[str]) -> list[str]:
    """What verdicts say first: of an adapted model, what those of its start said.

    It has few speakers of its own, and all that it knows of others.
    """
    told = parts.values.get("warnings")
    corpus = str(parts.values.get("corpus", ""))
    own = reservations(corpus, len(labels) if told is None else 0)
    return list(dict.fromkeys([*(told or []), *own]))


def _measured(path: Path) -> Mapping[str, Any]:
    """The figures of ``metrics.json``: by trial list."""
    try:
        content = json.loads(files.read_text(path))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); delete or restore it") from error
    lists = content.get("lists", content) if isinstance(content, dict) else None
    if not isinstance(lists, dict):
        raise UserError(f"{path} holds no figures; delete or restore it")
    return lists


def _labels(path: Path) -> list[str]:
    if not path.is_file():
        return []
    from speechbrain.dataio.encoder import CategoricalEncoder

    encoder = CategoricalEncoder()
    load_into(encoder, path, "label_encoder")
    return [str(encoder.ind2lab[i]) for i in sorted(encoder.ind2lab)]
