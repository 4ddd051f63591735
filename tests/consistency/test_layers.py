"""The arrows between the rooms run one way."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "sb_margins"
# room -> what it may not import, at any depth of a function
FORBIDDEN = {
    "functional.py": ("sb_margins.", "speechbrain"),
    "poincare.py": ("sb_margins.training", "sb_margins.losses", "speechbrain"),
    "losses": ("sb_margins.training", "sb_margins.verification", "sb_margins.data"),
    "classifiers.py": ("sb_margins.training", "sb_margins.losses"),
    "verification": ("sb_margins.training",),
    "inference": ("sb_margins.training",),
    "data": ("sb_margins.training", "sb_margins.verification", "sb_margins.inference"),
}


def imports(path: Path) -> set[str]:
    """Everything that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("room", FORBIDDEN)
def test_arrows_run_one_way(room):
    place = PACKAGE / room
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
    assert files
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in files
        for name in sorted(imports(path))
        if any((name + ".").startswith(bad) for bad in FORBIDDEN[room])
    ]
    assert not wrong, "\n".join(wrong)
