"""Code blocks of Markdown pages, and a folder in which what they say can run."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import soundfile

from sb_margins import cli
from sb_margins.comparison import cells, run
from sb_margins.data.demo import collect

ROOT = Path(__file__).resolve().parents[2]
# Why a block is parsed only; said above it: <!-- not run: GPU -->
REASONS = {"GPU", "hub", "installation", "minutes", "VoxCeleb"}
SHELL = ("sh", "bash", "console")
SMALL = [
    *("--number_of_epochs=1", "--channels=16", "--attention_channels=16"),
    *("--emb_dim=32", "--n_mels=24", "--batch_size=16", "--sentence_len=0.8"),
    *("--crops_per_utterance=1", "--noprogressbar"),
]
# What makes a command take seconds; all else is as the page says.
SMALLER = {
    "train": SMALL,
    "finetune": [*SMALL[0:1], *SMALL[5:]],  # features and encoder are the model's
    "compare": [*SMALL, "--losses=am,ham", "--seeds=1", "--no-geometry"],
    "demo": ["--smallest", "--number_of_epochs=1"],
    "verify": ["--bootstrap=10"],
    "metrics": ["--bootstrap=10"],
}


@dataclass(frozen=True)
class Block:
    """A code block: its language, and what the comment above it says."""

    page: str
    line: int
    language: str
    text: str
    reason: str = ""  # not run: ...
    file: str = ""  # file: the name under which later blocks find it

    def commands(self) -> list[str]:
        """Command lines, continued ones joined; of a transcript, what was typed."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.language == "console":
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        return [line.strip() for line in lines if line.strip()]


def blocks(page: Path) -> list[Block]:
    """The blocks of a page in order."""
    return parse(page.read_text(encoding="utf-8"), page.relative_to(ROOT).as_posix())


def parse(text: str, page: str) -> list[Block]:
    """The blocks of a Markdown text; an indented one holds commands."""
    pattern = re.compile(
        r"(?:^<!-- (?P<what>not run|file): (?P<value>[^\n]+?) -->\n\n?)?"
        r"(?:^```(?P<language>[^\n]*)\n(?P<fenced>.*?)^```"
        r"|(?<=\n\n)(?P<indented>(?: {4}[^\n]*\n)+))",
        re.S | re.M,
    )
    found = []
    for match in pattern.finditer(text):
        said = {match["what"]: match["value"]}
        indented = match["indented"] is not None
        body = match["indented"] if indented else match["fenced"]
        found.append(
            Block(
                page=page,
                line=text.count("\n", 0, match.start()) + 1,
                language="sh" if indented else match["language"],
                text=re.sub(r"^ {4}", "", body, flags=re.M) if indented else body,
                reason=said.get("not run", ""),
                file=said.get("file", ""),
            )
        )
    return found


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in the folder; cells of comparisons are trained in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(run, "train_cells", _train_cells)
        yield


def _train_cells(plan, data, jobs, lock):
    for cell in plan.cells:
        assert cli.main(["train", *plan.train_argv(cell), "--noprogressbar"]) == 0
        cells.mark_finished(cell, plan, jobs=jobs, machine=run.machine())
    return []


def make_workspace(folder: Path) -> None:
    """What pages name: CORPUS, a trained model in results, trial lists, scores."""
    collect(folder / "made", seed=1, speakers=16, utterances=4)
    audio = next((folder / "made").glob("*/audio"))
    shutil.move(audio, folder / "CORPUS")
    for name in ("hparams", "examples", "recipes"):
        (folder / name).symlink_to(ROOT / name)
    with inside(folder):
        run_command(
            "sb-margins train hparams/train_ecapa.yaml --data-folder CORPUS --loss ham"
        )
    results = folder / "results/ecapa_ham/1986"
    for name in ("scores.txt", "scores_a.txt", "scores_b.txt"):
        shutil.copy(results / "scores_test.txt", folder / name)
    shutil.copy(results / "data/train.csv", folder)
    voices = sorted((folder / "CORPUS").iterdir())
    few = [f.relative_to(folder / "CORPUS") for v in voices[:3] for f in v.iterdir()]
    lines = [
        f"{int(a.parent == b.parent)} {a} {b}\n"
        for a, b in itertools.combinations(few, 2)
    ]
    (folder / "trials.txt").write_text("".join(lines))


def provide_recordings(folder: Path, text: str) -> None:
    """Recordings that a block names and nobody has made yet: voices of the corpus."""
    names = re.findall(r"(?<!\w/)(?<![\w.-])\w+\.(?:wav|flac)\b", text)
    for name in sorted(set(names)):
        if not (folder / name).exists():
            voices = sorted((folder / "CORPUS").rglob("*.flac"))
            wav, rate = soundfile.read(voices[sum(name.encode()) % len(voices)])
            soundfile.write(folder / name, wav, rate)


def run_command(line: str) -> None:
    """A command of a page, made small, in this process where it is ours."""
    words = shlex.split(line, comments=True)
    if words[:1] == ["sb-margins"] and ">" not in words:
        verb, *rest = words[1:]
        status = cli.main([verb, *rest, *SMALLER.get(verb, [])])
        assert status == 0, f"{line}: exit status {status}"
    elif words:
        python = shlex.quote(sys.executable)
        command = re.sub(r"^python\b", python, line)
        command = re.sub(r"^sb-margins\b", f"{python} -m sb_margins", command)
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, shell=True, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}: {done.stderr}"
