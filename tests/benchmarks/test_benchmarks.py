"""The benchmarks for a GPU, rehearsed: from end to end, and on a pretended GPU."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from unittest import mock

import losses_grid
import numpy as np
import pytest
import soundfile
import torch
from pretended_gpu import backward, pretended_gpu, to_gpu

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import gpu  # noqa: E402
import losses as heads  # noqa: E402
import measure  # noqa: E402

from sb_margins.files import unpack  # noqa: E402


def test_the_rehearsal_does_everything(tmp_path):
    out = tmp_path / "report"
    words = ["--device=cpu", "--smallest", f"--output={out}"]
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), *words]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-3000:]
    text = out.with_suffix(".md").read_text()
    for title, _ in gpu.TITLES.values():
        assert f"## {title}" in text
    report = json.loads(out.with_suffix(".json").read_text())
    assert {job["state"] for job in report["jobs"]} == {"done"}
    assert {job["part"] for job in report["jobs"]} == set(gpu.TITLES)
    rows = [row for job in report["jobs"] for row in job["rows"]]
    assert {row["verdict"] for row in rows if "verdict" in row} == {"agrees"}
    assert "failed" not in text and "LOOK" not in text
    assert len([row for row in rows if row.get("classes")]) > 20


def fine(device):
    yield {"what": "fine", "value": 1}


def fails(device):
    yield {"what": "before", "value": 2}
    raise ValueError("no good")


def dies(device):
    yield {"what": "before", "value": 3}
    os._exit(7)


def test_a_job_that_fails_or_dies_loses_nothing_else(tmp_path):
    jobs = [
        gpu.Job("machine", f.__name__, f, {"device": "cpu"})
        for f in (fine, fails, dies)
    ]
    jobs += [gpu.Job("heads", "last", fine, {"device": "cpu"})]
    gpu.run(jobs, 1, tmp_path / "out", "cpu", tmp_path)
    states = [job.state for job in jobs]
    assert states[0] == states[3] == "done"
    assert "no good" in states[1] and "exit status 7" in states[2]
    saved = json.loads((tmp_path / "out.json").read_text())["jobs"]
    assert [len(job["rows"]) for job in saved] == [1, 1, 1, 1]
    assert "no good" in (tmp_path / "out.md").read_text()


def test_no_job_starts_after_the_last_minute(tmp_path):
    jobs = [gpu.Job("machine", "m", fine, {"device": "cpu"}) for _ in range(2)]
    gpu.run(jobs, 0.0, tmp_path / "out", "cpu", tmp_path)
    assert [job.state for job in jobs] == ["done", "not started: the time is used up"]


def test_jobs_of_a_gpu_can_be_sent_to_a_process(tmp_path):
    jobs = gpu.jobs("cuda", False, None, tmp_path)
    assert {job.part for job in jobs} == set(gpu.TITLES)
    pickle.dumps(jobs)


def test_packed_speech_is_a_corpus(tmp_path, make_voice):
    for speaker in range(2):
        (tmp_path / "corpus" / f"s{speaker}").mkdir(parents=True)
        for k in range(2):
            path = tmp_path / "corpus" / f"s{speaker}" / f"{k}.flac"
            soundfile.write(path, make_voice(speaker, k, 1.0), 16000)
    (tmp_path / "corpus" / "manifest.csv").write_text("utt_id,path\na,s0/0.flac\n")
    gpu.pack(tmp_path / "corpus", tmp_path / "speech.tar", 40)
    unpack(tmp_path / "speech.tar", tmp_path / "there")
    there = tmp_path / "there"
    assert (there / "manifest.csv").read_text().endswith("s0/0.opus\n")
    wav, rate = soundfile.read(there / "s1" / "1.opus")
    kept, _ = soundfile.read(tmp_path / "corpus" / "s1" / "1.flac")
    assert rate == 16000 and wav.shape == kept.shape
    assert np.corrcoef(wav, kept)[0, 1] > 0.5
    with pytest.raises(gpu.UserError, match="larger than"):
        gpu.pack(tmp_path / "corpus", tmp_path / "speech.tar", 0.001)


@pytest.fixture
def cuda():
    """Modules move to the pretended GPU as they do to a real one."""
    move = torch.nn.Module.to

    def to(self, device=None, dtype=None):
        if torch.device(device).type != "cuda":
            return move(self, device, dtype)
        return to_gpu(self, dtype)

    with (
        mock.patch.object(torch.nn.Module, "to", to),
        mock.patch.object(torch.Tensor, "backward", backward),
        pretended_gpu() as device,
    ):
        yield device


def test_heads_on_a_pretended_gpu(cuda):
    with mock.patch.multiple(measure, WARM=1, REPEATS=1):
        rows = list(heads.compare((8, 6, 20), "cuda", 2, quickly))
    assert len(rows) > 15
    for row in rows:
        text = str(row["ms"])
        assert "failed" not in text, row
        assert "installed" in text or "peak memory, [B, C]" in row


def quickly(data):
    """Not metric-learning's, whose shapes depend on values that nobody knows here."""
    made = heads.candidates(data).items()
    return {name: build for name, build in made if "metric-learning" not in name}


def test_gradients_on_a_pretended_gpu(cuda):
    for precision in heads.HALVES:
        rows = list(heads.half_precision(precision, "cuda", (8, 6, 20)))
        assert len(rows) == 5 and "weight" in rows[0]


def test_agreement_on_a_pretended_gpu(cuda):
    with mock.patch.object(losses_grid, "FEWER_PAIRS", [("cosine", "aam")]):
        (row,) = gpu.agreement("cuda", (8, 6, 20))
    assert "float32 recomputed" in row
