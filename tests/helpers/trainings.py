"""Small trainings for the tests: flags, weights, a training in a process to kill."""

import subprocess
import sys
import textwrap

import torch

from sb_margins.select import hparams_dir

SMALL = [
    "--channels=8",
    "--attention_channels=8",
    "--emb_dim=16",
    "--n_mels=24",
    "--batch_size=8",
    "--sentence_len=0.6",
    "--crops_per_utterance=2",
    "--noprogressbar",
]


def flags(corpus, out, *more, yaml="train_ecapa.yaml"):
    """A training of seconds; later flags win."""
    places = [f"--data_folder={corpus}", f"--output_folder={out}"]
    return [str(hparams_dir() / yaml), *places, *SMALL, *more]


def weights(folder):
    """The newest end-of-epoch weights."""
    newest = max((folder / "save").glob("CKPT+*"), key=lambda p: p.name)
    loaded = {}
    for name in ("embedding_model", "head"):
        loaded[name] = torch.load(newest / f"{name}.ckpt", weights_only=True)
    return loaded


def assert_same(one, two):
    for name in one:
        for key in one[name]:
            assert torch.equal(one[name][key], two[name][key]), (name, key)


# Dies at step 9 of epoch 2, or while it writes the first checkpoint after step 7.
KILLED = """
import os, signal, sys
import torch
from sb_margins.commands import train
from sb_margins.training import brain
how = sys.argv[1]
end, save = brain.SpeakerBrain.on_fit_batch_end, torch.save
place = (0, 0)
def after_batch(self, *args):
    global place
    end(self, *args)
    place = (self.epoch, self.step)
    if place == (2, 9) and how != "writing":
        os.kill(os.getpid(), getattr(signal, how))
def half(what, path, *args, **kwargs):
    if how == "writing" and place > (2, 7) and str(path).endswith("optimizer.ckpt"):
        with open(path, "wb") as file:
            file.write(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    save(what, path, *args, **kwargs)
brain.SpeakerBrain.on_fit_batch_end = after_batch
torch.save = half
sys.exit(train.main(sys.argv[2:]))
"""


def run_killed(how, words):
    """The exit status of a training that is stopped on its way."""
    script = textwrap.dedent(KILLED)
    return subprocess.run([sys.executable, "-c", script, how, *words]).returncode
