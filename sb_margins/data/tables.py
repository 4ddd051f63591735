"""The one reader and writer of CSV tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
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


def write_table(
    path: str | Path, header: Iterable[str], rows: Iterable[Iterable[Any]]
) -> None:
    """Write a CSV whole."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())
