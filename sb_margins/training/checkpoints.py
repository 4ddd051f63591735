"""Checkpoints that are whole or are not there."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.distributed import ddp_barrier, if_main_process

from sb_margins.errors import UserError
from sb_margins.training.failures import AGAIN, is_full_disk

WHOLE = "COMPLETE"
logger = logging.getLogger(__name__)


class WholeCheckpointer(Checkpointer):
    """A SpeechBrain checkpointer that never loads a half-written checkpoint.

    SpeechBrain writes a checkpoint's meta file first, so that one killed while being
    saved is later taken for the newest. Here a marker is written last, and folders
    without it are passed over, and told.

    Example
    -------
    >>> from torch import nn
    >>> saver = WholeCheckpointer(getfixture("tmp_path"), {"net": nn.Linear(2, 2)})
    >>> whole = saver.save_checkpoint(name="one")
    >>> broken = saver.save_checkpoint(name="two")
    >>> (broken.path / WHOLE).unlink()
    >>> [c.path.name for c in saver.list_checkpoints()]
    ['CKPT+one']
    """

    def __init__(self, *args: Any, **kwargs: Any):
        self._told: set[Path] = set()
        self._writing: Path | None = None
        super().__init__(*args, **kwargs)

    def save_checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        """As SpeechBrain's, then mark it whole; what cannot be written goes again.

        Raises
        ------
        UserError
            When the disk is full.
        """
        try:
            saved = super().save_checkpoint(*args, **kwargs)
            if saved is not None and if_main_process():
                (Path(saved.path) / WHOLE).touch()
        except (OSError, RuntimeError) as error:
            if self._writing is not None:
                shutil.rmtree(self._writing, ignore_errors=True)
            if not is_full_disk(error):
                raise
            raise UserError(
                f"cannot write a checkpoint to {self.checkpoints_dir}: the disk is "
                f"full. Free some space there. {AGAIN}"
            ) from error
        ddp_barrier()  # all processes see it whole
        if if_main_process():
            for path in self._told:  # half-written ones, now surely of no use
                shutil.rmtree(path, ignore_errors=True)
            self._told.clear()
        return saved

    def _new_checkpoint_dirpath(self) -> Path:
        self._writing = super()._new_checkpoint_dirpath()
        return self._writing

    def _custom_checkpoint_dirpath(self, name: str) -> Path:
        self._writing = super()._custom_checkpoint_dirpath(name)
        return self._writing

    def _list_checkpoint_dirs(self) -> list[Path]:
        found = super()._list_checkpoint_dirs()
        whole = [path for path in found if (path / WHOLE).is_file()]
        for path in set(found) - set(whole) - self._told:
            if if_main_process():
                logger.warning("%s is half-written: the one before it is used", path)
            self._told.add(path)
        return whole


def checkpointer_for(folder: Path, hparams: dict[str, Any]) -> WholeCheckpointer:
    """A checkpointer over everything that moves during a training.

    Arguments
    ---------
    folder : Path
        Where the checkpoints go.
    hparams : dict
        The built YAML: ``embedding_model``, ``head``, ``mean_var_norm``,
        ``lr_annealing`` and ``epoch_counter`` are saved (the Brain adds itself, the
        optimiser and the data loader).

    Returns
    -------
    WholeCheckpointer
    """
    recoverables = {
        "embedding_model": hparams["embedding_model"],
        "head": hparams["head"],
        "normalizer": hparams["mean_var_norm"],
        "counter": hparams["epoch_counter"],
        "lr_annealing": hparams["lr_annealing"],
    }
    if hparams.get("accumulation") is not None:
        recoverables["accumulation"] = hparams["accumulation"]
    return WholeCheckpointer(folder, recoverables)
