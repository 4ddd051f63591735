"""Find a model, on disk or on the hub, and load it without running what it says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sb_margins.encoder import ENCODER_MODULES
from sb_margins.errors import UserError
from sb_margins.inference.allowed import refusal
from sb_margins.inference.budget import MemoryBudget
from sb_margins.inference.safe_weights import load_into
from sb_margins.inference.safe_yaml import LoadPlan, safe_hparams
from sb_margins.inference.yaml_graph import MAX_BYTES

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class ModelFolder:
    """A folder to load from, and the folder that its files must stay in.

    Arguments
    ---------
    path : Path
        Holds ``hyperparams.yaml``.
    root : Path
        ``path`` itself, or the hub cache's folder of the same repository.

    Example
    -------
    >>> here = getfixture("tmp_path")
    >>> ModelFolder(here, here).file("../secrets")
    Traceback (most recent call last):
    ...
    sb_margins.errors.UserError: refused: ../secrets, which leads out of ...
    """

    path: Path
    root: Path

    def file(self, name: str) -> Path:
        """A file of the folder, by its name.

        Arguments
        ---------
        name : str
            As the YAML writes it.

        Returns
        -------
        Path
            Resolved.

        Raises
        ------
        UserError
            When it is not there, or not inside.
        """
        path = self.path / name
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise refusal(f"{name}, which leads out of the model folder")
        if not path.is_file():
            raise UserError(f"the model folder {self.path} has no file {name}")
        return path.resolve()


def find_folder(source: str | Path) -> ModelFolder:
    """A model's folder: the one given, or a download from the Hugging Face hub.

    Arguments
    ---------
    source : str or Path
        A folder, or a hub name such as ``speechbrain/spkrec-ecapa-voxceleb``.

    Returns
    -------
    ModelFolder

    Raises
    ------
    UserError
        When there is no such folder and no such model.

    Example
    -------
    >>> find_folder("./nowhere")
    Traceback (most recent call last):
    ...
    sb_margins.errors.UserError: no such model folder: ./nowhere
    """
    folder = Path(source)
    if folder.is_dir():
        return ModelFolder(folder, folder)
    if not _HUB_ID.fullmatch(str(source)) or folder.parent.is_dir():
        raise UserError(f"no such model folder: {source}")
    from huggingface_hub import snapshot_download

    try:
        patterns = ["*.yaml", "*.ckpt", "*.txt"]
        local = Path(snapshot_download(str(source), allow_patterns=patterns))
    except Exception as error:  # the hub's errors differ between its versions
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{source} is neither a folder here nor a model that the hub gives: {first}"
        ) from error
    # In the hub's cache, files are links into the blobs of the same repository.
    return ModelFolder(local, local.parent.parent)


def _weights_file(folder: ModelFolder, plan: LoadPlan, name: str) -> Path:
    """Where a loadable's weights are; a hub path means the file of that name here."""
    written = plan.paths.get(name)
    if written is None:
        if "/" in name or "\\" in name:
            raise refusal(f"the file name {name}")
        return folder.file(f"{name}.ckpt")
    parts = Path(written).parts
    if Path(written).is_absolute() or ".." in parts or ":" in written or not parts:
        raise refusal(f"the path {written}, which leads out of the model folder")
    return folder.file(written if (folder.path / written).is_file() else parts[-1])


def _check_modules(hparams: dict[str, Any], plan: LoadPlan) -> dict[str, nn.Module]:
    modules = hparams.get("modules")
    if not isinstance(modules, dict):
        raise UserError("the YAML has no 'modules' mapping")
    for name, module in modules.items():
        if not str(name).isidentifier() or hasattr(nn.ModuleDict, str(name)):
            raise UserError(f"'{name}' cannot be the name of a network module")
        if not isinstance(module, nn.Module):
            raise UserError(f"'{name}' under modules is not a network module")
    absent = [name for name in ENCODER_MODULES if name not in modules]
    if absent:
        raise UserError(f"the model lacks the modules {', '.join(absent)}")
    loaded = {id(target) for target in plan.loadables.values()}
    for name, module in modules.items():
        if any(True for _ in module.parameters()) and id(module) not in loaded:
            raise UserError(
                f"the YAML's pretrainer loads no weights for '{name}'; an untrained "
                "network would give meaningless scores"
            )
    return modules


def _try_out(modules: Mapping[str, nn.Module], rate: int) -> None:
    """One second of noise through the encoder, so that mismatches show now."""
    modes = {name: module.training for name, module in modules.items()}
    noise = torch.randn(1, rate, generator=torch.Generator().manual_seed(0))
    try:
        for module in modules.values():
            module.eval()
        with torch.no_grad(), MemoryBudget():
            feats = modules["compute_features"](noise)
            feats = modules["mean_var_norm"](feats, torch.ones(1))
            found = modules["embedding_model"](feats)
    except UserError:
        raise
    except Exception as error:  # whatever the shapes lead to
        raise UserError(f"the model's parts do not fit together: {error}") from error
    finally:
        for name, module in modules.items():
            module.train(modes[name])
    if not isinstance(found, torch.Tensor) or not torch.isfinite(found).all():
        raise UserError("the model gives no finite embedding; its weights are damaged")


def load_folder(
    source: str | Path,
    hparams_file: str = "hyperparams.yaml",
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A model's hyperparameters and modules, weights loaded, nothing of it run.

    Arguments
    ---------
    source : str or Path
        A model folder or a hub name.
    hparams_file : str
        The YAML's name in it.
    overrides : mapping, optional
        Top-level keys to plain values that replace those of the YAML.

    Returns
    -------
    dict
        As SpeechBrain's interfaces take it: ``modules``, ``pretrainer`` and the
        other keys. Names of SpeechBrain's run options are left out: they are for
        whoever loads the model to choose.

    Raises
    ------
    UserError
        Naming what is wrong or was refused.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "hyperparams.yaml").write_text("x: !apply:os.system [ls]")
    >>> load_folder(folder)
    Traceback (most recent call last):
    ...
    sb_margins.errors.UserError: refused: !apply:os.system. ...
    """
    from speechbrain.utils.run_opts import RunOptions

    folder = find_folder(source)
    path = folder.file(hparams_file)
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"refused: {path.name} is longer than {MAX_BYTES // 1024} KiB")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name} is not text: {error}") from error
    hparams = safe_hparams(text, overrides)
    plan = hparams.get("pretrainer")
    if not isinstance(plan, LoadPlan):
        raise UserError("the YAML has no 'pretrainer: !new:...Pretrainer'")
    modules = _check_modules(hparams, plan)
    for name, target in plan.loadables.items():
        load_into(target, _weights_file(folder, plan, str(name)), str(name))
    rate = hparams.get("sample_rate", 16000)
    if not isinstance(rate, int) or not 1000 <= rate <= 192_000:
        raise UserError(f"the YAML's sample_rate {rate!r} is not credible")
    _try_out(modules, rate)
    options = RunOptions().as_dict()
    return {name: value for name, value in hparams.items() if name not in options}
