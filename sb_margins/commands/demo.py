"""``sb-margins demo``: from nothing to a verified voice, in a few minutes."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from sb_margins.commands.options import Formerly, parse_known
from sb_margins.data import Manifest
from sb_margins.errors import UserError
from sb_margins.select import hparams_dir

SYNTHETIC = (
    "The demo corpus is synthetic: eSpeak NG voices, made on the spot. It shows that\n"
    "everything runs and that losses differ; its figures say nothing about real speech."
)
# For automatic checks: a corpus and a run that take seconds.
SMALLEST = ["--number_of_epochs=2", "--crops_per_utterance=8", "--channels=16"]
SMALLEST_CORPUS = "--corpus_options={speakers: 24, utterances: 5}"


@dataclass
class DemoSettings:
    """Train a small verifier, evaluate it, export it, verify voices.

    Other flags go to the training, e.g. --number-of-epochs 5.
    """

    data_folder: Annotated[str | None, Formerly("data")] = None
    """A folder of speaker/.../audio files, or mini_librispeech; default: synthetic
    voices made on the spot."""
    loss: str = "aam"
    """Which loss (sb-margins losses lists them)."""
    output_folder: Annotated[str | None, Formerly("output")] = None
    """Where the results go; default: results/..."""
    smallest: tyro.conf.FlagCreatePairsOff[bool] = False
    """Take seconds, for automatic checks."""

    def training_flags(self) -> list[str]:
        """What follows ``sb-margins train``."""
        flags = [str(hparams_dir() / "demo.yaml"), f"--loss={self.loss}"]
        name, folder, corpus = "demo", self.data_folder, "folder"
        if folder:
            if folder == "mini_librispeech":
                corpus, folder = folder, f"data/{folder}"
            name = Path(folder).resolve().name
            flags += [f"--corpus={corpus}", f"--data_folder={folder}"]
        ours = f"results/{name}_{self.loss}" + ("_smallest" if self.smallest else "")
        flags += [f"--output_folder={self.output_folder or ours}"]
        if self.smallest:
            flags += SMALLEST + ([] if folder else [SMALLEST_CORPUS])
        return flags


def main(argv: list[str]) -> int:
    """Prepare, train, evaluate, export, verify two pairs of files."""
    settings, rest = parse_known(DemoSettings, argv, "demo")
    return run_demo(settings.training_flags() + rest)


def run_demo(flags: Sequence[str]) -> int:
    """Train with these flags, then verify files with the model."""
    from sb_margins.commands import verify_files
    from sb_margins.commands.train import train
    from sb_margins.training.config import read_config
    from sb_margins.training.process import quiet

    quiet()
    start = time.monotonic()
    config = read_config(list(flags))
    if config.settings.corpus == "demo":
        print(SYNTHETIC + "\n")
    trained = train(config)
    if trained is None:
        return 130
    model = _shortest(trained.folder / "model")
    program = _shortest(sys.argv[0]) if Path(sys.argv[0]).is_file() else "sb-margins"
    if Path(program).name == "__main__.py":
        program = "python -m sb_margins"

    same, different = pick_pairs(trained.prepared.manifest("test"))
    print("\nDo two files hold the same voice?")
    for what, pair in (("one speaker", same), ("two speakers", different)):
        print(f"\n  {what}:")
        words = [model, *map(_shortest, pair)]
        print(f"  $ {program} verify-files {shlex.join(words)}")
        verify_files.main(words)
    loss = "ham" if config.settings.loss != "ham" else "aam"
    data = ""
    if config.settings.corpus != "demo":
        data = f" DATA={shlex.quote(config.settings.data_folder)}"
    print(f"\ndone in {(time.monotonic() - start) / 60:.1f} min. What next?")
    print(
        f"  another loss        make demo LOSS={loss}{data}    ({program} losses: all)"
    )
    print("  your recordings     make demo DATA=/path/to/speaker/folders")
    print(f"  compare two files   {program} verify-files {model} A.wav B.wav")
    return 0


def pick_pairs(manifest: Manifest) -> tuple[list[Path], list[Path]]:
    """Two files of one speaker, and two files of two speakers."""
    for first in manifest:
        mates = [u for u in manifest if u.spk_id == first.spk_id and u.id != first.id]
        others = [u for u in manifest if u.spk_id != first.spk_id]
        if mates and others:
            a, b, c = (manifest.path(u) for u in (first, mates[0], others[0]))
            return [a, b], [a, c]
    raise UserError("no speaker of the test split has two utterances to compare")


def _shortest(path: str | Path) -> str:
    """A path as one would type it here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
