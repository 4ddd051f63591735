"""The Brain: SpeechBrain's training loop with a margin head and open-set validation.

In the order in which things happen: what is set up once, one batch, one epoch, a
checkpoint. ``run.py`` prepares what it needs.
"""

from __future__ import annotations

import logging
import math
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
from speechbrain.utils.distributed import ddp_all_reduce, if_main_process
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel as DDP

from sb_margins.encoder import SpeakerEncoder, constants_to, without_needless_work
from sb_margins.errors import UserError
from sb_margins.messages import progress, progress_bar
from sb_margins.precision import on_cpu
from sb_margins.ranks import gradient_norm
from sb_margins.schedules import current
from sb_margins.training.crops import CropBatch
from sb_margins.training.learning_rate import LearningRate, slow_down
from sb_margins.training.log import (
    History,
    Tally,
    embedding_figures,
    prototype_figures,
)
from sb_margins.training.process import Interrupted, StopRequest, world_size
from sb_margins.training.settings import TrainingSettings
from sb_margins.training.shares import keep_whole

Stats = dict[str, float]
ASK_EVERY = 10  # updates after which the processes of a DDP run agree to save
LOOK_EVERY = 10  # batches after which a GPU's verdicts and figures are read
SCALER_TRIES = 30  # a gradient scaler finds its scale by trying
logger = logging.getLogger(__name__)


@register_checkpoint_hooks
class SpeakerBrain(sb.Brain):
    """Trains ``modules.embedding_model`` and ``modules.head`` on crops of speech.

    What differs from a stock recipe's Brain:

    * the loss is evaluated by ``sb_margins.Head``, and its settings follow schedules;
    * gradients accumulate in whole windows, of fixed or adaptive length: SpeechBrain
      steps when ``step % factor == 0``, which loses the remainder of an epoch and tears
      windows apart when the factor changes;
    * an update whose gradient is not finite is skipped, and no batch waits for a GPU:
      figures (``Tally``) and verdicts stay there, and are read every tenth batch;
    * every random draw of a step depends on (seed, epoch, step, rank) alone, and
      checkpoints are saved between windows only, so that a resumed run is exact;
    * Ctrl-C saves a checkpoint first;
    * validation is the verification of speakers that were not trained on: ``validate``
      takes a ``SpeakerEncoder`` and returns figures such as ``{"EER": 0.1}``.

    ``hparams`` holds ``head`` and, when wanted, ``lr_annealing``, ``loss_schedules``,
    ``wav_augment``, ``accumulation`` and ``train_loggers``.
    """

    def __init__(
        self,
        *args: Any,
        settings: TrainingSettings,
        steps_per_epoch: int,
        history: History,
        validate: Callable[[SpeakerEncoder], Stats] | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        without_needless_work(self.modules["embedding_model"])
        constants_to(self.modules["compute_features"], self.device)
        self.settings = settings
        self.steps_per_epoch = steps_per_epoch
        self.history = history
        self.validate = validate
        built = vars(self.hparams).get
        self.head: Any = built("head")  # itself, also when DDP wraps it in modules
        self.augment = built("wav_augment")
        adaptive: Any = built("accumulation")
        self.adaptive = adaptive if adaptive and adaptive.maximum > 1 else None
        self.loss_schedules = built("loss_schedules") or []
        self.loggers = built("train_loggers") or []
        self.learning_rate = LearningRate(built("lr_annealing"))
        # Before --compile and DDP wrap them: whole utterances of all lengths would be
        # compiled again and again, and DDP communicates in each forward.
        self.plain_modules = dict(self.modules.items())
        self.rank = torch.distributed.get_rank() if self.distributed_launch else 0
        self.stop = StopRequest()
        self.tally = Tally()
        # Updates of a GPU that were not finite and not looked at yet: those in a row
        # until now, the longest row, all.
        self.skipped: Tensor | None = None
        self.bar: Any = None
        self.loader: Any = None
        self.epoch = 0
        self.window = 1  # batches in the present window of accumulation,
        self.micro = 0  # those done,
        self.window_samples = 0  # their samples, and how many of these had no loss
        self.window_zero: Tensor | float = 0.0
        self._windows_done = 0
        self.start: Stats | None = None  # of weights that may stay the best
        self._train_stats: Stats = {}
        self._seen = 0
        self._epoch_start = time.monotonic()

    @property
    def encoder(self) -> SpeakerEncoder:
        """Speech to embeddings with the current weights."""
        return SpeakerEncoder.from_modules(self.plain_modules)

    # -- set up once ----------------------------------------------------------

    def fit(self, epoch_counter: Any, train_set: Any, **kwargs: Any) -> None:
        """As SpeechBrain's; the first Ctrl-C saves and stops, the second kills."""
        try:
            with self.stop:
                super().fit(epoch_counter, train_set, progressbar=False, **kwargs)
        finally:
            self._close_bar()
            self._end_readers()

    def make_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        """As SpeechBrain's; `fit` ends its processes."""
        self.loader = super().make_dataloader(*args, **kwargs)
        return self.loader

    def _end_readers(self) -> None:
        # Persistent workers outlive their epoch, and their loader an error's traceback.
        readers = getattr(self.loader, "_iterator", None)
        if readers is not None:
            readers._shutdown_workers()

    def _compile(self) -> None:
        if not self.compile or self.compile_module_keys is not None:
            return super()._compile()
        # The head brings its own kernels, and the features are cheap.
        self.modules["embedding_model"] = torch.compile(
            self.modules["embedding_model"],
            mode=self.compile_mode,
            fullgraph=self.compile_using_fullgraph,
            dynamic=self.compile_using_dynamic_shape_tracing,
        )

    def _wrap_distributed(self) -> None:
        head, spread = self.modules["head"], self.head.ranks.size > 1
        if spread and self.scaler.is_enabled():
            raise UserError(
                "class_parallel: --precision fp16 scales gradients on each process by "
                "itself; use bf16 or fp32"
            )
        if spread:  # the classes of one are no copies of another's: no DDP
            self.modules["head"] = torch.nn.Identity()
        self._wrap_all()
        if spread:
            self.modules["head"] = head

    def _wrap_all(self) -> None:
        if not self.distributed_launch or torch.device(self.device).type != "cpu":
            return super()._wrap_distributed()
        # SpeechBrain synchronises batch norms, which torch can on a GPU only.
        for name, module in self.modules.items():
            if any(p.requires_grad for p in module.parameters()):
                unused = self.find_unused_parameters
                self.modules[name] = DDP(module, find_unused_parameters=unused)

    def init_optimizers(self) -> None:
        """The optimizer, and the scheduler of its rate."""
        super().init_optimizers()
        if self.settings.encoder_rate != 1:
            encoder = self.modules["embedding_model"].parameters()
            slow_down(self.optimizer, encoder, self.settings.encoder_rate)
        self.learning_rate.attach(self.optimizer)
        if self.checkpointer is not None:
            self.learning_rate.add_to(self.checkpointer)
            if self.head.ranks.size > 1:
                keep_whole(self.checkpointer, self.head, self.optimizer)

    def on_fit_start(self) -> None:
        """As SpeechBrain's; the weights of ``start`` are a checkpoint like others."""
        super().on_fit_start()
        if self.start is not None and self.checkpointer is not None:
            self._save_epoch(0, self.start)

    # -- one batch ------------------------------------------------------------

    def fit_batch(self, batch: CropBatch) -> Tensor:
        """Forward, backward, and at the end of a window an update."""
        if self.micro == 0:
            fixed = self.grad_accumulation_factor
            self.window = self.adaptive.window if self.adaptive else fixed
        last = self.step >= self.steps_per_epoch
        should_step = last or self.micro + 1 >= self.window
        self.on_fit_batch_start(batch, should_step)
        with self.no_sync(not should_step):
            with self.training_ctx:
                outputs = self.compute_forward(batch, sb.Stage.TRAIN)
                loss = self.compute_objectives(outputs, batch, sb.Stage.TRAIN)
            self.scaler.scale(loss / self.window).backward()
        self.micro += 1
        if should_step:
            if self.micro < self.window:  # cut short: the mean is over fewer batches
                for parameter in self.modules.parameters():
                    if parameter.grad is not None:
                        parameter.grad.mul_(self.window / self.micro)
            self.optimizers_step()
            self._end_window()
        self.on_fit_batch_end(batch, outputs, loss, should_step)
        return loss.detach()

    def on_fit_batch_start(self, batch: CropBatch, should_step: bool) -> None:
        """Seed this step, and put the loss and the learning rate on their curves."""
        seed = self._seed(self.epoch, self.step)
        torch.manual_seed(seed)
        random.seed(seed)
        self.apply_schedules()
        done = (self.epoch - 1) * self.steps_per_epoch + self.step
        self.learning_rate.before_batch(done)

    def _seed(self, epoch: int, step: int) -> int:
        return hash((self.settings.seed, epoch, step, self.rank)) % 2**63

    def apply_schedules(self) -> None:
        """Put the settings of the loss on their curves."""
        done = max(0, (self.epoch - 1) * self.steps_per_epoch + self.step - 1)
        for schedule in self.loss_schedules:
            schedule(self.head.loss, done / self.steps_per_epoch, done)

    def compute_forward(
        self, batch: CropBatch, stage: sb.Stage
    ) -> tuple[Tensor, Tensor]:
        """Embeddings [B', D] and labels [B'] (B' > B when augmentation adds copies)."""
        batch = batch.to(self.device)
        wavs, labels = batch.wavs, batch.labels
        lengths = torch.ones(len(wavs), device=wavs.device)
        if stage == sb.Stage.TRAIN and self.augment is not None:
            with torch.autocast(self.device_type, enabled=False):  # sound stays float32
                wavs, lengths = self.augment(wavs, lengths)
            if hasattr(self.augment, "read_ahead"):  # ours
                ends = self.step >= self.steps_per_epoch
                after = (self.epoch + 1, 1) if ends else (self.epoch, self.step + 1)
                self.augment.read_ahead(self._seed(*after), *batch.wavs.shape)
            if hasattr(self.augment, "replicate_labels"):  # SpeechBrain's adds copies
                labels = self.augment.replicate_labels(labels)
        feats = self.modules.compute_features(wavs)
        feats = self.modules.mean_var_norm(feats, lengths)
        frozen = self.optimizer_step < self.settings.freeze_steps
        self.modules.embedding_model.train(stage == sb.Stage.TRAIN and not frozen)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            embeddings = self.modules.embedding_model(feats)
        return embeddings.reshape(len(wavs), -1), labels

    def compute_objectives(
        self, predictions: tuple[Tensor, Tensor], batch: CropBatch, stage: sb.Stage
    ) -> Tensor:
        """The head's loss; its figures go into the epoch's means."""
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
            **embedding_figures(self.head, embeddings),
        }
        self.tally.add(len(labels), figures)
        return loss

    def optimizers_step(self) -> None:
        """Clip, and step unless the gradient is not finite."""
        self.scaler.unscale_(self.optimizer)
        limit = self.max_grad_norm if self.max_grad_norm > 0 else math.inf
        norm = gradient_norm(self.modules.parameters())
        clip = torch.nn.utils.clip_grads_with_norm_
        clip(self.modules.parameters(), limit, norm)
        finite = torch.isfinite(norm)
        if self._skips_by_itself(norm):
            self._step_unseen(finite)
        else:
            self._step_seen(bool(finite))
        self.optimizer.zero_grad(set_to_none=True)

    def _skips_by_itself(self, norm: Tensor) -> bool:
        """Whether the optimizer can be told on the device to skip an update.

        torch's fused ones can, as GradScaler tells them; others are waited for, and so
        is the first update (a fused SGD that skips it begins with undefined momentum).
        """
        fused = getattr(self.optimizer, "_step_supports_amp_scaling", False)
        return fused and bool(self.optimizer.state) and not on_cpu(norm.device)

    def _step_seen(self, finite: bool) -> None:
        """Update, or skip it and count that."""
        if finite or self.scaler.is_enabled():  # the scaler skips such steps itself
            self.scaler.step(self.optimizer)
        self.scaler.update()
        if finite:
            self.optimizer_step += 1
            self.nonfinite_count = 0
            return
        self.nonfinite_count += 1
        if not self.scaler.is_enabled():
            logger.warning(
                "step %d: the gradient is not finite; this update is skipped", self.step
            )
        self._check_patience(self.nonfinite_count)

    def _step_unseen(self, finite: Tensor) -> None:
        """The same on a GPU: whether it was finite is read later, by `_look`."""
        optimizer: Any = self.optimizer
        bad = (~finite).float()
        if not self.scaler.is_enabled():  # else the scaler sets these
            optimizer.grad_scale, optimizer.found_inf = None, bad
        self.scaler.step(optimizer)
        self.scaler.update()
        if not self.scaler.is_enabled():
            del optimizer.grad_scale, optimizer.found_inf
        self.optimizer_step += 1  # `_look` takes back those that were skipped
        if self.skipped is None:
            self.skipped = bad.new_zeros(3)
        row, longest, total = self.skipped
        row = (row + 1) * bad
        self.skipped = torch.stack([row, torch.maximum(row, longest), total + bad])

    def _look(self, *figures: Tensor) -> list[float]:
        """Read what a GPU knows of its updates, and figures, in one wait."""
        unseen = self.skipped
        parts = [] if unseen is None else list(unseen)
        if not parts and not figures:
            return []
        values = torch.stack([v.detach().double() for v in (*parts, *figures)]).tolist()
        if unseen is None:
            return values
        row, longest, total = (int(v) for v in values[:3])
        self.skipped = torch.stack([unseen[0], unseen[0], torch.zeros_like(unseen[0])])
        self.optimizer_step -= total
        self.nonfinite_count = row
        if total and not self.scaler.is_enabled():
            logger.warning(
                "up to step %d: %d gradients were not finite; these updates were "
                "skipped",
                self.step,
                total,
            )
        self._check_patience(longest)
        return values[3:]

    def _check_patience(self, in_a_row: int) -> None:
        """Raise after too many updates in a row that were not finite."""
        tries = SCALER_TRIES if self.scaler.is_enabled() else 0
        if in_a_row > self.nonfinite_patience + tries:
            raise UserError(
                f"{in_a_row} updates in a row were not finite, so training stops; the "
                "last checkpoint is good. Lower lr, or use --precision fp32"
            )

    def _end_window(self) -> None:
        """Let adaptive accumulation choose the next window, alike on all ranks."""
        if self.adaptive is not None:
            sums = torch.tensor(
                [float(self.window_samples), float(self.window_zero)],
                device=self.device,
            )
            sums = ddp_all_reduce(sums, torch.distributed.ReduceOp.SUM)
            self.adaptive.after_window(*sums.tolist())
        self.window_samples, self.window_zero, self.micro = 0, 0.0, 0

    def on_fit_batch_end(
        self, batch: CropBatch, outputs: Any, loss: Tensor, should_step: bool
    ) -> None:
        """Look at what was not looked at, and move the progress bar."""
        shows = self.bar is not None and not self.bar.disable
        if shows:
            self.bar.update(len(batch.ids))
        ends = shows and self.bar.n >= self.bar.total
        if not ends and self.step % LOOK_EVERY:
            return
        figures = [loss, self.tally.mean("accuracy")] if shows else []
        values = self._look(*figures)
        if shows:
            shown = {"loss": f"{values[0]:.3f}", "acc": f"{values[1]:.1%}"}
            margin = current(self.head.loss, "margin")
            if margin is not None:
                shown["margin"] = f"{margin:.2f}"
            self.bar.set_postfix(shown, refresh=False)

    def update_average(self, loss: Tensor, avg_loss: float) -> float:
        """SpeechBrain's running mean waits for every loss; the tally does not."""
        return avg_loss

    # -- one epoch ------------------------------------------------------------

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Begin the epoch's means and its progress bar."""
        if stage != sb.Stage.TRAIN:
            return
        self.epoch = epoch or 0
        self._epoch_start = time.monotonic()
        self._seen = 0
        if self.step == 0:  # else an epoch is continued
            self.tally = Tally()
        self.skipped = None
        if not self.noprogressbar and if_main_process():
            size = self.settings.batch_size
            self.bar = progress_bar(
                total=self.steps_per_epoch * size,
                initial=self.step * size,
                desc=f"epoch {self.epoch}/{self.settings.number_of_epochs}",
                unit="utt",
                leave=False,
                dynamic_ncols=True,
            )

    def on_stage_end(
        self, stage: sb.Stage, stage_loss: float, epoch: int | None = None
    ) -> None:
        """Keep the training figures of the epoch."""
        self._close_bar()
        if stage == sb.Stage.TRAIN:
            self._look()
            seconds = time.monotonic() - self._epoch_start
            self._train_stats = {
                **self.tally.means(everywhere=True),
                **prototype_figures(self.head),
                "updates": self.optimizer_step,  # since the beginning
                "utt/s": world_size() * self._seen / seconds,
            }

    def _fit_valid(self, valid_set: Any, epoch: int, enable: bool) -> None:
        # SpeechBrain validates on batches with class labels; held-out speakers have
        # none, so this stage is a verification of whole utterances instead.
        self.on_stage_start(sb.Stage.VALID, epoch)
        stats = self.validation_stats()
        error = stats.get("EER", self._train_stats.get("loss", 0.0))
        self.on_stage_end(sb.Stage.VALID, error, epoch)
        self.record(epoch, self._train_stats, stats)
        self.learning_rate.after_epoch(epoch, error)
        if self.checkpointer is not None:
            self._save_epoch(epoch, stats)

    def _save_epoch(self, epoch: int, stats: Stats) -> None:
        """Save a checkpoint; the best one and the last ones stay."""
        self.head.flush()
        self.checkpointer.save_and_keep_only(
            meta={**stats, "epoch": epoch},
            num_to_keep=self.settings.average_checkpoints,
            verbosity=logging.DEBUG,
            min_keys=["EER"] if self.validate is not None else (),
        )

    @torch.no_grad()
    def validation_stats(self) -> Stats:
        """Verification figures of the held-out speakers with the current weights."""
        if self.validate is None:
            return {}
        self.modules.eval()
        if self.distributed_launch:  # the batch statistics of the first process
            for buffer in self.plain_modules["embedding_model"].buffers():
                torch.distributed.broadcast(buffer, 0)
        with self.evaluation_ctx:
            stats = self.validate(self.encoder.eval())
        return {name: v for name, v in stats.items() if math.isfinite(v)}

    def record(self, epoch: int, train: Stats, valid: Stats) -> None:
        """One epoch's line in the history, in the train log and on the screen."""
        now = {n: current(self.head.loss, n) for n in ("margin", "scale", "delta")}
        loss_settings = {name: v for name, v in now.items() if v is not None}
        if train:
            loss_settings["lr"] = self.optimizer.param_groups[0]["lr"]
        seconds = time.monotonic() - self._epoch_start
        if if_main_process():
            row = {"epoch": epoch, "seconds": seconds, **loss_settings, **train}
            row.update(valid)
            self.history.add(row)
            progress(self.history.line(row, self.settings.number_of_epochs))
        # SpeechBrain's loggers write on the main process, but all must call them.
        for log in self.loggers:
            meta = {"epoch": epoch, **loss_settings}
            log.log_stats(meta, train_stats=train, valid_stats=valid)

    def _close_bar(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    # -- a checkpoint ---------------------------------------------------------

    def _should_save_intra_epoch_ckpt(self, last: float, steps: int) -> bool:
        # Gradients are no part of a checkpoint: save between windows only.
        if self.micro or self.checkpointer is None:
            return False
        self._windows_done += 1
        minutes, every = self.ckpt_interval_minutes, self.ckpt_interval_steps
        due = 0 < minutes < (time.time() - last) / 60 or 0 < every <= steps
        stop = self.stop.asked
        if self.distributed_launch:  # all must do the same, and asking costs time
            if self._windows_done % ASK_EVERY:
                return False
            wishes = torch.tensor([due and self.rank == 0, stop], device=self.device)
            wishes = ddp_all_reduce(wishes.int(), torch.distributed.ReduceOp.MAX)
            due, stop = wishes.bool().tolist()
        if due or stop:
            self._look()  # and raise when a GPU found NaN: it must not be saved
            self.head.flush()
        if stop:
            self._save_intra_epoch_ckpt()
            raise Interrupted
        return due

    @mark_as_saver
    def _save(self, path: str) -> None:
        super()._save(path)
        with open(path, "a", encoding="utf-8") as file:
            yaml.safe_dump({"tally": self.tally.state()}, file)

    @mark_as_loader
    def _recover(self, path: str, end_of_epoch: bool) -> None:
        super()._recover(path, end_of_epoch)
        with open(path, encoding="utf-8") as file:
            state = yaml.safe_load(file).get("tally") or {}
        self.tally.load(state, self.device)
