"""One process of a DDP run on tensors: started by test_ddp.py, alone or as a rank.

Trains a tiny encoder without batch statistics with each loss for 50 steps and writes
the loss, the window and a checksum of all weights after each step.
"""

import hashlib
import json
from pathlib import Path

import torch
from speechbrain.utils.distributed import ddp_init_group
from speechbrain.utils.run_opts import RunOptions

from sb_margins import select
from sb_margins.schedules import LossSchedule
from sb_margins.training.accumulation import AdaptiveAccumulation
from sb_margins.training.brain import SpeakerBrain
from sb_margins.training.crops import CropBatch
from sb_margins.training.log import History
from sb_margins.training.process import in_group, leave_group
from sb_margins.training.settings import TrainingSettings

STEPS, BATCH, SIZE, CLASSES = 50, 8, 24, 12
# name, most batches in a window
CASES = [
    ("softmax", 1),
    ("aam", 1),
    ("real_am", 1),
    ("as", 1),
    ("h", 1),
    ("ham", 1),
    ("real_am", 4),
    ("joint", 1),
]


class Points(torch.utils.data.Dataset):
    """Clouds around one centre for each class: learnable, and some become zero-loss."""

    def __init__(self):
        drawn = torch.Generator().manual_seed(7)
        centres = torch.randn(CLASSES, SIZE, generator=drawn)
        total = STEPS * BATCH * 2
        self.labels = torch.randint(CLASSES, (total,), generator=drawn)
        noise = torch.randn(total, SIZE, generator=drawn)
        self.points = centres[self.labels] + 0.5 * noise

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return self.points[i], self.labels[i]


def collate(items):
    points, labels = zip(*items, strict=True)
    return CropBatch([""] * len(items), torch.stack(points), torch.stack(labels))


class Watched(SpeakerBrain):
    """Notes what each step leaves."""

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        digest = hashlib.sha256()
        for parameter in self.modules.parameters():
            digest.update(parameter.detach().numpy().tobytes())
        figures = [float(loss.detach()), self.window, digest.hexdigest()]
        self.notes.append(figures)


def train(name, most, run_opts, ranks, out):
    torch.manual_seed(3)
    encoder = torch.nn.Sequential(
        torch.nn.Linear(SIZE, 32), torch.nn.LeakyReLU(), torch.nn.Linear(32, 16)
    )
    head = select.head(name, input_size=16, out_neurons=CLASSES)
    normalise = torch.nn.Module()
    normalise.forward = lambda feats, lengths: feats
    modules = {
        "compute_features": torch.nn.Identity(),
        "mean_var_norm": normalise,
        "embedding_model": encoder,
        "head": head,
    }
    hparams = {
        "head": head,
        "lr_annealing": lambda optimizer: None,
        "loss_schedules": [LossSchedule("margin", end=0.5)],
        "accumulation": AdaptiveAccumulation(maximum=most),
    }
    alone = ranks == 1
    brain = Watched(
        modules,
        lambda parameters: torch.optim.SGD(parameters, lr=0.02, momentum=0.9),
        hparams,
        run_opts,
        settings=TrainingSettings(seed=1, number_of_epochs=1, batch_size=BATCH),
        steps_per_epoch=STEPS,
        history=History(Path(out) / f"{name}_{brain_id(run_opts)}.csv"),
    )
    brain.notes = []
    points = Points()
    sampler = torch.utils.data.SequentialSampler(points)
    loader = {
        "batch_size": BATCH * 2 if alone else BATCH,
        "drop_last": True,
        "collate_fn": collate,
        "sampler": sampler,
    }
    brain.train_sampler = sampler
    brain.fit([1], points, train_loader_kwargs=loader)
    return {
        "name": name,
        "steps": brain.notes,
        "mean": brain.history.rows[0]["loss"] if brain.history.rows else None,
    }


def brain_id(run_opts):
    return torch.distributed.get_rank() if in_group() else "one"


def main(out, *words):
    torch.set_num_threads(1)
    _, run_opts, _ = RunOptions.from_command_line_args(["x.yaml", *words])
    ddp_init_group(run_opts)
    together = in_group()
    ranks = torch.distributed.get_world_size() if together else 1
    found = [train(name, most, run_opts, ranks, out) for name, most in CASES]
    file = Path(out) / f"rank_{brain_id(run_opts)}.json"
    file.write_text(json.dumps(found))
    if together:
        leave_group(0)
