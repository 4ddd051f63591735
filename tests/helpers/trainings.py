"""Small trainings for the tests: flags, weights, a training in a process to kill."""

import multiprocessing
import os
import signal
import sys

import torch

from sb_margins.cli import main as cli
from sb_margins.select import hparams_dir
from sb_margins.training.brain import SpeakerBrain

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


# A process that was forked has all imports; with CUDA, fork and autograd do not agree.
CONTEXT = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")


def in_a_process(function, *args, log=None, env=None):
    """Start ``function`` in a process of its own; its output goes to ``log``."""
    process = CONTEXT.Process(target=_child, args=(function, args, log, env or {}))
    process.start()
    return process


def _child(function, args, log, env):
    os.environ.update(env)
    if log is not None:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number in (1, 2):
            os.dup2(file, number)
        sys.stdout, sys.stderr = open(1, "w"), open(2, "w")
    sys.exit(function(*args))


def train_and_die(how, words):
    """Dies at step 9 of epoch 2, or while it writes the first checkpoint after 7."""
    end, save = SpeakerBrain.on_fit_batch_end, torch.save
    place = (0, 0)

    def after_batch(self, *args):
        nonlocal place
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

    SpeakerBrain.on_fit_batch_end, torch.save = after_batch, half
    return cli(["train", *words])


def run_killed(how, words, log):
    """The exit status of a run that is stopped on its way."""
    process = in_a_process(train_and_die, how, words, log=log)
    process.join()
    return process.exitcode
