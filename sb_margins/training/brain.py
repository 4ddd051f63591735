"""The Brain: SpeechBrain's training loop with a margin head and open-set validation."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import Any

import speechbrain as sb
import torch
import yaml
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.distributed import if_main_process
from torch import Tensor
from tqdm import tqdm

from sb_margins.encoder import SpeakerEncoder, without_empty_padding
from sb_margins.schedules import current
from sb_margins.training import geometry
from sb_margins.training.crops import CropBatch
from sb_margins.training.history import History
from sb_margins.training.processes import ProcessBrain
from sb_margins.training.tally import Tally

Stats = dict[str, float]


@register_checkpoint_hooks
class SpeakerBrain(ProcessBrain):
    """Trains ``modules.embedding_model`` and ``modules.head`` on crops of speech.

    What differs from a stock recipe's Brain: the loss is evaluated by
    ``sb_margins.Head``; loss settings follow schedules; the learning rate steps once
    per update; every random draw of a step depends on (seed, epoch, step) alone;
    Ctrl-C saves a checkpoint first; validation is verification of unseen speakers.

    Arguments
    ---------
    *args, **kwargs
        As ``speechbrain.Brain``. ``hparams`` must hold ``head``, ``lr_annealing``,
        ``loss_schedules``, ``wav_augment``, ``seed`` and ``number_of_epochs``.
    steps_per_epoch : int
        Batches in one epoch.
    history : History
        Where each epoch's figures are kept.
    validate : callable, optional
        Takes a ``SpeakerEncoder``, returns figures such as
        ``{"EER": 0.1, "minDCF(0.01)": 0.8}``; the best checkpoint is the one with
        the lowest EER.
    """

    def __init__(
        self,
        *args: Any,
        steps_per_epoch: int,
        history: History,
        validate: Callable[[SpeakerEncoder], Stats] | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        without_empty_padding(self.modules["embedding_model"])
        self.steps_per_epoch = steps_per_epoch
        self.history = history
        self.validate = validate
        self.epoch = 0
        self.bar: tqdm | None = None
        self.tally = Tally()
        self._bars = False
        self._seen = 0
        self._train_stats: Stats = {}
        self._epoch_start = time.monotonic()

    # -- pieces ---------------------------------------------------------------

    @property
    def head(self) -> Any:
        """The head itself, also when DDP wraps it."""
        return self.hparams.head

    @property
    def encoder(self) -> SpeakerEncoder:
        """Speech to embeddings with the weights of this moment."""
        names = ("compute_features", "mean_var_norm", "embedding_model")
        return SpeakerEncoder(*(self.plain_modules[name] for name in names))

    def apply_schedules(self) -> None:
        """Put the settings of the loss on their curves."""
        done = (self.epoch - 1) * self.steps_per_epoch + self.step - 1
        done = max(0, done)
        for schedule in getattr(self.hparams, "loss_schedules", None) or []:
            schedule(self.head.loss, done / self.steps_per_epoch, done)

    # -- one step -------------------------------------------------------------

    def compute_forward(
        self, batch: CropBatch, stage: sb.Stage
    ) -> tuple[Tensor, Tensor]:
        """Embeddings [B', D] and labels [B'] (B' > B when augmentation adds copies)."""
        batch = batch.to(self.device)
        wavs, labels = batch.wavs, batch.labels
        lengths = torch.ones(len(wavs), device=wavs.device)
        augment = getattr(self.hparams, "wav_augment", None)
        if stage == sb.Stage.TRAIN and augment is not None:
            with torch.autocast(self.device_type, enabled=False):  # sound stays float32
                wavs, lengths = augment(wavs, lengths)
            if hasattr(augment, "replicate_labels"):  # SpeechBrain's own adds copies
                labels = augment.replicate_labels(labels)
        feats = self.modules.compute_features(wavs)
        feats = self.modules.mean_var_norm(feats, lengths)
        frozen = self.optimizer_step < (getattr(self.hparams, "freeze_steps", 0) or 0)
        self.modules.embedding_model.train(stage == sb.Stage.TRAIN and not frozen)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            embeddings = self.modules.embedding_model(feats)
        return embeddings.reshape(len(wavs), -1), labels

    def compute_objectives(
        self, predictions: tuple[Tensor, Tensor], batch: CropBatch, stage: sb.Stage
    ) -> Tensor:
        """The head's loss; counts accuracy and the head's diagnostics on the way."""
        embeddings, labels = predictions
        loss = self.modules.head(embeddings, labels)
        zero = [v for k, v in self.head.stats.items() if k.endswith("zero_loss")]
        self._seen += len(labels)
        self.window_samples += len(labels)
        if zero:  # of a joint loss, the part that is zero least often
            self.window_zero = self.window_zero + len(labels) * torch.stack(zero).min()
        figures = {
            "loss": loss,
            "accuracy": self.head.correct.float().mean(),
            **self.head.stats,
            **geometry.of_embeddings(self.head, embeddings),
        }
        self.tally.add(len(labels), figures)
        return loss

    def on_fit_batch_start(self, batch: CropBatch, should_step: bool) -> None:
        """Seed this step, and put the loss and the learning rate on their curves."""
        seed = hash((self.hparams.seed, self.epoch, self.step, self.rank))
        torch.manual_seed(seed % 2**63)
        random.seed(seed)
        self.apply_schedules()
        # Counted in batches, so that its length in epochs holds for any accumulation;
        # only the rate at the update matters.
        self.hparams.lr_annealing(self.optimizer)

    def on_fit_batch_end(
        self, batch: CropBatch, outputs: Any, loss: Tensor, should_step: bool
    ) -> None:
        """Move the progress bar."""
        if self.bar is None:
            return
        self.bar.update(len(batch.ids))
        if self.bar.n >= self.bar.total or self.step % 10 == 0:
            accuracy = self.tally.means().get("accuracy", 0.0)
            shown = {"loss": f"{loss.item():.3f}", "acc": f"{accuracy:.1%}"}
            margin = current(self.head.loss, "margin")
            if margin is not None:
                shown["margin"] = f"{margin:.2f}"
            self.bar.set_postfix(shown, refresh=False)

    # -- checkpoints ----------------------------------------------------------

    def before_saving(self) -> None:
        """NaN that a GPU found in an earlier batch must not get into a checkpoint."""
        for part in (self.head, *self.head._parts):
            part.check.flush()

    @mark_as_saver
    def _save(self, path: str) -> None:
        super()._save(path)
        with open(path, "a", encoding="utf-8") as file:
            yaml.safe_dump({"tally": self.tally.state()}, file)

    @mark_as_loader
    def _recover(self, path: str, end_of_epoch: bool) -> None:
        super()._recover(path, end_of_epoch)
        with open(path, encoding="utf-8") as file:
            self.tally.load(yaml.safe_load(file).get("tally") or {})

    # -- stages ---------------------------------------------------------------

    def fit(self, epoch_counter: Any, train_set: Any, **kwargs: Any) -> None:
        """As ``ProcessBrain.fit``, with a progress bar of our own."""
        self._bars = not self.noprogressbar and if_main_process()
        try:
            super().fit(epoch_counter, train_set, progressbar=False, **kwargs)
        finally:
            self._close_bar()

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Open the progress bar."""
        if stage != sb.Stage.TRAIN:
            return
        self.epoch = epoch or 0
        self._epoch_start = time.monotonic()
        self._seen = 0
        if self.step == 0:  # else an epoch is continued
            self.tally.reset()
        if self._bars:
            size = self.hparams.batch_size
            self.bar = tqdm(
                total=self.steps_per_epoch * size,
                initial=self.step * size,
                desc=f"epoch {self.epoch}/{self.hparams.number_of_epochs}",
                unit="utt",
                leave=False,
                dynamic_ncols=True,
                disable=None,  # a log file gets the epoch's line only
            )

    def _close_bar(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def on_stage_end(
        self, stage: sb.Stage, stage_loss: float, epoch: int | None = None
    ) -> None:
        """Keep the training figures; after validation, log and save a checkpoint."""
        self._close_bar()
        if stage == sb.Stage.TRAIN:
            world = torch.distributed.get_world_size() if self.distributed_launch else 1
            seconds = time.monotonic() - self._epoch_start
            self._train_stats = {
                **self.tally.means(everywhere=True),
                **geometry.of_prototypes(self.head),
                "utt/s": world * self._seen / seconds,
            }

    @torch.no_grad()
    def validation_stats(self) -> Stats:
        """Verification figures of the held-out speakers with the weights of now."""
        if self.validate is None:
            return {}
        self.modules.eval()
        self.share_buffers()
        with self.evaluation_ctx:
            return self.validate(self.encoder.eval())

    def _fit_valid(self, valid_set: Any, epoch: int, enable: bool) -> None:
        # SpeechBrain validates on batches with class labels; held-out speakers have
        # none, so this stage is a verification of whole utterances instead.
        self.on_stage_start(sb.Stage.VALID, epoch)
        stats = self.validation_stats()
        self.on_stage_end(sb.Stage.VALID, stats.get("EER", 0.0), epoch)
        self.record(epoch, self._train_stats, stats)
        if self.checkpointer is not None:
            meta = {**stats, "epoch": epoch}
            keep = {"min_keys": ["EER"]} if "EER" in stats else {}
            average = getattr(self.hparams, "average_checkpoints", None) or 1
            self.checkpointer.save_and_keep_only(
                meta=meta, num_to_keep=average, verbosity=logging.DEBUG, **keep
            )

    def record(self, epoch: int, train: Stats, valid: Stats) -> None:
        """One epoch's line in the history, in the train log and on the screen."""
        settings: Stats = {}
        for name in ("margin", "scale", "delta"):
            value = current(self.head.loss, name)
            if value is not None:
                settings[name] = value
        if train:
            settings["lr"] = self.optimizer.param_groups[0]["lr"]
        seconds = time.monotonic() - self._epoch_start
        if if_main_process():
            row = {"epoch": epoch, "seconds": seconds, **settings, **train, **valid}
            self.history.add(row)
            tqdm.write(self.history.line(row, self.hparams.number_of_epochs))
        # SpeechBrain's loggers write on the main process, but all must call them.
        for log in getattr(self.hparams, "train_loggers", None) or []:
            log.log_stats(
                {"epoch": epoch, **settings}, train_stats=train, valid_stats=valid
            )
