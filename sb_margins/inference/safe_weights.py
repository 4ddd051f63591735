"""Weights of a model folder, read without running what is inside them."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sb_margins.errors import UserError

MAX_LABELS = 50 * 1024 * 1024  # bytes of a label file
MAX_LABEL = 2000  # of one line: Python's parser may crash on longer ones


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a torch file, tensors and plain values only.

    Arguments
    ---------
    path : Path
        Written by ``torch.save``.

    Returns
    -------
    dict
        Names to tensors and plain values, on the CPU.

    Raises
    ------
    UserError
        When it is damaged, compressed, of another kind, or holds code.

    Example
    -------
    >>> path = getfixture("tmp_path") / "w.ckpt"
    >>> torch.save({"weight": torch.ones(2)}, path)
    >>> read_checkpoint(path)
    {'weight': tensor([1., 1.])}
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise UserError(
            f"{path.name} is truncated or not a weights file of PyTorch ({error}); "
            "get it again"
        ) from error
    packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if packed or sum(e.file_size for e in entries) > path.stat().st_size:
        raise UserError(f"refused: {path.name} is compressed; PyTorch's files are not")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged files
        first = str(error).strip().splitlines()[0][:200] if str(error).strip() else ""
        raise UserError(
            f"refused: {path.name} is damaged or holds more than weights ({first})"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(k, str) for k in content):
        raise UserError(f"{path.name} does not hold named weights")
    return content


def _check_shapes(module: nn.Module, weights: dict[str, Any], name: str) -> None:
    own = module.state_dict()
    missing, extra = sorted(set(own) - set(weights)), sorted(set(weights) - set(own))
    if missing or extra:
        told = [f"lacks {', '.join(missing[:3])}"] if missing else []
        told += [f"has unknown {', '.join(extra[:3])}"] if extra else []
        raise UserError(
            f"{name}: the weights file {' and '.join(told)}; "
            "it belongs to another model"
        )
    for key, value in weights.items():
        if not isinstance(value, Tensor):
            raise UserError(f"{name}: '{key}' in the weights file is not a tensor")
        if value.shape != own[key].shape:
            raise UserError(
                f"{name}: '{key}' is {list(value.shape)} in the weights file but "
                f"{list(own[key].shape)} in the YAML; they belong to different models"
            )
        if value.is_complex() or value.layout != torch.strided:
            raise UserError(f"{name}: '{key}' is not an ordinary tensor")
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise UserError(f"{name}: '{key}' holds NaN or infinity; refused")


def _load_statistics(norm: Any, content: dict[str, Any], name: str) -> None:
    """The running statistics of SpeechBrain's InputNormalization."""
    mean, std, count = (content.get(k) for k in ("glob_mean", "glob_std", "count"))
    tensors = isinstance(mean, Tensor) and isinstance(std, Tensor)
    if not tensors or not isinstance(count, (int, float, Tensor)):
        raise UserError(f"{name}: the file does not hold a mean, a deviation, a count")
    assert isinstance(mean, Tensor) and isinstance(std, Tensor)
    if not (torch.isfinite(mean).all() and torch.isfinite(std).all()):
        raise UserError(f"{name}: the statistics hold NaN or infinity; refused")
    norm._load_statistics_dict({"count": count, "glob_mean": mean, "glob_std": std})


def _load_labels(encoder: Any, path: Path, name: str) -> None:
    if path.stat().st_size > MAX_LABELS:
        raise UserError(f"{name}: the label file is not credible: over 50 MB")
    with path.open("rb") as file:
        if any(len(line) > MAX_LABEL for line in file):
            raise UserError(f"{name}: {path.name} has a label too long to be a name")
    try:
        encoder.load(path)  # Python literals, parsed and not run
    except Exception as error:
        raise UserError(f"{name}: {path.name} is not a label file: {error}") from error


def load_into(target: Any, path: Path, name: str) -> None:
    """Fill an object from its file; all or nothing.

    Arguments
    ---------
    target : torch.nn.Module or CategoricalEncoder
        Built by `sb_margins.inference.safe_hparams`.
    path : Path
        Its file.
    name : str
        How messages call it.

    Raises
    ------
    UserError
        When the file is not what the object needs: other names or shapes, NaN,
        damaged, or holding code.

    Example
    -------
    >>> path = getfixture("tmp_path") / "w.ckpt"
    >>> torch.save(nn.Linear(2, 2).state_dict(), path)
    >>> load_into(nn.Linear(2, 3), path, "net")
    Traceback (most recent call last):
    ...
    sb_margins.errors.UserError: net: 'weight' is [2, 2] in the weights file but ...
    """
    from speechbrain.dataio.encoder import CategoricalEncoder
    from speechbrain.processing.features import InputNormalization
    from speechbrain.utils.checkpoints import hook_on_loading_state_dict_checkpoint

    try:
        if isinstance(target, CategoricalEncoder):
            _load_labels(target, path, name)
        elif isinstance(target, InputNormalization):
            _load_statistics(target, read_checkpoint(path), name)
        elif isinstance(target, nn.Module):
            weights = hook_on_loading_state_dict_checkpoint(read_checkpoint(path))
            _check_shapes(target, weights, name)
            target.load_state_dict(weights)
        else:
            kind = type(target).__name__
            raise UserError(f"{name}: cannot load weights into a {kind}")
    except UserError:
        raise
    except Exception as error:  # odd kinds of tensors fail in odd ways
        raise UserError(f"{name}: {path.name} holds odd tensors: {error}") from error
