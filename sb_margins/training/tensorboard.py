"""Epoch figures for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechbrain.utils.distributed import if_main_process


class TensorboardLogger:
    """Writes each epoch's figures, with the epoch as the step.

    SpeechBrain's own counts calls, so a resumed run begins at 0 again.
    ``enabled=False`` does nothing, and needs no tensorboard.
    """

    def __init__(self, save_dir: str | Path, enabled: bool = True):
        self.save_dir = Path(save_dir)
        self.enabled = enabled
        self.writer: Any = None

    def log_stats(
        self,
        stats_meta: Mapping[str, Any],
        train_stats: Mapping[str, float] | None = None,
        valid_stats: Mapping[str, float] | None = None,
        test_stats: Mapping[str, float] | None = None,
    ) -> None:
        """Write the figures of one epoch (on the main process)."""
        if not self.enabled or not if_main_process():
            return
        epoch = int(stats_meta["epoch"])
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # Removes what a killed run wrote of this epoch and later ones.
            self.writer = SummaryWriter(str(self.save_dir), purge_step=epoch)
        settings = {k: v for k, v in stats_meta.items() if k != "epoch"}
        groups = {"settings": settings, "train": train_stats, "valid": valid_stats}
        groups["test"] = test_stats
        for group, figures in groups.items():
            for name, value in (figures or {}).items():
                self.writer.add_scalar(f"{group}/{name}", value, epoch)
        self.writer.flush()
