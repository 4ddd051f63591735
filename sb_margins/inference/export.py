"""Write a model folder: one that plain SpeechBrain loads, that can be moved, and that
tells what it measured."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2
import torch
from torch import Tensor, nn

from sb_margins import __version__
from sb_margins.encoder import ENCODER_MODULES
from sb_margins.errors import UserError
from sb_margins.files import write_folder
from sb_margins.inference.safe_weights import all_finite
from sb_margins.inference.safe_yaml import Call, Refused, read_hparams, to_yaml
from sb_margins.inference.thresholds import MEANING, Threshold
from sb_margins.similarity import similarity_from

HEADER = """\
# A speaker-verification model, exported by sb_margins {version}.
# README.md beside this file tells what it measured and how to use it.
"""
STOCK = ("speechbrain.", "torch.nn.")  # what plain SpeechBrain can build
OURS = "sb_margins.resnet."  # what it can build where this package is installed


def _calls(value: Any) -> Iterator[Call]:
    if isinstance(value, Call):
        yield value
        value = [value.args, value.kwargs]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _calls(item)


def encoder_blocks(settings: str) -> dict[str, Call]:
    """The encoder's parts in a training YAML, references followed, nothing built."""
    not_stock = (
        "{} is not a class of SpeechBrain or torch.nn, so plain SpeechBrain could not "
        "load the exported model; describe the encoder with !new: blocks of these"
    )
    try:
        values = read_hparams(settings, ENCODER_MODULES)
    except Refused as error:
        raise UserError(not_stock.format(error.what)) from error
    blocks = {}
    for name in ENCODER_MODULES:
        block = values.get(name)
        if not isinstance(block, Call) or block.kind != "new":
            raise UserError(
                f"the training YAML has no block '{name}: !new:...'; "
                "it is needed to describe the encoder"
            )
        for call in _calls(block):
            if not call.name.startswith((*STOCK, OURS)):
                raise UserError(not_stock.format(call.name))
        blocks[name] = block
    return blocks


def plain_weights(module: nn.Module, name: str) -> dict[str, Tensor]:
    """A module's weights as contiguous CPU tensors; refused when not finite."""
    inner = getattr(module, "module", module)  # also one of distributed training
    weights = {}
    for key, value in inner.state_dict().items():
        if not all_finite(value):
            raise UserError(
                f"{name}: the weights '{key}' are not finite; the training diverged, "
                "so export an earlier checkpoint"
            )
        weights[key] = value.detach().cpu().clone().contiguous()
    return weights


def _similarity(similarity: nn.Module | None) -> tuple[Call, str, bool]:
    """The block, words, and whether plain SpeechBrain scores the same way."""
    settings = similarity_from(similarity).settings()
    if settings.pop("name") != "poincare":
        call = Call("new", "torch.nn.CosineSimilarity", [], {"dim": -1, "eps": 1e-6})
        return call, "cosine similarity of the embeddings", True
    kwargs = {key: value for key, value in settings.items() if value is not None}
    words = "curvature {curvature:g}, metric {metric}".format_map(kwargs)
    name = "sb_margins.similarity.PoincareSimilarity"
    return Call("new", name, [], kwargs), f"negative Poincaré distance ({words})", False


def _classifier(
    classifier: Any, labels: list[str]
) -> tuple[Call, dict[str, Tensor]] | None:
    """The training speakers' classifier, where one that loads here equals it."""
    if classifier is None or not labels:
        return None
    weights = plain_weights(classifier, "classifier")
    weight = weights.get("weight")
    if list(weights) != ["weight"] or weight is None or len(weight) != len(labels):
        return None  # sub-centres, biases, speed-changed extra classes
    classes, size = weight.shape
    kwargs: dict[str, Any] = {"input_size": size, "out_neurons": classes}
    geometry = getattr(classifier, "geometry", "")
    if geometry == "cosine":
        name = "speechbrain.lobes.models.ECAPA_TDNN.Classifier"
    elif geometry == "poincare" and classifier.clip_norm is None:
        name = "sb_margins.classifiers.PoincareClassifier"
        kwargs["curvature"] = float(classifier.curvature)
        kwargs["metric"] = classifier.metric
    else:
        return None
    return Call("new", name, [], kwargs), weights


def _references(key: str, names: Iterable[str], indent: str = "") -> str:
    lines = [f"{indent}  {name}: !ref <{name}>\n" for name in names]
    return f"{indent}{key}:\n" + "".join(lines)


def _flat(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested metrics as one row: names joined by blanks, lists left out."""
    row: dict[str, Any] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            row.update(_flat(value, f"{prefix}{name} "))
        elif isinstance(value, (int, float, str)):
            row[f"{prefix}{name}"] = value
    return row


def model_card(metrics: Mapping[str, Any], **facts: Any) -> str:
    """The text of a model folder's README.md.

    ``metrics`` maps trial lists to (nested) figures, or is those of a single list;
    ``facts`` are the template's other names.
    """
    nested = all(isinstance(value, Mapping) for value in metrics.values())
    rows = {k: _flat(v) for k, v in metrics.items()} if nested else {"": _flat(metrics)}
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("sb_margins.inference"),
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    templates.filters["number"] = lambda v: f"{v:.4g}" if isinstance(v, float) else v
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    return templates.get_template("model_card.md.j2").render(
        rows=rows, columns=columns, meaning=MEANING, **facts
    )


def _check_target(target: Path) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise UserError(f"{target} is a file; give the name of a folder to write")
    marker = target / "hyperparams.yaml"
    exported = marker.is_file() and b"exported by sb_margins" in marker.read_bytes()
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
    warnings: Sequence[str] = (),
    title: str = "Speaker verification model",
) -> Path:
    """Write a trained encoder as a model folder; where it is.

    The folder holds ``hyperparams.yaml`` (stock classes only for a cosine-scored
    model, unless the encoder is `sb_margins.resnet.ResNetTSP`), weights as state dicts
    that load with ``weights_only=True``, the label encoder and a model card. It
    has no absolute path in it. An earlier export in its place is replaced in one step;
    any other content is left alone.

    Arguments
    ---------
    modules : mapping of str to torch.nn.Module
        ``embedding_model``, and ``mean_var_norm`` when it has statistics.
    out_dir : str or Path
        The folder to write.
    settings : str
        The training YAML's text; its blocks ``compute_features``, ``mean_var_norm``
        and ``embedding_model`` are copied with their references resolved.
    sample_rate : int
        Of the audio that the model wants, in Hz.
    similarity : torch.nn.Module, optional
        `sb_margins.similarity.PoincareSimilarity` or a cosine one (default).
    classifier : torch.nn.Module, optional
        The training head's classifier; kept when the folder can describe it.
    labels : iterable of str
        The training speakers, in the order of the classifier's rows.
    metrics : mapping, optional
        Trial list to measured results, for the model card.
    thresholds : mapping of str to Threshold, optional
        From `sb_margins.inference.calibrate_thresholds`.
    calibration : mapping, optional
        From `sb_margins.inference.calibrate_llr`.
    about : mapping, optional
        Facts for the model card.
    warnings : sequence of str, optional
        What every verdict of the model says first, e.g. that its voices are synthetic.
    title : str
        Heading of the model card.

    Raises
    ------
    UserError
        When the encoder is made of other classes than these, weights are not finite,
        or the folder holds something else.

    Example
    -------
    >>> from sb_margins.inference import SpeakerVerifier
    >>> settings = open("train.yaml").read()  # doctest: +SKIP
    >>> export_model(modules, "model", settings=settings)  # doctest: +SKIP
    >>> SpeakerVerifier.from_hparams("model")  # doctest: +SKIP
    """
    target = Path(out_dir).absolute()
    _check_target(target)
    if "embedding_model" not in modules:
        raise UserError("modules must hold 'embedding_model'")
    names = list(labels)
    blocks = encoder_blocks(settings)
    similarity_block, words, stock = _similarity(similarity)
    weights: dict[str, Mapping[str, Any]] = {
        "embedding_model": plain_weights(modules["embedding_model"], "embedding_model")
    }
    norm: Any = modules.get("mean_var_norm")
    if getattr(norm, "norm_type", None) == "global":
        weights["mean_var_norm"] = norm._statistics_dict()  # as its own loader reads
    speakers = _classifier(classifier, names)
    if speakers is not None:
        blocks["classifier"], weights["classifier"] = speakers
    parts = list(blocks)
    loadables = list(weights)
    if names:
        name = "speechbrain.dataio.encoder.CategoricalEncoder"
        blocks["label_encoder"] = Call("new", name)
        loadables.append("label_encoder")
    text = HEADER.format(version=__version__)
    text += to_yaml({"sample_rate": int(sample_rate), **blocks})
    text += "\n" + _references("modules", parts)
    text += "\npretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer\n"
    text += _references("loadables", loadables, "  ")
    points = {name: asdict(point) for name, point in (thresholds or {}).items()}
    for name, value, comment in (
        ("similarity", similarity_block, f"How two embeddings are compared: {words}."),
        ("thresholds", points, "Scores above one are taken for the same speaker."),
        (
            "calibration",
            dict(calibration or {}),
            "log-likelihood ratio = scale * score + offset",
        ),
        ("warnings", list(warnings), "Said with every verdict."),
    ):
        if value:
            text += f"\n# {comment}\n" + to_yaml({name: value})
    card = model_card(
        metrics or {},
        title=title,
        about=about or {},
        warnings=warnings,
        thresholds=points,
        similarity=words,
        stock=stock,
        needs_us=any(call.name.startswith(OURS) for call in _calls(blocks)),
    )
    with write_folder(target) as folder:
        for name, content in weights.items():
            data = io.BytesIO()  # a full disk is then an OSError, not one of C++
            torch.save(dict(content), data)
            (folder / f"{name}.ckpt").write_bytes(data.getvalue())
        if names:
            _save_labels(names, folder / "label_encoder.ckpt")
        (folder / "README.md").write_text(card, encoding="utf-8")
        (folder / "hyperparams.yaml").write_text(text, encoding="utf-8")
    return target


def _save_labels(names: list[str], path: Path) -> None:
    from speechbrain.dataio.encoder import CategoricalEncoder

    encoder = CategoricalEncoder()
    for name in names:
        encoder.add_label(name)
    encoder.save(path)
