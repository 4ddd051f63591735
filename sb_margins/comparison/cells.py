"""Cells on disk: which are finished, which were cut off, which are somebody else's."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from sb_margins.comparison.plan import (
    Cell,
    Plan,
    data_fingerprint,
    fingerprint,
    settings_of_cell,
)
from sb_margins.data import Prepared
from sb_margins.errors import UserError
from sb_margins.files import write_json
from sb_margins.training.checks import check_same_run

MARKER = "finished.json"


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def results_of(folder: Path) -> list[Path]:
    """The files of a finished cell that a report is made of.

    Example
    -------
    >>> [path.name for path in results_of(Path("cell"))]
    ['history.csv', 'metrics.json', 'run.json']
    """
    fixed = [folder / name for name in ("history.csv", "metrics.json", "run.json")]
    return fixed + sorted(folder.glob("scores_*.txt"))


def mark_finished(cell: Cell, plan: Plan, **facts: Any) -> None:
    """Write the marker of a finished cell: last, and in one step.

    Arguments
    ---------
    cell : Cell
    plan : Plan
    **facts
        What else to keep, e.g. the seconds it took.

    Raises
    ------
    UserError
        When its results are not all there.

    Example
    -------
    >>> from sb_margins.comparison.variants import Variant
    >>> cell = Cell(Variant("am"), 1, getfixture("tmp_path"))
    >>> plan = Plan(Path("t.yaml"), [], [cell.variant], [1], Path("out"), "am")
    >>> mark_finished(cell, plan)
    Traceback (most recent call last):
    ...
    sb_margins.errors.UserError: am, seed 1: the training ended without history.csv...
    """
    files = results_of(cell.folder)
    for path in files:
        if not path.is_file():
            raise UserError(
                f"{cell.label}: the training ended without {path.name}; see "
                f"{cell.folder / 'train.log'}"
            )
    if not list(cell.folder.glob("scores_*.txt")):
        raise UserError(
            f"{cell.label}: there are no trial lists to compare on. Give the corpus "
            "trials, or speakers with two utterances in its dev and test splits"
        )
    told = {
        "configuration": fingerprint(plan.config(cell)),
        "data": data_fingerprint(Prepared.load(cell.folder / "data")),
        "files": {path.name: _hash(path) for path in files},
        **facts,
    }
    write_json(cell.folder / MARKER, told)


def finished(cell: Cell, plan: Plan, data: str) -> dict[str, Any] | None:
    """The marker of a cell that need not be trained again.

    Arguments
    ---------
    cell : Cell
    plan : Plan
    data : str
        ``data_fingerprint`` of the comparison's corpus.

    Returns
    -------
    dict or None
        None when it is not finished: the training goes on where it was.

    Raises
    ------
    UserError
        When the folder holds another configuration, other data, or results that are
        not what was written.

    Example
    -------
    >>> from sb_margins.comparison.variants import Variant
    >>> cell = Cell(Variant("am"), 1, getfixture("tmp_path"))
    >>> plan = Plan(Path("t.yaml"), [], [cell.variant], [1], Path("out"), "am")
    >>> finished(cell, plan, "") is None
    True
    """
    folder = cell.folder
    _drop_torn(folder)
    if (folder / "run.json").is_file():
        check_same_run(folder, settings_of_cell(plan.config(cell)))
    path = folder / MARKER
    if not path.is_file():
        return None
    again = f"Delete {folder} to have it trained again"
    try:
        marker = json.loads(path.read_text(encoding="utf-8"))
        files = dict(marker["files"])
        told = marker["configuration"], marker["data"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a marker of ours ({error}). {again}") from error
    for name, before in files.items():
        if not (folder / name).is_file():
            raise UserError(
                f"{cell.label} is marked finished but has no {name}. {again}"
            )
        if _hash(folder / name) != before:
            raise UserError(f"{folder / name} was changed after the training. {again}")
    if told[0] != fingerprint(plan.config(cell)):
        raise UserError(
            f"{folder} was trained with another version of {plan.path.name} or other "
            f"run options. Choose another --output, or delete it"
        )
    if told[1] != data:
        raise UserError(
            f"{folder} was trained and evaluated on other data than this comparison "
            "(its manifests or trial lists differ): such figures cannot stand in one "
            "table. Choose another --output, or delete it"
        )
    return marker


def _drop_torn(folder: Path) -> None:
    """Remove what a kill in the first moments left half-written."""
    path = folder / "run.json"
    if not path.is_file():
        return
    try:
        json.loads(path.read_text(encoding="utf-8"))["settings"]
    except (ValueError, KeyError, TypeError) as error:
        if list((folder / "save").glob("CKPT*")) or (folder / MARKER).exists():
            raise UserError(
                f"{path} is damaged, so it is not known what {folder} holds. Delete "
                "the folder to have it trained again"
            ) from error
        shutil.rmtree(folder)


@contextmanager
def locked(output: Path) -> Iterator[IO[str]]:
    """Only one comparison at a time works in a folder.

    The lock goes on to the trainings: while one of them lives, also when the
    comparison itself was killed, nobody else writes there.

    Arguments
    ---------
    output : Path

    Yields
    ------
    file
        To be passed to the processes that train.

    Raises
    ------
    UserError
        When another one is at work.

    Example
    -------
    >>> with locked(getfixture("tmp_path")) as lock:
    ...     lock.closed
    False
    """
    import fcntl

    output.mkdir(parents=True, exist_ok=True)
    with open(output / ".lock", "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"another comparison, or a training of one, is at work in {output}. "
                "Wait for it, or choose another --output"
            ) from error
        yield file
