"""Write a model folder: one that plain SpeechBrain loads, that can be moved, and that
tells what it measured."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sb_margins import __version__
from sb_margins.errors import UserError
from sb_margins.inference.blocks import encoder_blocks, scalar_yaml
from sb_margins.inference.card import card
from sb_margins.inference.thresholds import Threshold

HEADER = """\
# A speaker-verification model, exported by sb_margins {version}.
# README.md beside this file tells what it measured and how to use it.

sample_rate: {sample_rate}

"""


def plain_weights(module: nn.Module, name: str) -> dict[str, Tensor]:
    """A module's weights as plain CPU tensors, ready for ``weights_only`` loading.

    Arguments
    ---------
    module : torch.nn.Module
        Also one wrapped for distributed training.
    name : str
        How messages call it.

    Returns
    -------
    dict of str to torch.Tensor
        Contiguous copies.

    Raises
    ------
    UserError
        When a value is not finite: such a model must not be handed on.

    Example
    -------
    >>> sorted(plain_weights(nn.Linear(2, 3), "layer"))
    ['bias', 'weight']
    """
    inner = getattr(module, "module", module)
    weights = {}
    for key, value in inner.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise UserError(
                f"{name}: the weights '{key}' are not finite; the training diverged, "
                "so export an earlier checkpoint"
            )
        weights[key] = value.detach().cpu().clone().contiguous()
    return weights


def _similarity_block(similarity: nn.Module | None) -> tuple[str, str, bool]:
    """YAML block, words, and whether plain SpeechBrain scores the same way."""
    curvature = getattr(similarity, "curvature", None)
    if curvature is None:
        block = "similarity: !new:torch.nn.CosineSimilarity\n  dim: -1\n  eps: 1.0e-6\n"
        return block, "cosine similarity of the embeddings", True
    curvature = float(curvature)
    metric = getattr(similarity, "metric", "unit")
    clip_norm = getattr(similarity, "clip_norm", None)
    block = (
        "similarity: !new:sb_margins.similarity.PoincareSimilarity\n"
        f"  curvature: {curvature!r}\n  metric: {metric}\n"
    )
    if clip_norm is not None:
        block += f"  clip_norm: {float(clip_norm)!r}\n"
    words = f"negative Poincaré distance (curvature {curvature:g}, metric {metric})"
    return block, words, False


def _classifier_block(
    classifier: Any, labels: list[str]
) -> tuple[str, dict[str, Tensor]]:
    """The training speakers' classifier, where one that loads here equals it."""
    if classifier is None or not labels:
        return "", {}
    weights = plain_weights(classifier, "classifier")
    weight = weights.get("weight")
    if list(weights) != ["weight"] or weight is None or len(weight) != len(labels):
        return "", {}  # sub-centres, biases, speed-changed extra classes
    sizes = f"  input_size: {weight.shape[1]}\n  out_neurons: {weight.shape[0]}\n"
    geometry = getattr(classifier, "geometry", "")
    if geometry == "cosine":
        name = "speechbrain.lobes.models.ECAPA_TDNN.Classifier"
        return f"classifier: !new:{name}\n{sizes}", weights
    if geometry == "poincare" and classifier.clip_norm is None:
        sizes += f"  curvature: {float(classifier.curvature)!r}\n"
        sizes += f"  metric: {classifier.metric}\n"
        name = "sb_margins.classifiers.PoincareClassifier"
        return f"classifier: !new:{name}\n{sizes}", weights
    return "", {}


def _mapping_block(name: str, keys: Iterable[str], indent: str = "  ") -> str:
    lines = [f"{indent}{key}: !ref <{key}>\n" for key in keys]
    return f"{indent[2:]}{name}:\n" + "".join(lines)


def _replace_folder(made: Path, target: Path) -> None:
    """Put the new folder in the old one's place, in one step."""
    old = target.with_name(f".{target.name}.old-{os.getpid()}")
    if target.exists():
        target.rename(old)
    made.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _check_target(target: Path) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise UserError(f"{target} is a file; give the name of a folder to write")
    marker = target / "hyperparams.yaml"
    exported = marker.is_file() and "exported by sb_margins" in marker.read_text(
        encoding="utf-8", errors="replace"
    )
    if any(target.iterdir()) and not exported:
        raise UserError(
            f"{target} holds other files; give a new folder for the exported model"
        )


def export_model(
    modules: Mapping[str, nn.Module],
    out_dir: str | Path,
    *,
    settings: str,
    sample_rate: int = 16000,
    similarity: nn.Module | None = None,
    classifier: nn.Module | None = None,
    labels: Iterable[str] = (),
    metrics: Mapping[str, Any] | None = None,
    thresholds: Mapping[str, Threshold] | None = None,
    calibration: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
    title: str = "Speaker verification model",
) -> Path:
    """Write a trained encoder as a model folder.

    The folder holds ``hyperparams.yaml`` (stock classes only for a cosine-scored
    model), weights as state dicts that load with ``weights_only=True``, the label
    encoder and a model card. It has no absolute path in it. An earlier export in
    its place is replaced in one step; any other content is left alone.

    Arguments
    ---------
    modules : mapping of str to torch.nn.Module
        ``embedding_model``, and ``mean_var_norm`` when it has statistics; others
        are ignored.
    out_dir : str or Path
        The folder to write.
    settings : str
        The training YAML's text; its blocks ``compute_features``, ``mean_var_norm``
        and ``embedding_model`` are copied with their references resolved.
    sample_rate : int
        Of the audio that the model wants, in Hz.
    similarity : torch.nn.Module, optional
        `sb_margins.similarity.PoincareSimilarity` or a cosine similarity; default:
        cosine.
    classifier : torch.nn.Module, optional
        The training head's classifier; kept when the folder can describe it.
    labels : iterable of str
        The training speakers, in the order of the classifier's rows.
    metrics : mapping, optional
        Trial list to measured results, for the model card.
    thresholds : mapping of str to Threshold, optional
        From `sb_margins.inference.calibrate_thresholds`.
    calibration : mapping, optional
        ``scale``, ``offset`` (log-likelihood ratio = scale * score + offset) and
        ``data``.
    about : mapping, optional
        Facts for the model card.
    title : str
        Heading of the model card.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    UserError
        When the encoder is not made of stock classes, weights are not finite, or
        the folder holds something else.

    Example
    -------
    >>> from speechbrain.lobes.features import Fbank
    >>> from speechbrain.lobes.models.Xvector import Xvector
    >>> settings = '''
    ... compute_features: !new:speechbrain.lobes.features.Fbank
    ...     n_mels: 24
    ... mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    ...     norm_type: sentence
    ... embedding_model: !new:speechbrain.lobes.models.Xvector.Xvector
    ...     in_channels: 24
    ...     tdnn_blocks: 1
    ...     tdnn_channels: [8]
    ...     tdnn_kernel_sizes: [3]
    ...     tdnn_dilations: [1]
    ...     lin_neurons: 4
    ... '''
    >>> network = Xvector(
    ...     in_channels=24,
    ...     tdnn_blocks=1,
    ...     tdnn_channels=[8],
    ...     tdnn_kernel_sizes=[3],
    ...     tdnn_dilations=[1],
    ...     lin_neurons=4,
    ... )
    >>> folder = export_model(
    ...     {"embedding_model": network},
    ...     getfixture("tmp_path") / "model",
    ...     settings=settings,
    ... )
    >>> sorted(path.name for path in folder.iterdir())
    ['README.md', 'embedding_model.ckpt', 'hyperparams.yaml']
    """
    target = Path(out_dir).absolute()
    _check_target(target)
    if "embedding_model" not in modules:
        raise UserError("modules must hold 'embedding_model'")
    names = list(labels)
    thresholds = dict(thresholds or {})
    blocks = encoder_blocks(settings)
    similarity_text, words, plain = _similarity_block(similarity)
    classifier_text, classifier_weights = _classifier_block(classifier, names)

    files: dict[str, Mapping[str, Any]] = {
        "embedding_model": plain_weights(modules["embedding_model"], "embedding_model")
    }
    norm: Any = modules.get("mean_var_norm")
    if getattr(norm, "norm_type", None) == "global":
        files["mean_var_norm"] = norm._statistics_dict()  # what its own loader reads
    if classifier_weights:
        files["classifier"] = classifier_weights
    loadables = list(files) + (["label_encoder"] if names else [])
    parts = ["compute_features", "mean_var_norm", "embedding_model"]
    parts += ["classifier"] if classifier_weights else []

    text = HEADER.format(version=__version__, sample_rate=int(sample_rate))
    text += blocks + "\n" + classifier_text
    if names:
        text += "label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder\n"
    text += "\n" + _mapping_block("modules", parts)
    text += "\npretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer\n"
    text += _mapping_block("loadables", loadables, indent="    ")
    text += f"\n# How two embeddings are compared: {words}.\n{similarity_text}"
    if thresholds:
        values = {name: point.as_dict() for name, point in thresholds.items()}
        text += "\n# Scores above a threshold are taken for the same speaker.\n"
        text += scalar_yaml({"thresholds": values})
    if calibration:
        text += "\n# log-likelihood ratio = scale * score + offset\n"
        text += scalar_yaml({"calibration": dict(calibration)})

    made = target.with_name(f".{target.name}.new-{os.getpid()}")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    try:
        (made / "hyperparams.yaml").write_text(text, encoding="utf-8")
        for name, weights in files.items():
            torch.save(dict(weights), made / f"{name}.ckpt")
        if names:
            _save_labels(names, made / "label_encoder.ckpt")
        page = card(
            title,
            about=dict(about or {}),
            metrics=dict(metrics or {}),
            thresholds=thresholds,
            similarity=words,
            plain=plain,
        )
        (made / "README.md").write_text(page, encoding="utf-8")
        _replace_folder(made, target)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return target


def _save_labels(names: list[str], path: Path) -> None:
    from speechbrain.dataio.encoder import CategoricalEncoder

    encoder = CategoricalEncoder()
    for name in names:
        encoder.add_label(name)
    encoder.save(path)
