"""Checkpoints: whole or absent; what a run starts from, and what it ends with."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.utils.checkpoints import Checkpointer, average_checkpoints
from speechbrain.utils.distributed import ddp_barrier, ddp_broadcast, if_main_process
from torch import Tensor

from sb_margins.errors import UserError
from sb_margins.inference.results import best_checkpoint, load_encoder_weights
from sb_margins.inference.safe_weights import load_into, read_checkpoint
from sb_margins.training.process import AGAIN, is_full_disk

if TYPE_CHECKING:
    from sb_margins.training.brain import SpeakerBrain

WHOLE = "COMPLETE"
logger = logging.getLogger(__name__)


class WholeCheckpointer(Checkpointer):
    """A SpeechBrain checkpointer that never loads a half-written checkpoint.

    SpeechBrain writes a checkpoint's meta file first, so that one killed while being
    saved is later taken for the newest. Here a marker is written last, and folders
    without it are passed over with a warning.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        self._told: set[Path] = set()
        super().__init__(*args, **kwargs)

    def save_checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        """As SpeechBrain's, then mark it whole; a failed one is removed."""
        try:
            saved = super().save_checkpoint(*args, **kwargs)
            if saved is not None and if_main_process():
                (Path(saved.path) / WHOLE).touch()
        except (OSError, RuntimeError) as error:
            self._remove_half_written()
            if not is_full_disk(error):
                raise
            raise UserError(
                f"cannot write a checkpoint to {self.checkpoints_dir}: the disk is "
                f"full. Free some space there. {AGAIN}"
            ) from error
        ddp_barrier()  # all processes see it whole
        self._remove_half_written()
        return saved

    def load_checkpoint(self, checkpoint: Any) -> None:
        """As SpeechBrain's; damaged files are reported by name."""
        try:
            super().load_checkpoint(checkpoint)
        except UserError:
            raise
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"the checkpoint {checkpoint.path} cannot be loaded ({reason}). Delete "
                "it to continue from the one before"
            ) from error

    def _list_checkpoint_dirs(self) -> list[Path]:
        half_written = self._half_written()
        for path in half_written - self._told if if_main_process() else ():
            logger.warning("%s is half-written: the one before it is used", path)
        self._told |= half_written
        return [p for p in super()._list_checkpoint_dirs() if p not in half_written]

    def _half_written(self) -> set[Path]:
        folders = {p for p in self.checkpoints_dir.glob("CKPT*") if p.is_dir()}
        return {path for path in folders if not (path / WHOLE).is_file()}

    def _remove_half_written(self) -> None:
        for path in self._half_written() if if_main_process() else ():
            shutil.rmtree(path, ignore_errors=True)


def start_from(
    source: str, hparams: Mapping[str, Any], classes: Mapping[str, int]
) -> str:
    """Fill the encoder, and the class weights of known speakers, before training.

    ``source`` is a model folder, a hub name, or the results folder of another run. From
    the latter the class weights of speakers that both have are taken too; those of
    speed-changed voices are left behind. Returns a line that says what was taken.
    """
    load_encoder_weights(source, hparams["modules"])
    line = f"starting from the encoder of {source}"
    folder = Path(source)
    names = folder / "label_encoder.txt"
    if not names.is_file() or not (folder / "save").is_dir():
        return line
    before = CategoricalEncoder()
    load_into(before, names, "label_encoder")
    weights = read_checkpoint(best_checkpoint(folder / "save") / "head.ckpt")
    taken = copy_classes(hparams["head"], weights, before.lab2ind, classes)
    return line + (f" and {taken} of its classes" if taken else "")


@torch.no_grad()
def copy_classes(
    head: torch.nn.Module,
    weights: Mapping[str, Tensor],
    before: Mapping[str, int],
    now: Mapping[str, int],
) -> int:
    """Copy the class weights of speakers that two runs share; how many these are.

    ``weights`` is the other head's state dict, ``before`` and ``now`` number the
    speakers of both. Tensors whose first dimension counts classes are copied by
    speaker, others of equal shape whole; when anything else differs in shape, nothing
    is copied.
    """
    state = head.state_dict()
    if set(state) != set(weights):
        return 0
    for key, tensor in state.items():
        other = weights[key]
        if not isinstance(other, Tensor) or other.shape[1:] != tensor.shape[1:]:
            return 0
    shared = [name for name in now if name in before]
    to = torch.tensor([now[name] for name in shared], dtype=torch.long)
    source = torch.tensor([before[name] for name in shared], dtype=torch.long)
    for key, tensor in state.items():
        other = weights[key].to(tensor)
        if tensor.dim() and len(tensor) >= len(now):
            tensor[to.to(tensor.device)] = other[source.to(tensor.device)]
        else:
            tensor.copy_(other)
    return len(shared)


def load_best(brain: SpeakerBrain, last: int = 1) -> str:
    """Load the weights that verify the dev speakers best; a text that says which.

    With ``last`` above 1, the mean of the last ``last`` epochs' weights is tried too.
    """
    checkpointer = brain.checkpointer
    key = {"min_key": "EER"} if brain.validate is not None else {}
    best = checkpointer.recover_if_possible(**key)
    if best is None:
        return "the weights of the last step"
    ended = checkpointer.find_checkpoints(
        ckpt_predicate=lambda c: c.meta.get("end-of-epoch") and "mean_of" not in c.meta,
        max_num_checkpoints=last,
    )
    if last > 1 and len(ended) > 1:
        for name in ("embedding_model", "head"):
            module = getattr(brain.hparams, name)
            module.load_state_dict(average_checkpoints(ended, name))
        stats = brain.validation_stats()
        better = stats.get("EER", 0.0) <= best.meta.get("EER", 0.0)
        if ddp_broadcast(better):  # rounding must not part the processes
            meta = {**stats, "epoch": best.meta.get("epoch"), "mean_of": len(ended)}
            checkpointer.save_checkpoint(meta, verbosity=logging.DEBUG)
            return f"the mean of the last {len(ended)} epochs' weights"
        checkpointer.load_checkpoint(best)
    return f"the weights of epoch {best.meta.get('epoch')}"
