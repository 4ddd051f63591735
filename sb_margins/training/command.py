"""``sb-margins train FILE [--key value ...]``."""

from __future__ import annotations

import logging
import warnings

import torch
from speechbrain.utils.distributed import if_main_process, infer_device

from sb_margins.training.config import read_config
from sb_margins.training.finish import finish
from sb_margins.training.memory import keep_memory
from sb_margins.training.processes import in_group, leave_group
from sb_margins.training.run import train
from sb_margins.training.stopping import Interrupted

USAGE = """usage: sb-margins train FILE --data_folder CORPUS [--key value ...]

FILE is a training YAML (hparams/train_*.yaml). Every key in it is a flag, e.g.
  --loss ham             which loss (sb-margins losses lists them)
  --margin 0.3           a setting of the loss
  --channels 1024        the size of the encoder
and so are SpeechBrain's run options (--device cuda:0, --precision bf16, ...).
The same command again continues an interrupted training.
Several GPUs: torchrun --nproc_per_node=4 -m sb_margins.cli train FILE ...
"""


def quiet() -> None:
    """Keep libraries' chatter off the screen; warnings and errors stay."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.disable(logging.INFO)
    # SpeechBrain says at every start that torchvision is not there.
    told = logging.getLogger("speechbrain.utils.train_logger")
    told.addFilter(lambda record: "torchvision" not in record.getMessage())
    warnings.filterwarnings("ignore", category=FutureWarning)


def main(argv: list[str]) -> int:
    """Train, evaluate on the test trials, export.

    Arguments
    ---------
    argv : list of str
        A YAML file and flags.

    Returns
    -------
    int
        0 when finished, 130 when interrupted (run again to continue).

    Example
    -------
    >>> main(["--help"])  # doctest: +ELLIPSIS
    usage: sb-margins train FILE ...
    0
    """
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    quiet()
    code = _train(argv)
    return leave_group(code) if in_group() else code


def _train(argv: list[str]) -> int:
    config = read_config(argv)
    device = config.run_opts.device or infer_device()
    if torch.device(device).type == "cpu":
        keep_memory()
    try:
        trained = train(config)
    except Interrupted:
        if if_main_process():
            print("\nsaved; the same command again continues from here")
        return 130
    if if_main_process():
        finish(trained)
    return 0
