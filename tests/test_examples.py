"""The scripts of examples/ run and end well."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def test_plain_pytorch(capsys):
    runpy.run_path(str(EXAMPLES / "plain_pytorch.py"), run_name="__main__")
    errors = [float(x) for x in re.findall(r"([\d.]+) %", capsys.readouterr().out)]
    assert errors[0] > 40 and errors[-1] < 20, errors


def test_every_example_is_tested():
    assert [path.name for path in EXAMPLES.glob("*.py")] == ["plain_pytorch.py"]
