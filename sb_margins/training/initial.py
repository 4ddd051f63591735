"""Starting from weights that exist: a pretrained encoder, or a previous run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from speechbrain.dataio.encoder import CategoricalEncoder
from torch import Tensor

from sb_margins.inference.results import best_checkpoint, load_encoder_weights


def start_from(
    source: str, hparams: Mapping[str, Any], classes: Mapping[str, int]
) -> str:
    """Fill the encoder, and where speakers are the same the head, before training.

    Arguments
    ---------
    source : str
        A model folder, a hub name, or the results folder of a previous training.
        From the latter the class weights of speakers that both have are taken too;
        those of speed-changed voices are left behind.
    hparams : mapping
        The built YAML: ``modules`` and ``head``.
    classes : mapping of str to int
        The class number of each speaker in the training to come.

    Returns
    -------
    str
        What was taken, in words.

    Raises
    ------
    UserError
        When the source is not there, is damaged, or holds another encoder.
    """
    load_encoder_weights(source, hparams["modules"])
    told = f"starting from the encoder of {source}"
    folder = Path(source)
    names = folder / "label_encoder.txt"
    if not names.is_file() or not (folder / "save").is_dir():
        return told
    before = CategoricalEncoder()
    before.load(names)
    path = best_checkpoint(folder / "save") / "head.ckpt"
    weights = torch.load(path, map_location="cpu", weights_only=True)
    taken = copy_classes(hparams["head"], weights, before.lab2ind, classes)
    return told + (f" and {taken} of its classes" if taken else "")


@torch.no_grad()
def copy_classes(
    head: torch.nn.Module,
    weights: Mapping[str, Tensor],
    before: Mapping[str, int],
    now: Mapping[str, int],
) -> int:
    """Copy the class weights of speakers that two trainings share.

    Arguments
    ---------
    head : torch.nn.Module
        The head to fill.
    weights : mapping of str to torch.Tensor
        The other head's state dict. Tensors whose first dimension counts classes are
        copied by speaker, others of equal shape whole; when anything differs in shape
        beyond the number of classes, nothing is copied.
    before, now : mapping of str to int
        Class numbers of the speakers in the two.

    Returns
    -------
    int
        How many speakers were copied.

    Example
    -------
    >>> head = torch.nn.Linear(2, 3, bias=False)
    >>> other = {"weight": torch.tensor([[1.0, 1.0], [2.0, 2.0]])}
    >>> copy_classes(head, other, {"a": 0, "b": 1}, {"b": 0, "c": 1, "d": 2})
    1
    >>> head.weight[0].tolist()
    [2.0, 2.0]
    """
    own = head.state_dict()
    if set(own) != set(weights):
        return 0
    if any(own[k].shape[1:] != weights[k].shape[1:] for k in own):
        return 0
    shared = [name for name in now if name in before]
    to = torch.tensor([now[name] for name in shared], dtype=torch.long)
    source = torch.tensor([before[name] for name in shared], dtype=torch.long)
    for key, tensor in own.items():
        other = weights[key].to(tensor)
        if tensor.dim() and len(tensor) >= len(now):
            tensor[to.to(tensor.device)] = other[source.to(tensor.device)]
        else:
            tensor.copy_(other)
    return len(shared)
