"""``sb-margins compare``: which loss should I use? Trainings side by side, a report."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
from collections.abc import Sequence
from typing import Any

from sb_margins.comparison.budget import fix_epochs, known_epochs
from sb_margins.comparison.cells import locked
from sb_margins.comparison.plan import Plan, data_fingerprint, make_plan
from sb_margins.comparison.report import write_report
from sb_margins.comparison.results import load
from sb_margins.comparison.trainings import train_cells
from sb_margins.errors import UserError

EXAMPLE = """example:
  sb-margins compare hparams/train_ecapa.yaml --losses am,aam,ham --seeds 3 \\
      --set ham.curvature=2,3,5 --data_folder CORPUS --output results/compare

The same command again continues where it was; trainings that are finished are never
run again. Every other flag goes to the trainings, e.g. --number_of_epochs 20."""


def parser() -> argparse.ArgumentParser:
    """The flags of the command.

    Example
    -------
    >>> parser().parse_args(["t.yaml", "--losses", "am,ham"]).seeds
    3
    """
    flags = argparse.ArgumentParser(
        prog="sb-margins compare",
        description="Train losses side by side and write one report.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    flags.add_argument("file", help="a training YAML, e.g. hparams/train_ecapa.yaml")
    flags.add_argument(
        "--losses", required=True, help="names, separated by commas: sb-margins losses"
    )
    flags.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="LOSS.SETTING=VALUE,...",
        help="values of a setting, each trained; the best on dev is marked",
    )
    flags.add_argument(
        "--seeds", type=int, default=3, help="trainings of each; default: %(default)s"
    )
    flags.add_argument("--baseline", help="a loss or system; default: the first loss")
    flags.add_argument(
        "--output", default="results/compare", help="default: %(default)s"
    )
    flags.add_argument(
        "--jobs", type=int, default=1, help="trainings at a time; default: %(default)s"
    )
    flags.add_argument(
        "--budget",
        type=float,
        metavar="MINUTES",
        help="equal training time instead of equal updates: as many epochs as fit",
    )
    flags.add_argument(
        "--replicates",
        type=int,
        default=2000,
        help="bootstrap replicates; default: %(default)s",
    )
    flags.add_argument(
        "--report-only",
        action="store_true",
        help="train nothing, report what is finished",
    )
    flags.add_argument(
        "--no-geometry",
        action="store_true",
        help="leave out the pictures of the embeddings",
    )
    return flags


def main(argv: list[str]) -> int:
    """Train what is missing, write the report.

    Arguments
    ---------
    argv : list of str
        A training YAML, flags, and flags of the training.

    Returns
    -------
    int
        0 when all is done, 1 when a training failed, 130 when interrupted.
    """
    from sb_margins.training.command import quiet
    from sb_margins.training.run import prepare_corpus

    args, rest = parser().parse_known_args(argv)
    _check(args)
    quiet()
    plan = make_plan(
        args.file,
        args.losses,
        args.seeds,
        args.output,
        sets=args.set,
        baseline=args.baseline,
        flags=rest,
    )
    for variant in plan.variants:
        plan.config(plan.cells[plan.variants.index(variant)])  # refused before hours
    failed: list[str] = []
    with locked(plan.output) as lock:
        if not args.report_only:
            prepared = prepare_corpus(plan.config_of_all().plain)
            before = signal.signal(signal.SIGTERM, _stop)
            try:
                if args.budget is not None:
                    plan.epochs = fix_epochs(plan, args.budget, lock)
                data = data_fingerprint(prepared)
                failed = train_cells(plan, data, args.jobs, lock)
            except KeyboardInterrupt:
                print("\nsaved; the same command again continues from here")
                return 130
            finally:
                signal.signal(signal.SIGTERM, before)
        elif args.budget is not None:
            plan.epochs = known_epochs(plan, args.budget)
        again = [word for word in argv if word != "--report-only"]
        _report(plan, args, shlex.join(["sb-margins", "compare", *again]))
    for problem in failed:
        print(problem)
    return 1 if failed else 0


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt


def _check(args: argparse.Namespace) -> None:
    if args.jobs < 1:
        raise UserError(f"--jobs {args.jobs}: at least one training at a time")
    if args.budget is not None and not args.budget > 0:
        raise UserError(f"--budget {args.budget:g}: give minutes, more than 0")
    if args.replicates < 100:
        raise UserError(
            f"--replicates {args.replicates}: intervals need 100 or more (2000 is good)"
        )


def _report(plan: Plan, args: argparse.Namespace, command: str) -> None:
    comparison = load(plan)
    page = write_report(
        comparison,
        command,
        replicates=args.replicates,
        geometry=not args.no_geometry,
        minutes=args.budget,
    )
    told: Sequence[str] = [
        f"{os.path.relpath(page)}",
        f"{os.path.relpath(page.with_suffix('.md'))}",
    ]
    print(f"wrote {' and '.join(told)}")
