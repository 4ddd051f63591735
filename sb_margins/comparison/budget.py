"""Equal time instead of equal updates: as many epochs as fit in the minutes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import IO

from sb_margins.comparison.plan import Cell, Plan
from sb_margins.comparison.trainings import INTERRUPTED, _last_line, _start, stop
from sb_margins.errors import UserError
from sb_margins.files import write_json
from sb_margins.training.history import History


def epochs_for(minutes: float, seconds_per_epoch: float) -> int:
    """How many epochs fit.

    Example
    -------
    >>> epochs_for(10, 55.0), epochs_for(0.1, 55.0)
    (10, 1)
    """
    return max(1, int(60 * minutes / seconds_per_epoch))


def known_epochs(plan: Plan, minutes: float) -> dict[str, int]:
    """The epochs that were chosen before, by the label of the variant.

    Arguments
    ---------
    plan : Plan
    minutes : float
        The budget asked for now.

    Returns
    -------
    dict of str to int

    Raises
    ------
    UserError
        When the folder belongs to another budget.

    Example
    -------
    >>> known_epochs(Plan(Path("t.yaml"), [], [], [1], Path("nowhere"), "am"), 5)
    {}
    """
    path = plan.output / "budget.json"
    if not path.is_file():
        return {}
    kept = json.loads(path.read_text(encoding="utf-8"))
    if kept["minutes"] != minutes:
        raise UserError(
            f"{plan.output} was begun with --budget {kept['minutes']:g}, not "
            f"{minutes:g}. Choose another --output"
        )
    return dict(kept["epochs"])


def fix_epochs(plan: Plan, minutes: float, lock: IO[str]) -> dict[str, int]:
    """Time one epoch of each variant, alone on the machine, and choose its epochs.

    What was chosen is kept in ``budget.json``, so that a continued comparison keeps
    to it.

    Arguments
    ---------
    plan : Plan
    minutes : float
        Of training with its dev evaluations, for each cell.
    lock : file
        From ``locked``.

    Returns
    -------
    dict of str to int
        Epochs by the label of the variant.

    Raises
    ------
    UserError
        When the folder belongs to another budget, or a timing fails.

    Example
    -------
    >>> plan = Plan(Path("t.yaml"), [], [], [1], Path("nowhere"), "am")
    >>> with open(getfixture("tmp_path") / "lock", "w") as lock:
    ...     fix_epochs(plan, 5, lock)
    {}
    """
    path = plan.output / "budget.json"
    known = known_epochs(plan, minutes)
    for variant in plan.variants:
        if variant.label in known:
            continue
        folder = plan.output / "timing" / variant.slug
        shutil.rmtree(folder, ignore_errors=True)
        seconds = _time(plan, Cell(variant, plan.seeds[0], folder), lock)
        known[variant.label] = epochs_for(minutes, seconds)
        print(
            f"{variant.label}: {seconds:.1f} s an epoch: {known[variant.label]} epochs "
            f"in {minutes:g} min",
            flush=True,
        )
        write_json(path, {"minutes": minutes, "epochs": known})
        shutil.rmtree(folder, ignore_errors=True)
    return {variant.label: known[variant.label] for variant in plan.variants}


def _time(plan: Plan, cell: Cell, lock: IO[str]) -> float:
    """Seconds of one epoch of training with its dev evaluation."""
    short = Plan(
        plan.path,
        [*plan.flags, "--number_of_epochs=1"],
        [cell.variant],
        [cell.seed],
        Path(plan.output),
        cell.variant.label,
    )
    process = _start(short, cell, 0, 1, lock).process
    try:
        status = process.wait()
    except BaseException:
        stop([process])
        raise
    if status == INTERRUPTED:
        raise KeyboardInterrupt
    if status:
        raise UserError(
            f"{cell.variant.label} cannot be timed: "
            f"{_last_line(cell.folder / 'train.log')}"
        )
    return History(cell.folder / "history.csv").rows[-1]["seconds"]
