"""A small training with its classes spread over the ranks: see test_class_parallel.py.

float64, so that runs of any number of processes are equal to rounding.
"""

import os
import signal
from pathlib import Path

import torch
from ddp_worker import SIZE, Points, collate
from rank_worker import join
from speechbrain.utils.epoch_loop import EpochCounter
from speechbrain.utils.run_opts import RunOptions
from tiny_brain import Normalise

from sb_margins import select
from sb_margins.errors import UserError
from sb_margins.schedules import LossSchedule
from sb_margins.training.brain import SpeakerBrain
from sb_margins.training.checkpoints import WholeCheckpointer
from sb_margins.training.log import History
from sb_margins.training.process import readable_errors
from sb_margins.training.settings import TrainingSettings

LOSSES = ("aam", "as", "joint")
STEPS, BATCH, CLASSES = 8, 24, 13


class Dies(SpeakerBrain):
    """The last rank is killed in the middle of the second epoch."""

    def on_fit_batch_end(self, *args):
        if (self.epoch, self.step) == (2, 3) and self.rank:
            os.kill(os.getpid(), signal.SIGKILL)


def train(loss, folder, size, epochs, brain_class=SpeakerBrain):
    """Train, or continue; the checkpoints in the folder are what it leaves."""
    torch.manual_seed(3)
    head = select.head(loss, 16, CLASSES).double()
    encoder = torch.nn.Sequential(torch.nn.Linear(SIZE, 16), torch.nn.Tanh()).double()
    if size > 1:
        head.spread()
    modules = {
        "compute_features": torch.nn.Identity(),
        "mean_var_norm": Normalise(),
        "embedding_model": encoder,
        "head": head,
    }
    counter = EpochCounter(epochs)
    parts = {"embedding_model": encoder, "head": head, "counter": counter}
    words = ["--device=cpu", "--noprogressbar"]
    words += ["--distributed_backend=gloo"] * (size > 1)
    _, run_opts, _ = RunOptions.from_command_line_args(["x.yaml", *words])
    brain = brain_class(
        modules,
        lambda parameters: torch.optim.Adam(parameters, lr=0.02, fused=True),
        {
            "head": head,
            "lr_annealing": lambda optimizer: None,
            "loss_schedules": [LossSchedule("margin", end=0.5)],
        },
        run_opts,
        checkpointer=WholeCheckpointer(folder, parts),
        settings=TrainingSettings(seed=1, batch_size=BATCH // size),
        steps_per_epoch=STEPS,
        history=History(Path(folder) / "history.csv"),
    )
    brain.max_grad_norm = 0.5  # it does clip
    points = Points()
    points.points = points.points[: STEPS * BATCH].double()
    points.labels = points.labels[: STEPS * BATCH]
    sampler = torch.utils.data.SequentialSampler(points)
    loader = {"batch_size": BATCH // size, "drop_last": True, "collate_fn": collate}
    brain.train_sampler = sampler
    brain.fit(counter, points, train_loader_kwargs={**loader, "sampler": sampler})


def main(rank, size, port, folder, epochs, dies=False):
    """All losses, or the first until a rank dies; 2 for an explained error."""
    join(rank, size, port)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size))
    try:
        with readable_errors():
            for loss in LOSSES[: 1 if dies else None]:
                kind = Dies if dies else SpeakerBrain
                train(loss, Path(folder) / loss, size, epochs, kind)
    except UserError as error:
        print(error, flush=True)
        os._exit(2)
    os._exit(0)
