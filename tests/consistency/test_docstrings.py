"""Every public class and function says what it is, takes and gives, with an example."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "sb_margins").rglob("*.py"))
HEADINGS = ("Arguments", "Returns", "Yields", "Raises", "Example")
# An example of these would be a whole training, a results folder or a model folder;
# tests/integration and tests/recipes show them at work.
NEED_A_RUN = {
    "demo.py": {"run"},
    "training/accumulation.py": {"WindowedBrain"},
    "training/brain.py": {"SpeakerBrain"},
    "training/checkpoints.py": {"checkpointer_for"},
    "training/checks.py": {"write_run"},
    "training/command.py": {"quiet"},
    "training/config.py": {"TrainingConfig"},
    "training/finish.py": {"finish"},
    "training/initial.py": {"start_from"},
    "training/processes.py": {"ProcessBrain"},
    "training/run.py": {
        "Trained",
        "prepare_corpus",
        "settings_of",
        "train",
        "validation",
    },
    "training/selection.py": {"load_final"},
    "training/stopping.py": {"Interrupted"},
    "verification/sources.py": {"embed", "load_cohort", "load_system"},
}


def public(tree: ast.Module):
    """Top-level public classes and functions of a module."""
    for node in tree.body:
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        if isinstance(node, kinds) and not node.name.startswith("_"):
            yield node


def documented_arguments(node: ast.FunctionDef) -> list[str]:
    """Names of the parameters that a reader would want to know."""
    names = [a.arg for a in [*node.args.posonlyargs, *node.args.args]]
    names += [a.arg for a in node.args.kwonlyargs]
    return [n for n in names if n not in ("self", "cls") and not n.startswith("_")]


def identify(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_public_names_are_documented(path):
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    if tree.body:
        assert ast.get_docstring(tree), "the module says nothing about itself"
    exempt = NEED_A_RUN.get(path.relative_to(ROOT / "sb_margins").as_posix(), set())
    wanting = []
    for node in public(tree):
        text = ast.get_docstring(node) or ""
        shown = text
        if isinstance(node, ast.ClassDef):  # an example in a method shows it as well
            shown = ast.get_source_segment(source, node) or ""
        if not text:
            wanting.append(f"{node.name}: no docstring")
        elif ">>>" not in shown and node.name not in exempt | {"main"}:
            wanting.append(f"{node.name}: no example")
    assert not wanting, "\n".join(wanting)


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_headings_are_underlined_exactly(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    wrong = []
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            continue
        lines = (ast.get_docstring(node) or "").splitlines()
        for heading, under in zip(lines, lines[1:], strict=False):
            if re.fullmatch("-{3,}", under) and heading not in HEADINGS:
                wrong.append(f"{node.name}: heading '{heading}'")
            if heading in HEADINGS and under != "-" * len(heading):
                wrong.append(f"{node.name}: '{heading}' is not underlined")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_listed_arguments_exist(path):
    """A documented argument that is not in the signature misleads."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    wrong = []
    for node in public(tree):
        if not isinstance(node, ast.FunctionDef) or node.args.kwarg:
            continue
        text = ast.get_docstring(node) or ""
        part = re.search(
            r"^Arguments\n-+\n(.*?)(?=\n\n\w+\n-{3,}|\Z)", text, re.S | re.M
        )
        if not part:
            continue
        listed = re.findall(r"^(\w[\w, *]*) : ", part.group(1), re.M)
        names = {n.strip(" *") for line in listed for n in line.split(",")}
        have = set(documented_arguments(node)) | {
            a.arg for a in (node.args.vararg,) if a is not None
        }
        wrong += [f"{node.name}: no argument {n}" for n in sorted(names - have)]
    assert not wrong, "\n".join(wrong)
