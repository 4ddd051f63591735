"""The one reader of CSV tables and of lists in lines, and the writer of tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sb_margins.errors import UserError
from sb_margins.files import read_text, write_text


class Row(NamedTuple):
    """A row: its line, the wanted columns under our names, the others that are set."""

    line: int
    known: dict[str, str]
    others: dict[str, str]


def read_table(path: str | Path, **columns: Sequence[str]) -> Iterator[Row]:
    """Read a CSV with a header.

    ``columns`` are the wanted ones: our name, and the names it may have in the file.
    Raises when one is missing, unless its names end with an empty one.
    """
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    header = [name for name in reader.fieldnames or () if name]
    found = {}
    for column, names in columns.items():
        found[column] = next((name for name in names if name in header), "")
        if not found[column] and "" not in names:
            raise UserError(
                f"{path} has no column {' or '.join(names)}; it has: "
                f"{', '.join(header) or 'nothing'}"
            )
    others = [name for name in header if name not in found.values()]
    for row in reader:
        yield Row(
            reader.line_num,
            {column: name and (row[name] or "") for column, name in found.items()},
            {name: row[name] for name in others if row[name]},
        )


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is not empty."""
    for number, line in enumerate(io.StringIO(read_text(path), newline=None), 1):
        if text := line.strip():
            yield number, text


def read_columns(
    path: Path,
    widths: Collection[int],
    expected: str,
    *,
    commas: bool = False,
    is_header: Callable[[list[str]], bool] = lambda words: False,
) -> tuple[list[int], list[tuple[str, ...]]]:
    """Line numbers and columns of a list whose lines have equally many words.

    White space, and maybe commas, stand between words. Lines before the first row that
    ``is_header`` are left out. ``expected`` is for the error at a line of other widths.
    """
    numbers: list[int] = []
    rows: list[list[str]] = []
    for number, line in read_lines(path):
        words = (line.replace(",", " ") if commas else line).split()
        if not words or (not rows and is_header(words)):
            continue
        if len(words) not in widths or (rows and len(words) != len(rows[0])):
            raise UserError(
                f"{path}, line {number}: found '{line[:80]}', expected {expected}"
            )
        numbers.append(number)
        rows.append(words)
    return numbers, list(zip(*rows, strict=True))


def write_table(
    path: str | Path, header: Iterable[str], rows: Iterable[Iterable[Any]]
) -> None:
    """Write a CSV whole."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())
