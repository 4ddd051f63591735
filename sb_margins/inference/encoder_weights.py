"""Start a training from the encoder of a finished one, safely."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from sb_margins.errors import UserError
from sb_margins.inference.model_folder import ModelFolder, find_folder
from sb_margins.inference.results import best_checkpoint
from sb_margins.inference.safe_weights import load_into

# How a model folder and a checkpoint call the same things.
FILES = {
    "embedding_model": ("embedding_model.ckpt",),
    "mean_var_norm": ("mean_var_norm.ckpt", "normalizer.ckpt"),
}


def _file(folder: ModelFolder, names: tuple[str, ...]) -> Path | None:
    for name in names:
        if (folder.path / name).exists() or (folder.path / name).is_symlink():
            return folder.file(name)
    return None


def load_encoder_weights(
    source: str | Path, modules: Mapping[str, nn.Module]
) -> dict[str, str]:
    """Fill a training's encoder with the weights of a pretrained one.

    Only weights are read: the source's YAML is not, so nothing of it can run. The
    encoder must have been described alike in the training's YAML (same class, same
    sizes, same features); sizes that differ are told.

    Arguments
    ---------
    source : str or Path
        A model folder (ours, or any of SpeechBrain's with ``embedding_model.ckpt``),
        the results folder of a training (its best checkpoint is taken), or a hub
        name such as ``speechbrain/spkrec-ecapa-voxceleb``.
    modules : mapping of str to torch.nn.Module
        The training's ``embedding_model``, and ``mean_var_norm`` when it should get
        the source's statistics (only a ``global`` one has any).

    Returns
    -------
    dict of str to str
        What was loaded, and the file it came from.

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
    if (folder.path / "save").is_dir() and not (
        folder.path / "embedding_model.ckpt"
    ).is_file():
        checkpoint = best_checkpoint(folder.path / "save")
        folder = ModelFolder(checkpoint, checkpoint)
    if "embedding_model" not in modules:
        raise UserError("the training has no 'embedding_model' to start from another's")
    loaded: dict[str, str] = {}
    for name, files in FILES.items():
        target: Any = modules.get(name)
        if target is None or (
            name == "mean_var_norm" and getattr(target, "norm_type", "") != "global"
        ):
            continue
        path = _file(folder, files)
        if path is None:
            if name == "embedding_model":
                raise UserError(f"{source} has no {files[0]} to start from")
            continue
        load_into(target, path, name)
        loaded[name] = str(path)
    return loaded
