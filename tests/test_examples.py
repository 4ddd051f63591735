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


def run(name, capsys):
    """The percentages that an example prints."""
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return [float(x) for x in re.findall(r"([\d.]+)%", capsys.readouterr().out)]


def test_text_classification(capsys):
    right = run("text_classification.py", capsys)[::2]
    assert right[0] < 30 and right[-1] > 60, right


def test_overlapping_speakers(capsys):
    found = run("overlapping_speakers.py", capsys)
    assert found[0] < 10 and found[-1] > 60, found


def test_every_example_is_tested():
    # verify_onnx is tested in inference/test_graph.py
    tested = {"plain_pytorch", "text_classification", "overlapping_speakers"}
    tested |= {"verify_onnx"}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested
