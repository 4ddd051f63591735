"""Distances of a trained model, points of the maps, radius against confusability."""

import numpy as np
import pytest
import torch

from sb_margins.classifiers import CosineClassifier, PoincareClassifier
from sb_margins.comparison.embeddings import (
    TrainedModel,
    about_speakers,
    choose_points,
    embed,
    evenly,
)
from sb_margins.comparison.geometry import (
    mean_and_spread,
    radius_against_confusability,
)
from sb_margins.data import Manifest, Utterance
from sb_margins.similarity import CosineSimilarity, PoincareSimilarity


def ball(curvature, metric="unit"):
    similarity = PoincareSimilarity(curvature, metric)
    return TrainedModel(
        None, None, PoincareClassifier(2, 3, curvature, metric), similarity
    )


def test_distances_on_the_unit_ball():
    model = ball(5.0)
    radii = model.radii(np.array([[0.1, 0.0], [9.0, 0.0]]))
    assert radii == pytest.approx(2 * np.arctanh([0.1, 5**-0.5]), rel=1e-3)
    assert model.edge == pytest.approx(5**-0.5) and model.hyperbolic
    assert model.prototypes.shape == (3, 2)


def test_distances_of_the_textbook_ball_are_of_curvature_minus_1():
    """A tangent vector of length t lies at 2 t of the metric, times root c."""
    model = ball(4.0, "curvature")
    assert model.radii(np.array([[0.3, 0.0]])) == pytest.approx([2 * 2 * 0.3], rel=1e-4)
    assert model.edge == 1.0


def test_angles_of_a_cosine_model():
    model = TrainedModel(None, None, CosineClassifier(2, 4), CosineSimilarity())
    points = np.array([[2.0, 0.0], [0.0, 0.5], [-1.0, 0.0]])
    expected = np.array([[0, 1, 2], [1, 0, 1], [2, 1, 0]]) * np.pi / 2
    assert model.among(points) == pytest.approx(expected)
    assert (model.among(points) == model.among(points).T).all() and not model.hyperbolic
    assert model.prototypes.shape == (4, 2)


def test_rounding_beyond_1_is_no_angle():
    class Rounded:
        def matrix(self, a, b):
            return torch.tensor([[1 + 1e-9, -1 - 1e-9]], dtype=torch.float64)

    model = TrainedModel(None, None, CosineClassifier(2, 4), Rounded())
    assert model.distances(np.ones((1, 2)), np.ones((2, 2))).tolist() == [[0, np.pi]]


def test_several_prototypes_a_class_are_not_shown():
    several = CosineClassifier(2, 4, sub_centers=2)
    assert TrainedModel(None, None, several, CosineSimilarity()).prototypes is None


def manifest(*names, **meta):
    rows = [Utterance(n, f"{n}.wav", 1.0, n[0], 16000, meta) for n in names]
    return Manifest(rows, ".")


def test_evenly_takes_the_first_of_each_speaker_first():
    whole = manifest("a1", "a2", "a3", "b1", "b2")
    assert [u.id for u in evenly(whole, 3)] == ["a1", "b1", "a2"]
    assert len(evenly(whole, 9)) == 5


def test_points_are_a_few_of_a_few_speakers():
    speakers = ["a", "a", "b", "b", "c", "a"]
    assert choose_points(speakers, most_speakers=2, most_each=1) == [0, 4]
    assert choose_points(speakers, most_each=2) == [0, 1, 2, 3, 4]
    many = [f"{k:02d}" for k in range(21)]
    assert choose_points(many, most_speakers=3) == [0, 10, 20]


def test_about_speakers_keeps_what_is_known():
    rows = [
        Utterance("a1", "a.wav", 1.0, "a", 16000, {"gender": "f", "age": 0}),
        Utterance("a2", "b.wav", 1.0, "a", 16000, {"age": 7}),
        Utterance("b1", "c.wav", 1.0, "b", 16000, {}),
    ]
    about = about_speakers(Manifest(rows, "."))
    assert about == {"a": {"gender": "f", "age": "7"}, "b": {}}


def test_radius_against_confusability_by_hand():
    """Utterances 0 and 1 are of class 2, the third of class 0, none of class 1."""
    distances = np.array([[3.0, 5.0, 1.0], [2.0, 4.0, 3.0], [1.0, 0.5, 9.0]])
    radii, confusable, rho, p = radius_against_confusability(
        np.array([0.4, 0.5, 0.6]), distances, np.array([2, 2, 0])
    )
    assert radii.tolist() == [0.4, 0.6]
    assert confusable == pytest.approx([1.0 - 0.5, ((1 - 3) + (3 - 2)) / 2])
    assert rho == pytest.approx(-1)
    flat = radius_against_confusability(np.ones(3), distances, np.array([2, 2, 0]))
    assert np.isnan(flat[2]) and np.isnan(flat[3])
    assert distances[0, 2] == 1.0, "the distances stay"


def test_mean_and_spread_as_text():
    assert mean_and_spread([0.1, 0.3]) == "0.200 ± 0.141"
    assert mean_and_spread([0.25], "+.2f") == "+0.25"
    assert mean_and_spread([0.1, float("nan")]) == "-"


def test_embeddings_are_kept_until_the_cell_is_trained_again(tmp_path, monkeypatch):
    from types import SimpleNamespace

    from sb_margins.comparison import embeddings
    from sb_margins.verification.embeddings import Embeddings

    calls = []

    def extract(encoder, whole, **_):
        calls.append([u.id for u in whole])
        matrix = np.full((len(whole), 2), len(calls), dtype=np.float32)
        return Embeddings(calls[-1], matrix)

    monkeypatch.setattr(embeddings, "embed_files", extract)
    (tmp_path / embeddings.MARKER).touch()
    result = SimpleNamespace(cell=SimpleNamespace(folder=tmp_path))
    model = TrainedModel(result, None, None, None)
    whole = manifest("a1", "b1")
    assert embed(model, whole, "test")[0, 0] == 1
    assert embed(model, whole, "test")[0, 0] == 1 and len(calls) == 1
    assert embed(model, manifest("a1"), "test").shape == (1, 2), "another list"
    import os

    later = (tmp_path / "embeddings_test.npz").stat().st_mtime + 9
    os.utime(tmp_path / embeddings.MARKER, (later, later))
    assert embed(model, manifest("a1"), "test")[0, 0] == 3
