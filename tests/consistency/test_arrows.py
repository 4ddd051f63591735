"""Folders import downward only, and no two modules import each other in a circle."""

from __future__ import annotations

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "sb_margins"
# From the bottom up. A room may import rooms of lower levels, and itself.
LEVELS = [
    {"errors", "messages", "files", "versions"},
    {"precision", "functional", "poincare", "labels", "ranks"},
    {
        *("audio", "classifiers", "encoder", "losses", "pairs", "resnet", "similarity"),
        *("speech", "tiles"),
    },
    {"heads"},
    {"data", "head", "schedules", "select"},
    {"verification"},
    {"inference", "plots"},
    {"training"},
    {"comparison"},
    {"commands", "doctor"},
    {"cli", "__main__"},
]
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
# Small files of one level may import each other; folders of one level may not.
FOLDERS = {"data", "heads", "verification", "inference", "plots", "losses"}


def modules() -> dict[str, Path]:
    """Dotted names (without ``sb_margins.``) and files of the package."""
    out = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts).removesuffix("__init__").removesuffix(".")
        if name:  # the package's own __init__ only names what is public
            out[name] = path
    return out


@cache
def imports() -> dict[str, set[str]]:
    """What each module imports of the package, also in functions and for types."""
    known = modules()
    out: dict[str, set[str]] = defaultdict(set)
    for name, path in known.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            targets: list[str] = []
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                assert not node.level, f"{name}: relative import"
                targets = [f"{node.module}.{alias.name}" for alias in node.names]
            for target in targets:
                inside = target.removeprefix("sb_margins.")
                if inside == target:
                    continue
                while inside not in known and "." in inside:
                    inside = inside.rpartition(".")[0]
                if inside in known and inside != name:
                    out[name].add(inside)
    return out


def room(module: str) -> str:
    return module.split(".")[0]


def goes_up(importer: str, imported: str) -> bool:
    """Whether this import points to a room of the same level or of a higher one."""
    above, below = room(importer), room(imported)
    if above == below:
        return False
    if LEVEL[above] == LEVEL[below]:
        return bool({above, below} & FOLDERS)
    return LEVEL[above] < LEVEL[below]


def test_every_room_has_a_level():
    rooms = {room(name) for name in modules()}
    assert rooms <= set(LEVEL), f"give a level to {sorted(rooms - set(LEVEL))}"


def test_imports_point_downward():
    wrong = [
        f"{importer} imports {imported}"
        for importer, targets in imports().items()
        for imported in sorted(targets)
        if goes_up(importer, imported)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_circles():
    """Depth-first search; a module that is met again while open closes a circle."""
    state: dict[str, str] = {}
    circles = []

    def visit(module: str, trail: tuple[str, ...]) -> None:
        state[module] = "open"
        for target in sorted(imports()[module]):
            if state.get(target) == "open":
                circles.append(" > ".join([*trail, module, target]))
            elif target not in state:
                visit(target, (*trail, module))
        state[module] = "done"

    for module in modules():
        if module not in state:
            visit(module, ())
    assert not circles, "\n".join(circles)


def test_pure_functions_need_only_torch():
    for name in ("functional", "poincare"):
        text = modules()[name].read_text(encoding="utf-8")
        assert "speechbrain" not in text
        assert not {room(m) for m in imports()[name]} - {"precision", "errors"}
