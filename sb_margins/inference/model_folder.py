"""Find a model, on disk or on the hub, and load it without running what it says."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sb_margins.encoder import SpeakerEncoder
from sb_margins.errors import UserError
from sb_margins.inference.safe_build import LoadPlan, build
from sb_margins.inference.safe_weights import load_into
from sb_margins.inference.safe_yaml import Refused, read_hparams, read_text

#: Top-level keys of a model's YAML that mean something here.
NAMES = (
    "modules",
    "pretrainer",
    "similarity",
    "thresholds",
    "calibration",
    "warnings",
    "sample_rate",
    "label_encoder",
)
#: OWNER/MODEL, with @REVISION (a branch, a tag or a commit) where one is wanted.
HUB_ID = re.compile(
    r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>\w[\w./-]*))?"
)


def find_folder(source: str | Path) -> Path:
    """The folder given, or a model of the Hugging Face hub, ``OWNER/MODEL@REVISION``.

    What was fetched once is taken from the hub's cache where there is no network.

    Example
    -------
    >>> find_folder("./nowhere")
    Traceback (most recent call last):
    ...
    sb_margins.errors.UserError: no such model folder: ./nowhere
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    match = HUB_ID.fullmatch(str(source))
    if not match or folder.parent.is_dir():
        raise UserError(f"no such model folder: {source}")
    from huggingface_hub import snapshot_download

    try:
        patterns = ["*.yaml", "*.ckpt", "*.txt"]
        name, revision = match["name"], match["revision"]
        kept = snapshot_download(name, revision=revision, allow_patterns=patterns)
        return Path(kept)
    except Exception as error:  # the hub's errors differ between its versions
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{source} is neither a folder here nor a model that the hub gives: "
            f"{first}. Correct the name; without network, download the model elsewhere "
            "and name its folder"
        ) from error


def _follow(path: Path) -> Path:
    """Where a link leads, when it is one that SpeechBrain or the hub's cache makes: to
    a file of the same name, or to a blob of the cache."""
    start = path
    for _ in range(8):
        if not path.is_symlink():
            return path
        target = path.parent / os.readlink(path)
        blob = target.parent.name == "blobs"
        if target.stem != start.stem and not blob:
            raise Refused(f"the link {start}, which leads to {target}")
        path = target
    raise Refused(f"the link {start}, which does not end")


def folder_file(folder: Path, name: str) -> Path:
    """A file of a model folder, by the name that its YAML gives it."""
    path = folder / name
    if not path.parent.resolve().is_relative_to(folder.resolve()):
        raise Refused(f"{name}, which leads out of the model folder")
    path = _follow(path)
    if not path.is_file():
        raise UserError(f"the model folder {folder} has no file {name}")
    return path


def _weights_file(folder: Path, plan: LoadPlan, name: str) -> Path:
    """Where a loadable's weights are: the file of its path, whose folder may be one of
    the hub, or the name under which SpeechBrain collects it."""
    usual = f"{name}.ckpt"
    written = plan.paths.get(name, usual)
    parts = Path(written).parts
    if Path(written).is_absolute() or not parts or re.search(r"\.\.|[:\\]", written):
        raise Refused(f"the path {written}, which leads out of the model folder")
    choices = (written, parts[-1], usual)
    there = [choice for choice in choices if (folder / choice).is_file()]
    return folder_file(folder, (there or choices)[0])


def _checked_modules(hparams: dict[str, Any], plan: LoadPlan) -> dict[str, nn.Module]:
    modules = hparams.get("modules")
    if not isinstance(modules, dict):
        raise UserError("the YAML has no 'modules' mapping")
    for name, module in modules.items():
        if not str(name).isidentifier() or hasattr(nn.ModuleDict, str(name)):
            raise UserError(f"'{name}' is not a valid name of a network module")
        if not isinstance(module, nn.Module):
            raise UserError(f"'{name}' under modules is not a network module")
    loaded = {id(target) for target in plan.loadables.values()}
    for name, module in modules.items():
        if any(True for _ in module.parameters()) and id(module) not in loaded:
            raise UserError(
                f"the YAML's pretrainer loads no weights for '{name}'; an untrained "
                "network would give meaningless scores"
            )
    return modules


def _try_out(encoder: SpeakerEncoder) -> None:
    """Half a second of noise through the encoder, so that mismatches show now."""
    samples = encoder.sample_rate // 2
    noise = torch.randn(1, samples, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            found = encoder.eval()(noise)
    except Exception as error:  # whatever the shapes lead to
        raise UserError(f"the model's parts do not fit together: {error}") from error
    finally:
        encoder.train()  # as new modules are
    if not torch.isfinite(found).all() or not found.any():
        raise UserError(
            "the model gives an embedding that is zero or not finite; its weights are "
            "damaged"
        )


def check_kind(folder: Path, hparams_file: str) -> Path:
    """The folder, unless it is a results folder given for a model folder."""
    results = any((folder / "save").glob("CKPT*"))
    if (folder / "model" / hparams_file).is_file() and (
        results or not (folder / hparams_file).is_file()
    ):
        raise UserError(
            f"{folder} is not a model folder; did you mean {folder / 'model'}?"
        )
    if results:
        raise UserError(
            f"{folder} is the results folder of a run; make a model of it: "
            f"sb-margins export {folder} MODEL_FOLDER"
        )
    return folder


def load_folder(
    source: str | Path,
    hparams_file: str = "hyperparams.yaml",
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A model's hyperparameters and modules, weights loaded, nothing of it run.

    As SpeechBrain's interfaces take them: ``modules``, ``pretrainer`` and the other
    keys that mean something here. Names of SpeechBrain's run options are left out: they
    are for whoever loads the model to choose.
    """
    from speechbrain.utils.run_opts import RunOptions

    folder = check_kind(find_folder(source), hparams_file)
    text = read_text(folder_file(folder, hparams_file))
    hparams = build(read_hparams(text, NAMES, overrides))
    plan = hparams.get("pretrainer")
    if not isinstance(plan, LoadPlan):
        raise UserError("the YAML has no 'pretrainer: !new:...Pretrainer'")
    modules = _checked_modules(hparams, plan)
    encoder = SpeakerEncoder.from_modules(modules, hparams.get("sample_rate", 16000))
    for name, target in plan.loadables.items():
        load_into(target, _weights_file(folder, plan, str(name)), str(name))
    _try_out(encoder)
    options = RunOptions().as_dict()
    return {
        name: value
        for name, value in hparams.items()
        if name not in options and name[:2] != "__"
    }
