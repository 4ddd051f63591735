"""Two processes that train together (gloo, CPU), against one on both their batches."""

import json
import shutil
import socket
import subprocess
import sys

import ddp_worker
import pytest
import torch
from trainings import flags, in_a_process

from sb_margins.cli import main as cli

RUN = ["--device=cpu", "--distributed_backend=gloo", "--noprogressbar"]
# One process sums over both halves of a batch at once, two do it in turn: float32
# rounding, which training amplifies (most in a ball, where it doubles every few steps).
# Tolerances are relative; the second is for the losses on a ball after 20 steps.
CLOSE, CLOSE_LATER, ATOL = 1e-4, 3e-2, 1e-5

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="torch was built without gloo",
)


def torchrun(*words):
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [sys.executable, *launch, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def curves(tmp_path_factory):
    """What each rank and a process alone noted, case by case."""
    out = tmp_path_factory.mktemp("ddp")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    env = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    ranks = [
        in_a_process(
            ddp_worker.main,
            out,
            *RUN,
            log=out / f"log_{rank}",
            env={**env, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    for rank, process in enumerate(ranks):
        process.join()
        assert process.exitcode == 0, (out / f"log_{rank}").read_text()[-3000:]
    ddp_worker.main(out, "--device=cpu", "--noprogressbar")
    names = ("rank_0", "rank_1", "rank_one")
    read = [json.loads((out / f"{n}.json").read_text()) for n in names]
    return list(zip(*read, strict=True))


def test_ranks_stay_identical_and_equal_one_process(curves):
    assert len(curves) == 8
    for first, second, alone in curves:
        assert len(first["steps"]) == 50, first["name"]
        ours = [x[1:] for x in first["steps"]]  # windows and checksums of weights
        assert ours == [x[1:] for x in second["steps"]], first["name"]
        losses = [torch.tensor([x[0] for x in r["steps"]]) for r in (first, second)]
        both = (losses[0] + losses[1]) / 2
        one = torch.tensor([x[0] for x in alone["steps"]])
        ball = first["name"] in ("h", "ham", "joint")
        for steps, rtol in (slice(20), CLOSE), (slice(50), CLOSE_LATER):
            rtol = rtol if ball else CLOSE
            torch.testing.assert_close(both[steps], one[steps], rtol=rtol, atol=ATOL)
        assert [x[1] for x in alone["steps"]] == [x[1] for x in first["steps"]]
        assert one[-10:].mean() < one[:10].mean()  # it did learn
        # The epoch's mean is over the samples of both ranks.
        assert first["mean"] == pytest.approx(float(both.mean()), rel=1e-5)


def test_windows_do_change(curves):
    windows = {x[1] for x in curves[6][0]["steps"]}
    assert curves[6][0]["name"] == "real_am" and len(windows) > 1


def test_torchrun_trains_and_evaluates(tiny_corpus, tmp_path):
    more = ["--number_of_epochs=1", "--batch_size=4", "--class-parallel"]
    words = flags(tiny_corpus, tmp_path / "run", *more)
    done = torchrun("-m", "sb_margins.cli", "train", *words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("epoch 1/1") == 1  # one process reports
    if not torch.cuda.is_available():  # chosen without a flag
        assert "2 processes train together (gloo)" in done.stdout
        assert "each has" in done.stdout  # of the classes
    for name in ("metrics.json", "history.csv", "model"):
        assert (tmp_path / "run" / name).exists()

    one = tmp_path / "one"  # one process goes on with it: the same model comes out
    shutil.copytree(tmp_path / "run", one)
    shutil.rmtree(one / "model")
    assert cli(["train", *flags(tiny_corpus, one, *more)]) == 0
    exported = [p for p in (tmp_path / "run" / "model").rglob("*") if p.is_file()]
    assert len(exported) > 4
    for path in exported:
        other = one / "model" / path.relative_to(tmp_path / "run" / "model")
        assert path.read_bytes() == other.read_bytes(), path.name
