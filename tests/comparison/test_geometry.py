"""Distances of a trained model, points of the maps, radius against confusability."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sb_margins.classifiers import CosineClassifier, PoincareClassifier
from sb_margins.comparison import geometry
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
from sb_margins.comparison.measures import (
    gromov_delta,
    mantel,
    speaker_distances,
    tree_fit,
)
from sb_margins.comparison.projection import disc_distances
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
    close = 1 + 1e-5 * np.arange(3)
    assert radius_against_confusability(close, distances, np.array([2, 2, 0]))[
        2
    ] == pytest.approx(-1)
    flat = radius_against_confusability(np.ones(3), distances, np.array([2, 2, 0]))
    assert np.isnan(flat[2]) and np.isnan(flat[3])
    assert distances[0, 2] == 1.0, "the distances stay"


def test_mean_and_spread_as_text():
    assert mean_and_spread([0.1, 0.3]) == "0.200 ± 0.141"
    assert mean_and_spread([0.25], "+.2f") == "+0.25"
    assert mean_and_spread([0.1, float("nan")]) == "-"


def test_embeddings_are_kept_until_the_cell_is_trained_again(tmp_path, monkeypatch):
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


class FakeModels:
    """Two runs of a cosine, a ball and a foreign loss, with random embeddings."""

    def __init__(self, monkeypatch):
        self.maps, self.radii = [], []
        monkeypatch.setattr(geometry, "read_model", lambda result: self.models[result])
        monkeypatch.setattr(geometry, "embed", self.embed)
        monkeypatch.setattr(
            geometry, "plot_maps", lambda m, path: self.maps.append((m, path))
        )
        monkeypatch.setattr(
            geometry, "plot_radii", lambda r, path: self.radii.append((r, path))
        )
        rng = np.random.default_rng(1)
        self.points, self.models, self.systems = {}, {"f1": None, "f2": None}, {}
        for loss in "cbf":
            results = [f"{loss}1", f"{loss}2"]
            system = SimpleNamespace(label=f"loss {loss}", results=results)
            system.typical = results[1]
            self.systems[loss] = system
        for result in ("c1", "c2", "b1", "b2"):
            model = ball(5.0) if result[0] == "b" else self.cosine()
            if model.hyperbolic:
                weight = torch.tensor([[0.2, 0.0], [0.0, 0.25], [-0.3, 0.0]])
                model.classifier.weight.data.copy_(weight)
            model.result = result
            self.models[result] = model
            self.points[result] = 0.2 * rng.normal(size=(20, 2))
        rows = [
            Utterance(f"{s}{k}", "x.wav", 1.0, s, 16000, {"gender": "fm"[i % 2]})
            for i, s in enumerate("pqrstu")
            for k in range(3)
        ]
        manifests = {
            "test": Manifest(rows, "."),
            "train": manifest("a1", "a2", "b1", "c1"),
        }
        self.manifest = manifests["test"]
        self.comparison = SimpleNamespace(
            tests=["test", "other"],
            prepared=SimpleNamespace(manifest=manifests.__getitem__),
            losses=["c", "b", "f"],
            chosen=self.systems.__getitem__,
            on_first_fold=lambda system: system.results,
        )

    @staticmethod
    def cosine():
        return TrainedModel(None, None, CosineClassifier(2, 3), CosineSimilarity())

    def embed(self, model, whole, name):
        assert name == {18: "test", 4: "train_few"}[len(whole)]
        return self.points[model.result][: len(whole)]


@pytest.fixture
def fakes(monkeypatch):
    return FakeModels(monkeypatch)


def test_measures_are_means_over_the_runs_of_our_heads(fakes, tmp_path):
    got = geometry.describe_geometry(fakes.comparison, tmp_path)
    assert (got["split"], got["levels"], got["mapped_speakers"]) == (
        "test",
        ["gender"],
        6,
    )
    assert [row[0] for row in got["rows"]] == ["loss c", "loss b"], (
        "one head is foreign"
    )
    speakers = [u.spk_id for u in fakes.manifest]
    differ = (np.arange(6)[:, None] % 2 != np.arange(6) % 2).astype(float)
    for row, loss in zip(got["rows"], "cb", strict=True):
        distances = [
            fakes.models[run].among(fakes.points[run][:18])
            for run in (f"{loss}1", f"{loss}2")
        ]
        assert row[1] == mean_and_spread([gromov_delta(d) for d in distances])
        assert row[2] == mean_and_spread([tree_fit(d) for d in distances])
        tests = [mantel(speaker_distances(d, speakers)[1], differ) for d in distances]
        text = mean_and_spread([t.correlation for t in tests], "+.2f")
        assert row[3] == f"{text} ({max(t.p_value for t in tests):.3f})"


def test_maps_show_embeddings_and_prototypes_of_the_typical_run(fakes, tmp_path):
    geometry.describe_geometry(fakes.comparison, tmp_path)
    ((maps, path),) = fakes.maps
    assert path == tmp_path / "maps_1.png" and list(maps) == ["loss c", "loss b"]
    for one in maps.values():
        assert one.speakers == [u.spk_id for u in fakes.manifest] + [""] * 3
        assert one.places.shape == (21, 2) and 0 <= one.stress < 0.5
    assert maps["loss c"].edge is None
    assert maps["loss b"].edge == pytest.approx(5**-0.5)
    # Points of the disc are found again: their distances are those of run 2.
    model, places = fakes.models["b2"], maps["loss b"].places
    points = np.concatenate([fakes.points["b2"][:18], model.prototypes])
    assert disc_distances(places) == pytest.approx(model.among(points), abs=0.05)


def test_many_maps_are_spread_over_plots(fakes, tmp_path, monkeypatch):
    monkeypatch.setattr(geometry, "IN_ONE_PLOT", 1)
    got = geometry.describe_geometry(fakes.comparison, tmp_path)
    assert [path.name for path in got["maps"]] == ["maps_1.png", "maps_2.png"]
    assert [list(maps) for maps, _ in fakes.maps] == [["loss c"], ["loss b"]]


def test_few_of_many_prototypes_are_mapped(fakes, tmp_path, monkeypatch):
    monkeypatch.setattr(geometry, "MOST_PROTOTYPES", 2)
    geometry.describe_geometry(fakes.comparison, tmp_path)
    ((maps, _),) = fakes.maps
    assert maps["loss c"].speakers.count("") == 2
    model = fakes.models["b2"]
    points = np.concatenate([fakes.points["b2"][:18], model.prototypes[[0, 2]]])
    got = disc_distances(maps["loss b"].places)
    assert got == pytest.approx(model.among(points), abs=0.05), "the first and the last"


def test_radii_are_of_the_training_speakers_on_balls(fakes, tmp_path):
    got = geometry.describe_geometry(fakes.comparison, tmp_path)
    ((radii, path),) = fakes.radii
    assert got["radii"] == path == tmp_path / "radii.png" and list(radii) == ["loss b"]
    model = fakes.models["b2"]
    expected = radius_against_confusability(
        model.radii(model.prototypes),
        model.distances(fakes.points["b2"][:4], model.prototypes),
        np.array([0, 1, 2, 0]),  # a1, b1, c1, a2: the first of each speaker first
    )
    for value, wanted in zip(radii["loss b"], expected, strict=True):
        assert value == pytest.approx(wanted)
    assert got["flat"] == []
    weight = torch.tensor([[0.2, 0.0], [0.0, 0.2], [-0.2, 0.0]])
    model.classifier.weight.data.copy_(weight)
    flat = geometry.describe_geometry(fakes.comparison, tmp_path)
    assert flat["flat"] == ["loss b"]


def test_without_our_heads_there_is_no_geometry(fakes, tmp_path):
    fakes.comparison.losses = ["f"]
    assert geometry.describe_geometry(fakes.comparison, tmp_path) is None
    fakes.comparison.losses = ["c"]
    got = geometry.describe_geometry(fakes.comparison, tmp_path)
    assert got["radii"] is None and got["flat"] == [] and not fakes.radii
