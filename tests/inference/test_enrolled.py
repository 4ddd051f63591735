"""Enrolled speakers: their centres, their file."""

from __future__ import annotations

import multiprocessing

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from sb_margins.errors import UserError
from sb_margins.files import locked
from sb_margins.inference import EnrolledSet
from sb_margins.similarity import PoincareSimilarity, similarity_from


def test_order_of_enrolment_does_not_matter():
    rows = torch.randn(5, 8)
    one, two = EnrolledSet("m"), EnrolledSet("m")
    one.add("ann", rows)
    for row in rows.flip(0):
        two.add("ann", row[None])
    assert torch.allclose(one.centres(), two.centres(), atol=1e-6)


@pytest.mark.parametrize(
    "similarity", [None, "cosine", PoincareSimilarity(3.0)], ids=["-", "cosine", "ball"]
)
def test_centres_are_those_of_the_similarity(similarity):
    rows = torch.randn(7, 8, generator=torch.Generator().manual_seed(0))
    people = EnrolledSet("m", similarity=similarity)
    assert people.add("ann", rows[:2]) == 2
    assert people.add("bob", rows[2:4]) == 2
    assert people.add("ann", rows[4:]) == 5
    want = similarity_from(similarity).centre(rows[[0, 1, 4, 5, 6]])
    assert torch.allclose(people.centres()[0], want, atol=1e-6)
    assert people.add("ann", rows[:3], replace=True) == 3
    want = torch.stack(
        [similarity_from(similarity).centre(r) for r in (rows[:3], rows[2:4])]
    )
    assert torch.allclose(people.centres(), want, atol=1e-6)
    assert (people.count("ann"), people.count("bob")) == (3, 2)
    people.remove("ann")
    assert people.names == ["bob"] and "ann" not in people and "bob" in people
    assert torch.allclose(people.centres(), want[1:], atol=1e-6)
    assert people.add("bob", rows[:1]) == 3
    assert people.add("ann", rows[:1]) == 1 and len(people) == 2


def test_sets_are_kept(tmp_path):
    path = tmp_path / "people.npz"
    people = EnrolledSet.open(path, "2-one")
    assert len(people) == 0 and not path.exists()
    people.add("ann", torch.tensor([[3.0, 4.0], [4.0, 3.0]]))
    people.add("Åsa b", torch.tensor([[0.0, 4.0]]))
    people.save()
    link = tmp_path / "link.npz"
    link.symlink_to(path)
    again = EnrolledSet.open(link, "2-one")
    assert again.names == ["ann", "Åsa b"] and again.count("ann") == 2
    assert torch.allclose(again.centres(), people.centres())
    again.add("ann", torch.tensor([[4.0, 3.0]]))
    again.save()
    assert link.is_symlink()
    assert EnrolledSet.open(path, "2-one").count("ann") == 3
    with pytest.raises(UserError, match="has no file"):
        EnrolledSet("2-one").save()
    with pytest.raises(UserError, match="no speaker 'anna' .*Did you mean 'ann'"):
        again.remove("anna")


def test_unusable_sets_are_told(tmp_path):
    path = tmp_path / "people.npz"
    people = EnrolledSet.open(path, "2-one")
    people.add("ann", torch.randn(1, 4))
    people.save()
    with pytest.raises(UserError, match="another model"):
        EnrolledSet.open(path, "2-two")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot be read as an .npz"):
        EnrolledSet.open(path, "2-one")
    np.savez(path, format=2, names=np.array(["x"], dtype=object))
    with pytest.raises(UserError, match="cannot be read as an .npz"):
        EnrolledSet.open(path, "2-one")
    np.savez(path, format=2, names=np.array(["x"]))
    with pytest.raises(UserError, match="not a set of enrolled"):
        EnrolledSet.open(path, "2-one")
    with pytest.raises(UserError, match="is a folder"):
        EnrolledSet.open(tmp_path, "2-one")
    assert [p.name for p in tmp_path.iterdir()] == ["people.npz"]


def test_sets_of_the_old_version_are_told_apart(tmp_path):
    """Their fingerprint left out the settings of the features."""
    path = tmp_path / "people.npz"
    np.savez(
        path,
        format=np.array(1),
        model=np.array("0123456789abcdef"),
        names=np.array(["ann"]),
        directions=np.ones((1, 4), np.float32),
        norms=np.ones(1),
        counts=np.ones(1, np.int64),
    )
    with pytest.raises(UserError, match="another version .* Enroll the recordings"):
        EnrolledSet.open(path, "2-one")


@pytest.fixture
def kept(tmp_path):
    """The arrays of a sound set, and its path."""
    people = EnrolledSet.open(tmp_path / "people.npz", "2-m")
    people.add("ann", torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    people.add("bob", torch.tensor([[1.0, 1.0]]))
    people.save()
    with np.load(people.path) as arrays:
        return people.path, dict(arrays)


def test_damaged_sets_are_refused(kept):
    path, arrays = kept
    np.savez(path, **arrays)
    assert EnrolledSet.open(path, "2-m").names == ["ann", "bob"]
    for name, value in arrays.items():
        if name == "model":
            continue
        if name == "format":
            value = value[None]
        damages = [value[:-1], value[None], np.concatenate([value, value])]
        if value.dtype.kind == "f":
            damages += [np.full_like(value, np.nan), np.full_like(value, np.inf)]
        if value.dtype.kind == "i":
            damages += [np.full_like(value, -1), np.zeros_like(value)]
        if name == "names":
            damages += [np.array(["ann", "ann"])]
        for damaged in damages:
            np.savez(path, **{**arrays, name: damaged})
            with pytest.raises(UserError, match="damaged"):
                EnrolledSet.open(path, "2-m")


def test_many_new_speakers_are_enrolled_as_one_by_one():
    rows = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)) * 7
    names = [f"s{i}" for i in range(5)]
    together, single = EnrolledSet("m"), EnrolledSet("m")
    together.add_many(names[:2], rows[:2])
    together.add_many(names[2:], rows[2:])
    for name, row in zip(names, rows, strict=True):
        single.add(name, row[None])
    assert together.names == single.names
    assert torch.allclose(together.centres(), single.centres(), atol=1e-6)
    assert torch.allclose(together.centres(), normalize(rows), atol=1e-5)
    for name in ("s0", "s3", "s1"):
        assert together.add(name, rows[1:2]) == single.add(name, rows[1:2]) == 2
    assert torch.allclose(together.centres(), single.centres(), atol=1e-6)
    for bad_names, bad_rows in (
        (["s0"], rows[:1]),
        (["x", "x"], rows[:2]),
        (["x"], rows[:2]),
        (["x"], torch.zeros(1, 4)),
        (["x"], torch.full((1, 4), np.inf)),
        (["x"], torch.ones(1, 5)),
        ([" x"], torch.ones(1, 4)),
    ):
        with pytest.raises(UserError):
            together.add_many(bad_names, bad_rows)
    assert len(together) == 5


@pytest.mark.parametrize("name", ["", " ann", "a\nb"])
def test_odd_names(name):
    with pytest.raises(UserError, match="not a name"):
        EnrolledSet("m").add(name, torch.ones(1, 2))


@pytest.mark.parametrize(
    "rows", [torch.zeros(1, 2), torch.full((1, 2), np.nan), torch.ones(0, 2)]
)
def test_odd_embeddings(rows):
    with pytest.raises(UserError):
        EnrolledSet("m").add("ann", rows)


def enroll_twenty(path, who):
    for i in range(20):
        with locked(path):
            people = EnrolledSet.open(path, "2-m")
            people.add(f"{who}{i}", torch.ones(1, 3))
            people.save()


def test_two_processes_enroll_at_once(tmp_path):
    """Nobody's update is lost."""
    path = tmp_path / "people.npz"
    context = multiprocessing.get_context("fork")
    running = [context.Process(target=enroll_twenty, args=(path, w)) for w in "ab"]
    for process in running:
        process.start()
    for process in running:
        process.join(60)
        assert process.exitcode == 0
    assert len(EnrolledSet.open(path, "2-m")) == 40
