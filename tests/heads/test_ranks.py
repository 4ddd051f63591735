"""A head whose classes are spread over processes equals one that has them all."""

import socket

import pytest
import rank_worker
import torch
from trainings import in_a_process

from sb_margins import select
from sb_margins.errors import UserError

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="torch was built without gloo",
)


@pytest.mark.parametrize("size", [2, 4])
def test_losses_and_gradients_of_one_process(size, tmp_path):
    """To 1e-10, for every loss on every classifier; whole weights load into shares."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    logs = [tmp_path / str(rank) for rank in range(size)]
    started = [
        in_a_process(rank_worker.main, rank, size, port, log=log)
        for rank, log in enumerate(logs)
    ]
    for process in started:
        process.join()
    for process, log in zip(started, logs, strict=True):
        assert process.exitcode == 0, log.read_text()[-3000:]


@pytest.mark.parametrize(
    "loss", ["ge2e", "angular_prototypical", "centre", "multi_label_as"]
)
def test_what_cannot_be_spread_is_refused(loss):
    head = select.head(loss, 4, 6)
    with pytest.raises(UserError, match="^class_parallel: .*leave class_parallel out$"):
        head.spread()
