"""The Brain of a shipped YAML on a pretended GPU, and the steps it does."""

from __future__ import annotations

from contextlib import contextmanager
from unittest import mock

import torch
from pretended_gpu import backward, pretended_gpu, to_gpu
from speechbrain.utils.autocast import AMPConfig, TorchAutocast
from speechbrain.utils.run_opts import RunOptions

from sb_margins.encoder import constants_to
from sb_margins.training.brain import SpeakerBrain
from sb_margins.training.config import read_config
from sb_margins.training.crops import CropBatch

SMALL = ["--channels=8", "--attention_channels=4", "--emb_dim=12"]


class Bar:
    """A progress bar that is shown."""

    n, total, disable = 0, 10**9, False

    def update(self, *values, **options):
        pass

    set_postfix = close = update


class NoHistory:
    rows: tuple = ()


@contextmanager
def gpu_brain(folder, *flags, precision="fp32", classes=20, steps=1000):
    """A Brain in its first epoch, and the `Device` that counts what it asks."""
    words = ["train_ecapa.yaml", "--data_folder=x", f"--output_folder={folder}"]
    config = read_config([*words, f"--precision={precision}", *flags])
    hparams = config.build(out_n_neurons=classes, steps_per_epoch=steps)
    with mock.patch("sb_margins.training.brain.constants_to") as constants:
        brain = SpeakerBrain(
            hparams["modules"],
            hparams["opt_class"],
            hparams,
            RunOptions.from_dictionary({"device": "cpu", "noprogressbar": True}),
            settings=config.settings,
            steps_per_epoch=steps,
            history=NoHistory(),
        )
    (features, _), _ = constants.call_args  # the Brain moves them
    with pretended_gpu() as device:
        to_gpu(brain.modules)
        brain.device, brain.device_type = "cuda:0", "cuda"
        brain.scaler = torch.GradScaler("cuda", enabled=precision == "fp16")
        dtype = AMPConfig.from_name(precision).dtype
        brain.training_ctx = TorchAutocast(device_type="cuda", dtype=dtype)
        constants_to(features, "cuda")
        brain.init_optimizers()
        brain.modules.train()
        brain.epoch, brain.bar = 1, Bar()
        with mock.patch.object(torch.Tensor, "backward", backward):
            yield brain, device


def train(brain, steps, batch, samples):
    """That many further steps, each on crops of noise."""
    for _ in range(steps):
        brain.step += 1
        wavs = torch.randn(batch, samples)
        labels = torch.zeros(batch, dtype=torch.long)
        brain.fit_batch(CropBatch([""] * batch, wavs, labels))
