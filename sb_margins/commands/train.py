"""``sb-margins train FILE [--key value ...]``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from speechbrain.utils.distributed import if_main_process

from sb_margins.data import Prepared
from sb_margins.training.config import TrainingConfig, read_config
from sb_margins.training.evaluate import evaluate
from sb_margins.training.process import (
    Interrupted,
    in_group,
    keep_memory,
    leave_group,
    quiet,
)
from sb_margins.training.run import Trained, run
from sb_margins.training.settings import describe_settings

USAGE = """usage: sb-margins train FILE --data-folder CORPUS [--key value ...]

Train a verifier, evaluate it on the corpus's trial lists, export the model.
FILE is a training YAML (hparams/train_ecapa.yaml, recipes/*/hparams/*.yaml). Every key
in it is a flag, e.g.
  --loss ham             which loss (sb-margins losses lists them)
  --encoder resnet34_tsp which encoder (hparams/encoders, or a YAML of your own)
  --channels 1024        the size of the encoder
  --eval sitw=/data/SITW cn=PREPARED   trial lists of other corpora, in the same table
and so are SpeechBrain's run options (--device cuda:0, --precision bf16, ...).
The same command again continues an interrupted run.
Several GPUs: torchrun --nproc_per_node=4 -m sb_margins train FILE ...

Settings, and their defaults where FILE has none:
"""


def main(argv: list[str]) -> int:
    """0 when finished, 130 when interrupted (run again to continue)."""
    if not argv or {"-h", "--help"} & set(argv):
        print(USAGE + describe_settings())
        return 0
    quiet()
    code = 130 if train(read_config(argv)) is None else 0
    return leave_group(code) if in_group() else code


def train(
    config: TrainingConfig,
    check: Callable[[Prepared], list[str]] | None = None,
    finish: Callable[[Trained], Any] = evaluate,
) -> Trained | None:
    """Train, evaluate and export; None when interrupted.

    ``check`` is `run`'s, ``finish`` is called at the end, by the main process.
    """
    keep_memory(config.run_opts.device)
    try:
        trained = run(config, check)
    except Interrupted:
        if if_main_process():
            print("\nsaved; the same command again continues from here")
        return None
    if if_main_process():
        finish(trained)
    return trained
