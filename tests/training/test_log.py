"""History, means over an epoch, where embeddings lie."""

import math

import pytest
import torch

from sb_margins.classifiers import PoincareClassifier
from sb_margins.errors import UserError
from sb_margins.select import head
from sb_margins.training.log import (
    History,
    Tally,
    edge_distance,
    embedding_figures,
    prototype_figures,
)


def test_history_replaces_epochs_that_run_again(tmp_path):
    history = History(tmp_path / "history.csv")
    for epoch in (0, 1, 2, 3):
        history.add({"epoch": epoch, "EER": 0.5 - 0.1 * epoch})
    again = History(tmp_path / "history.csv")
    again.add({"epoch": 2, "EER": 0.05, "loss": 1.0})
    again = History(tmp_path / "history.csv")
    assert [r["epoch"] for r in again.rows] == [0, 1, 2]
    assert again.best == {"epoch": 2, "EER": 0.05, "loss": 1.0}


def test_a_line_shows_the_epoch(tmp_path):
    history = History(tmp_path / "history.csv")
    row = {"epoch": 1, "loss": 2.5, "accuracy": 0.255, "EER": 0.125, "seconds": 3.0}
    line = "epoch  1/20  loss 2.500  acc 25.5 %  dev EER 12.50 %  3 s"
    assert history.line(row, 20) == line
    more = {"margin": 0.2, "lr": 0.001, "minDCF(0.01)": 0.5, "utt/s": 9.0, "other": 1}
    line = "epoch 1/2  margin 0.20  lr 1.0e-03  minDCF(0.01) 0.500  9 utt/s"
    assert history.line({"epoch": 1, **more}, 2) == line


@pytest.mark.parametrize("text", ["epoch,EER\n1,x\n", "a,b\n1,2\n", "epoch\n1,2\n"])
def test_a_damaged_history_is_refused(tmp_path, text):
    (tmp_path / "history.csv").write_text(text)
    with pytest.raises(UserError, match="is damaged"):
        History(tmp_path / "history.csv")


def test_sums_go_through_a_checkpoint():
    tally = Tally()
    tally.add(2, {"a": torch.tensor(1.0), "b": torch.tensor(math.inf)})
    again = Tally()
    again.load(tally.state())
    again.add(6, {"a": torch.tensor(3.0), "b": torch.tensor(4.0)})
    assert again.means() == {"a": 2.5, "b": 4.0}


def test_distance_from_the_edge():
    unit = PoincareClassifier(2, 3, curvature=4.0)
    points = torch.tensor([[0.0, 0.0], [0.25, 0.0], [9.0, 0.0]])
    torch.testing.assert_close(
        edge_distance(unit, points), torch.tensor([1, 0.5, 0]), atol=1e-4, rtol=0
    )
    textbook = PoincareClassifier(2, 3, curvature=4.0, metric="curvature")
    expected = 1 - torch.tanh(2.0 * points.norm(dim=1))
    torch.testing.assert_close(
        edge_distance(textbook, points), expected, atol=1e-6, rtol=0
    )


def test_figures_of_every_geometry():
    vectors = torch.tensor([[3.0, 4.0, 0, 0], [0, 0, 0, 1.0]])
    cosine = head("aam", 4, 3)
    assert embedding_figures(cosine, vectors) == {"embedding_norm": torch.tensor(3.0)}
    assert prototype_figures(cosine) == {}
    ball = head("h", 4, 3)
    assert sorted(embedding_figures(ball, vectors)) == [
        "embedding_edge",
        "embedding_norm",
    ]
    figures = prototype_figures(ball)
    edges = edge_distance(ball.classifier, ball.classifier.weight.detach())
    assert figures["prototype_edge"] == pytest.approx(float(edges.mean()))
    assert figures["prototype_edge_min"] == float(edges.min())
    assert "1.embedding_edge" in embedding_figures(head("joint", 4, 3), vectors)
