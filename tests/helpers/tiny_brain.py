"""A Brain on a linear encoder and points instead of speech: a run in milliseconds."""

import tempfile
from pathlib import Path

import torch
from speechbrain.dataio.dataloader import SaveableDataLoader
from speechbrain.utils.run_opts import RunOptions

from sb_margins import select
from sb_margins.training.brain import SpeakerBrain
from sb_margins.training.checkpoints import WholeCheckpointer
from sb_margins.training.crops import CropBatch
from sb_margins.training.log import History
from sb_margins.training.settings import TrainingSettings

SIZE, CLASSES, BATCH = 6, 5, 8


class Normalise(torch.nn.Module):
    def forward(self, feats, lengths):
        return feats


def tiny_brain(batches, options=None, rate=0.1, settings=None, folder=None, **hparams):
    """A Brain and the list of its batches, both the same at every call.

    ``options`` are SpeechBrain's run options, ``settings`` ours, ``folder`` is for
    checkpoints.
    """
    torch.manual_seed(3)
    encoder = torch.nn.Linear(SIZE, 4)
    head = select.head("real_am", input_size=4, out_neurons=CLASSES)
    modules = {
        "compute_features": torch.nn.Identity(),
        "mean_var_norm": Normalise(),
        "embedding_model": encoder,
        "head": head,
    }
    run_opts = {"device": "cpu", "noprogressbar": True, **(options or {})}
    brain = SpeakerBrain(
        modules,
        lambda parameters: torch.optim.SGD(parameters, lr=rate),
        {
            "head": head,
            "embedding_model": encoder,
            "lr_annealing": lambda optimizer: None,
            **hparams,
        },
        RunOptions.from_dictionary(run_opts),
        settings=TrainingSettings(
            **{"seed": 1, "batch_size": BATCH, **(settings or {})}
        ),
        steps_per_epoch=batches,
        history=History(Path(tempfile.mkdtemp()) / "history.csv"),
    )
    drawn = torch.Generator().manual_seed(7)
    loader = [
        CropBatch(
            [""] * BATCH,
            torch.randn(BATCH, SIZE, generator=drawn),
            torch.randint(CLASSES, (BATCH,), generator=drawn),
        )
        for _ in range(batches)
    ]
    loader = SaveableDataLoader(loader, batch_size=None)
    if folder is not None:
        parts = {"head": head, "embedding_model": encoder, "brain": brain}
        parts["dataloader-TRAIN"] = loader
        brain.checkpointer = WholeCheckpointer(folder, parts)
    return brain, loader
