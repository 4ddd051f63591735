"""Sharing: what is sent, what is refused, and loading from the hub's cache."""

from __future__ import annotations

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from model_folders import write_model

from sb_margins.cli import main as cli
from sb_margins.errors import UserError
from sb_margins.inference import SpeakerVerifier, push_model


class FakeApi:
    """Notes what it is asked for."""

    def __init__(self, *there, fails=""):
        self.there, self.fails, self.calls = set(there), fails, []

    def repo_exists(self, name):
        return name in self.there

    def create_repo(self, name, private):
        self.calls.append(("repo", name, private))

    def create_branch(self, name, branch, exist_ok):
        self.calls.append(("branch", name, branch))

    def create_commit(self, name, operations, commit_message, revision):
        if self.fails:
            raise OSError(self.fails)
        self.files = {op.path_in_repo: op.path_or_fileobj for op in operations}
        self.calls.append(("commit", name, revision))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_model(tmp_path_factory.mktemp("hub") / "model")
    (folder / "speaker.onnx").write_bytes(b"graph")
    (folder / "private.wav").write_bytes(b"voice")
    (folder / "notes.txt").write_text("secret")
    return folder


def test_a_new_repository_is_private(folder):
    api = FakeApi()
    assert push_model(folder, "ann/voices", api=api).endswith("/ann/voices")
    assert api.calls == [("repo", "ann/voices", True), ("commit", "ann/voices", None)]
    assert set(api.files) == {
        *("README.md", "hyperparams.yaml", "embedding_model.ckpt"),
        *("label_encoder.ckpt", "speaker.onnx"),
    }
    card = api.files["README.md"].decode()
    assert "verify-files ann/voices a.wav" in card and "THIS_FOLDER" not in card
    assert "THIS_FOLDER" in (folder / "README.md").read_text()


def test_an_update_is_one_commit(folder):
    api = FakeApi("ann/voices")
    push_model(folder, "ann/voices", update=True, revision="v2", api=api)
    assert api.calls == [("branch", "ann/voices", "v2"), ("commit", "ann/voices", "v2")]
    push_model(folder, "ann/other", public=True, api=(new := FakeApi()))
    assert new.calls[0] == ("repo", "ann/other", False)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("voices", {}, "give OWNER/MODEL"),
        ("ann/voices@v2", {}, "give OWNER/MODEL"),
        ("../voices", {}, "give OWNER/MODEL"),
        ("ann/voices", {}, "exists on the hub; .* --update"),
        ("ann/new", {"update": True}, "does not exist on the hub"),
    ],
)
def test_refused(folder, name, options, message):
    api = FakeApi("ann/voices")
    with pytest.raises(UserError, match=message):
        push_model(folder, name, api=api, **options)
    assert not api.calls


def test_only_a_sound_model_is_sent(folder, tmp_path):
    api = FakeApi()
    with pytest.raises(UserError, match="no such model folder"):
        push_model(tmp_path / "nowhere", "ann/voices", api=api)
    broken = write_model(tmp_path / "broken")
    (broken / "embedding_model.ckpt").write_bytes(b"damaged")
    with pytest.raises(UserError):
        push_model(broken, "ann/voices", api=api)
    bare = write_model(tmp_path / "bare")
    (bare / "README.md").unlink()
    with pytest.raises(UserError, match="card"):
        push_model(bare, "ann/voices", api=api)
    assert not api.calls


def test_what_the_hub_refuses_is_one_line(folder):
    api = FakeApi(fails="403 Forbidden\nRequest ID: 1\n")
    with pytest.raises(UserError, match="did not take ann/voices: 403 Forbidden. No"):
        push_model(folder, "ann/voices", api=api)


def test_the_verb(folder, monkeypatch, capsys):
    api = FakeApi()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
    assert cli(["push", str(folder), "ann/voices", "--revision", "v1"]) == 0
    assert "verify-files ann/voices@v1" in capsys.readouterr().out
    assert api.calls[-1] == ("commit", "ann/voices", "v1")
    assert cli(["push", str(folder), "voices"]) == 2


def test_a_revision_without_network(folder, tmp_path, monkeypatch):
    """From the hub's cache: main and v2 are other commits; others are not there."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    kept = tmp_path / "models--ann--voices"
    (kept / "refs").mkdir(parents=True)
    models = {}
    for revision, number in (("main", "a"), ("v2", "b")):
        (kept / "refs" / revision).write_text(number * 40)
        place = kept / "snapshots" / (number * 40)
        place.parent.mkdir(exist_ok=True)
        options = {} if revision == "main" else {"encoder": "xvector"}
        models[revision] = SpeakerVerifier.from_hparams(write_model(place, **options))
    wavs = torch.randn(1, 8000)
    for name, revision in (("ann/voices", "main"), ("ann/voices@v2", "v2")):
        found = SpeakerVerifier.from_hparams(name)
        assert found.fingerprint == models[revision].fingerprint
    assert found.encode_batch(wavs).shape == (1, 24)
    with pytest.raises(UserError, match="neither a folder here nor a model that"):
        SpeakerVerifier.from_hparams("ann/voices@v3")
    with pytest.raises(UserError, match="without network, download the model"):
        SpeakerVerifier.from_hparams("ann/nothing")
