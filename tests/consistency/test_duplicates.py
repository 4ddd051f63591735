"""No six lines of code stand twice in the package without a reason."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "sb_margins"
LINES = 6


def code_lines(path: Path) -> list[tuple[int, str]]:
    """Numbered lines of code: no docstrings, signatures, imports, comments."""
    text = path.read_text(encoding="utf-8")
    skipped: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        alone = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if alone or isinstance(node, (ast.Import, ast.ImportFrom)):
            skipped |= set(range(node.lineno, (node.end_lineno or 0) + 1))
        if isinstance(node, ast.FunctionDef):  # overrides repeat a signature
            skipped |= set(range(node.lineno, node.body[0].lineno))
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        code = "".join(line.split())
        if (
            number not in skipped
            and not code.startswith("#")
            and code.strip("()[]{},:")
        ):
            lines.append((number, code))
    return lines


def repeated() -> dict[tuple[str, str], list[tuple[int, int]]]:
    """Pairs of files, and where in each the first of six equal lines stands."""
    places = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        lines = code_lines(path)
        for i in range(len(lines) - LINES + 1):
            window = tuple(code for _, code in lines[i : i + LINES])
            name = path.relative_to(PACKAGE).as_posix()
            places[window].append((name, lines[i][0]))
    pairs = defaultdict(list)
    for (first, a), *others in places.values():
        for second, b in others:
            pairs[first, second].append((a, b))
    return pairs


def test_nothing_stands_twice():
    found = [
        f"{first}:{spots[0][0]} ~ {second}:{spots[0][1]}"
        for (first, second), spots in repeated().items()
    ]
    assert not found, "the same six lines:\n" + "\n".join(found)
