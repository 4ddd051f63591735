"""Trainings whose classes are spread over processes, against one process."""

import shutil
import socket

import pytest
import spread_training
import torch
from trainings import in_a_process

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="torch was built without gloo",
)


def train(size, folder, epochs, dies=False):
    """The exit statuses of the ranks, and what they said."""
    folder.mkdir(exist_ok=True)
    if size == 1:
        for loss in spread_training.LOSSES:
            spread_training.train(loss, folder / loss, 1, epochs)
        return [0], [""]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    logs = [folder / f"log_{rank}" for rank in range(size)]
    words = (size, port, folder, epochs, dies)
    started = [
        in_a_process(spread_training.main, rank, *words, log=log)
        for rank, log in enumerate(logs)
    ]
    for process in started:
        process.join()
    return [p.exitcode for p in started], [log.read_text() for log in logs]


def newest(folder, loss):
    """The weights and the optimizer's state of the newest checkpoint."""
    place = max((folder / loss).glob("CKPT+*"), key=lambda path: path.name)
    names = ("embedding_model", "head", "optimizer")
    return [torch.load(place / f"{n}.ckpt", weights_only=True) for n in names]


def assert_equal(one, other):
    """The checkpoints of two folders to the rounding of sums."""
    for loss in spread_training.LOSSES:
        torch.testing.assert_close(
            newest(one, loss), newest(other, loss), rtol=1e-7, atol=1e-9
        )


def test_any_number_of_processes_trains_and_continues_alike(tmp_path):
    alone, two = tmp_path / "alone", tmp_path / "two"
    train(1, alone, 1)
    codes, logs = train(2, two, 1)
    assert codes == [0, 0], logs
    assert_equal(two, alone)  # one has checkpoints as the other's, too
    three, one = (tmp_path / name for name in ("three", "one"))
    for folder in (three, one):
        shutil.copytree(two, folder)
    train(1, alone, 2)
    train(1, one, 2)
    codes, logs = train(3, three, 2)
    assert codes == [0, 0, 0], logs
    assert_equal(one, alone)
    assert_equal(three, alone)

    # a rank is killed; the other says so in one line, and the epoch before is there
    codes, logs = train(2, two, 2, dies=True)
    assert codes == [2, -9]
    assert logs[0].strip().splitlines()[-1].startswith("another process of this run")
    train(1, two, 2)
    assert_equal(two, alone)
