"""Embeddings in memory and in files: one format, older ones read, damage told."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
from random_trials import some

from sb_margins.errors import UserError
from sb_margins.verification.embeddings import Embeddings


def test_embedding_files(tmp_path):
    embeddings = some(5)
    embeddings.save(tmp_path / "e.npz")
    first = (tmp_path / "e.npz").read_bytes()
    again = Embeddings.load(tmp_path / "e.npz")
    assert again.ids == embeddings.ids
    np.testing.assert_array_equal(again.matrix, embeddings.matrix)
    again.save(tmp_path / "e.npz")
    assert (tmp_path / "e.npz").read_bytes() == first
    np.savez(tmp_path / "bad.npz", ids=np.array(["a"]))
    with pytest.raises(UserError, match="bad.npz has the arrays ids; an .npz of"):
        Embeddings.load(tmp_path / "bad.npz")
    np.savez(tmp_path / "nan.npz", ids=np.array(["a"]), matrix=np.full((1, 2), np.nan))
    with pytest.raises(UserError, match="1 of 1 embeddings .* NaN or infinite: a"):
        Embeddings.load(tmp_path / "nan.npz")


def test_fingerprint_and_similarity_are_kept(tmp_path):
    similarity = {"name": "poincare", "curvature": 3.0}
    matrix = np.ones((2, 3), np.float32)
    Embeddings(["é", "b"], matrix, fingerprint="2-abc", similarity=similarity).save(
        tmp_path / "e.npz"
    )
    found = Embeddings.load(tmp_path / "e.npz")
    assert (found.ids, found.fingerprint) == (["é", "b"], "2-abc")
    assert found.similarity == similarity
    part = found.subset(np.array([1]))
    assert (part.ids, part.fingerprint, part.similarity) == (
        ["b"],
        "2-abc",
        similarity,
    )
    with np.load(tmp_path / "e.npz", allow_pickle=False) as arrays:
        assert set(arrays.files) == {"ids", "embeddings", "fingerprint", "similarity"}
        assert json.loads(str(arrays["similarity"])) == similarity


def test_files_of_older_versions_are_read(tmp_path):
    matrix = np.ones((1, 3), np.float32)
    for name in ("matrix", "embeddings"):  # of verify, of embed
        np.savez(tmp_path / "old.npz", ids=np.array(["a"]), **{name: matrix})
        found = Embeddings.load(tmp_path / "old.npz")
        assert found.ids == ["a"] and found.matrix.tolist() == matrix.tolist()
        assert found.fingerprint is None and found.similarity is None


def _header(shape, descr="<f4"):
    """The beginning of a .npy file that promises an array."""
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}"
    padded = text.ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded


def _rewrite(path, content):
    """An .npz whose embeddings are these bytes."""
    np.savez(path, ids=np.array(["a"]), embeddings=np.ones((1, 2)))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["embeddings.npy"] = content
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


DAMAGED = {
    "text": lambda path: path.write_text("no zip"),
    "empty": lambda path: path.touch(),
    "folder": lambda path: path.mkdir(),
    "nothing": lambda path: None,
    "a .npy": lambda path: np.save(path.open("wb"), np.ones(3)),
    "pickled": lambda path: np.savez(
        path, ids=np.array(["a", None]), embeddings=np.ones((2, 2))
    ),
    "no ids": lambda path: np.savez(path, embeddings=np.ones((2, 2))),
    "numbered": lambda path: np.savez(
        path, ids=np.arange(2), embeddings=np.ones((2, 2))
    ),
    "one row": lambda path: np.savez(path, ids=np.array(["a"]), embeddings=np.ones(2)),
    "of text": lambda path: np.savez(
        path, ids=np.array(["a"]), embeddings=np.array([["b"]])
    ),
    "too few": lambda path: np.savez(
        path, ids=np.array(["a"]), embeddings=np.ones((2, 2))
    ),
    "no array": lambda path: _rewrite(path, b"hello"),
    "no size": lambda path: _rewrite(path, _header("(1000000000000, 24)")),
    "a negative size": lambda path: _rewrite(path, _header("(-1, 24)")),
    "more than numbers count": lambda path: _rewrite(
        path, _header(f"({2**62}, {2**62})")
    ),
    "no kind": lambda path: _rewrite(path, _header("(2,)", "|V0")),
    "code": lambda path: _rewrite(
        path, _header("(2,)", "|O") + b"cos\nsystem\n(S'touch mark'\ntR."
    ),
    "no letters": lambda path: np.savez(
        path,
        ids=np.array([0x110000], np.uint32).view("U1"),
        embeddings=np.ones((1, 2)),
    ),
    "no JSON": lambda path: np.savez(
        path, ids=np.array(["a"]), embeddings=np.ones((1, 2)), similarity=np.array("{")
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_told(name, tmp_path):
    path = tmp_path / "e.npz"
    DAMAGED[name](path)
    with pytest.raises(UserError, match=r"e\.npz|1 utterances but embeddings"):
        Embeddings.load(path)


@pytest.mark.parametrize("seed", range(40))
def test_bytes_changed_at_random_give_embeddings_or_an_error(seed, tmp_path):
    rng = np.random.default_rng(seed)
    path = tmp_path / "e.npz"
    some(4).save(path)
    content = bytearray(path.read_bytes())
    for at in rng.integers(0, len(content), 4):
        content[at] = rng.integers(256)
    path.write_bytes(bytes(content[: rng.integers(10, 2 * len(content))]))
    try:
        found = Embeddings.load(path)
    except UserError:
        return
    assert np.isfinite(found.matrix).all() and len(found.ids) == len(found.matrix)
