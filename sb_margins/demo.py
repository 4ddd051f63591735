"""``sb-margins demo``: from nothing to a verified voice, in a few minutes."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from sb_margins.data import Manifest
from sb_margins.errors import UserError

SYNTHETIC = (
    "The demo corpus is synthetic: eSpeak NG voices, made on the spot. It shows that\n"
    "everything runs and that losses differ; its figures say nothing about real speech."
)
# For automatic checks: a corpus and a training that take seconds.
SMALLEST = ["--number_of_epochs=2", "--crops_per_utterance=8", "--channels=16"]
SMALLEST_CORPUS = "--corpus_options={speakers: 24, utterances: 5}"


def pick_pairs(manifest: Manifest) -> tuple[list[Path], list[Path]]:
    """Two files of one speaker, and two files of two speakers.

    Arguments
    ---------
    manifest : Manifest
        Of a split with at least two speakers, one of them with two utterances.

    Returns
    -------
    tuple of lists of Path
        (same speaker, different speakers).

    Raises
    ------
    UserError
        When there is no such pair.

    Example
    -------
    >>> from sb_margins.data import Utterance
    >>> rows = [
    ...     Utterance(f"{i}.wav", f"{i}.wav", 2.0, s, 16000, {})
    ...     for i, s in enumerate("aab")
    ... ]
    >>> same, different = pick_pairs(Manifest(rows, "root"))
    >>> [p.name for p in same], [p.name for p in different]
    (['0.wav', '1.wav'], ['0.wav', '2.wav'])
    """
    for first in manifest:
        mates = [u for u in manifest if u.spk_id == first.spk_id and u.id != first.id]
        others = [u for u in manifest if u.spk_id != first.spk_id]
        if mates and others:
            a, b, c = (manifest.path(u) for u in (first, mates[0], others[0]))
            return [a, b], [a, c]
    raise UserError("no speaker of the test split has two utterances to compare")


def training_flags(
    data: str | None, loss: str, output: str | None, smallest: bool
) -> list[str]:
    """The words after ``sb-margins train`` that the demo stands for.

    Example
    -------
    >>> training_flags("my corpus", "ham", None, False)[1:]
    ['--loss=ham', '--corpus=folder', '--data_folder=my corpus', ...]
    """
    from sb_margins.select import hparams_dir

    flags = [str(hparams_dir() / "demo.yaml"), f"--loss={loss}"]
    name = "demo"
    if data:
        corpus, folder = "folder", data
        if data == "mini_librispeech":
            corpus, folder = data, f"data/{data}"
        name = Path(folder).resolve().name
        flags += [f"--corpus={corpus}", f"--data_folder={folder}"]
    own = f"results/{name}_{loss}" + ("_smallest" if smallest else "")
    flags += [f"--output_folder={output or own}"]
    if smallest:
        flags += SMALLEST + ([] if data else [SMALLEST_CORPUS])
    return flags


def main(argv: list[str]) -> int:
    """Prepare, train, evaluate, export, verify two pairs of files.

    Arguments
    ---------
    argv : list of str
        ``--data``, ``--loss``, ``--output``, ``--smallest``, then flags of the
        training YAML.

    Returns
    -------
    int
        0 when done, 130 when interrupted (run again to continue).
    """
    parser = argparse.ArgumentParser(
        prog="sb-margins demo",
        description="Train a small verifier, evaluate it, export it, verify voices.",
        epilog="Other flags go to the training, e.g. --number_of_epochs 5.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--data",
        help="a folder of speaker/.../audio files, or mini_librispeech; "
        "default: synthetic voices made on the spot",
    )
    parser.add_argument("--loss", default="aam", help="default: %(default)s")
    parser.add_argument("--output", help="results folder; default: results/...")
    parser.add_argument("--smallest", action="store_true", help="seconds, for checks")
    args, rest = parser.parse_known_args(argv)
    return run(training_flags(args.data, args.loss, args.output, args.smallest) + rest)


def _shown(path: str | Path) -> str:
    """A path as one would type it here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def run(flags: Sequence[str]) -> int:
    """Train with these flags, then verify with what came out."""
    from sb_margins.commands import verify_files
    from sb_margins.training.command import quiet
    from sb_margins.training.config import read_config
    from sb_margins.training.finish import finish
    from sb_margins.training.run import train
    from sb_margins.training.stopping import Interrupted

    quiet()
    start = time.monotonic()
    config = read_config(list(flags))
    if config.plain["corpus"] == "demo":
        print(SYNTHETIC + "\n")
    try:
        trained = train(config)
    except Interrupted:
        print("\nsaved; the same command again continues from here")
        return 130
    model = _shown(finish(trained))
    program = _shown(sys.argv[0]) if Path(sys.argv[0]).is_file() else "sb-margins"

    same, different = pick_pairs(trained.prepared.manifest("test"))
    print("\nDo two files hold the same voice?")
    for what, pair in (("one speaker", same), ("two speakers", different)):
        print(f"\n  {what}:")
        words = [model, *map(_shown, pair)]
        print(f"  $ {program} verify-files {shlex.join(words)}")
        verify_files.main(words)
    loss = "ham" if config.plain["loss"] != "ham" else "aam"
    print(f"\ndone in {(time.monotonic() - start) / 60:.1f} min. What next?")
    print(f"  another loss        make demo LOSS={loss}    ({program} losses: all)")
    print("  your recordings     make demo DATA=/path/to/speaker/folders")
    print(f"  compare two files   {program} verify-files {model} A.wav B.wav")
    return 0
