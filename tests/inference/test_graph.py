"""Models as one graph give the embeddings of torch, at any batch and length."""

from __future__ import annotations

import importlib.util
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from model_folders import write_model

from sb_margins.cli import main as cli
from sb_margins.errors import UserError
from sb_margins.inference import SpeakerVerifier, graph
from sb_margins.similarity import PoincareSimilarity
from sb_margins.verification.metrics import eer

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "verify_onnx.py"
needs_onnx = pytest.mark.skipif(
    any(
        importlib.util.find_spec(name) is None
        for name in ("onnx", "onnxruntime", "onnxscript")
    ),
    reason="the extra onnx is not installed",
)


@pytest.fixture(scope="module", params=["ecapa", "resnet", "resnet_tsp", "xvector"])
def exported(request, tmp_path_factory):
    """A model of each encoder, its file and what runs it."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp(request.param)
    options = {"norm": "global"} if request.param == "xvector" else {}
    if request.param == "resnet_tsp":
        options["similarity"] = PoincareSimilarity(curvature=3.0)
    model = SpeakerVerifier.from_hparams(
        write_model(folder / "model", request.param, **options), device="cpu"
    )
    path = graph.export_onnx(model, folder / "speaker.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"]
    )

    def run(wavs, lengths=None):
        lengths = [wavs.shape[1]] * len(wavs) if lengths is None else lengths
        feeds = {"waveform": wavs.numpy(), "lengths": np.array(lengths)}
        return torch.from_numpy(session.run(None, feeds)[0])

    return model, path, run


def apart(a, b):
    return float((1 - torch.cosine_similarity(a.double(), b.double())).max())


def test_equal_to_torch_at_lengths_never_seen(exported):
    model, _, run = exported
    rng = np.random.default_rng(0)
    for batch in (1, 2, 5, 8, 3, 1):
        samples = int(16000 * rng.uniform(0.3, 4))
        wavs = torch.randn(batch, samples) * 10 ** rng.uniform(-2, 0)
        assert apart(run(wavs), model.encode_batch(wavs)) < 1e-6, (batch, samples)
    wavs = torch.randn(1, 30 * 16000) / 10
    assert apart(run(wavs), model.encode_batch(wavs)) < 1e-6


def test_padding_and_company_change_nothing(exported):
    _, _, run = exported
    wavs = torch.randn(4, 40000) / 10
    lengths = [40000, 16001, 39999, 4800]
    together = run(wavs, lengths)
    alone = [
        run(wav[None, :n].contiguous()) for wav, n in zip(wavs, lengths, strict=True)
    ]
    assert apart(together, torch.cat(alone)) < 1e-6
    assert apart(together, run(wavs)) > 1e-4, "the padding was looked at"


def test_the_file_is_sound_and_says_what_it_is(exported):
    import onnx

    model, path, run = exported
    read = onnx.load(path)
    onnx.checker.check_model(read, full_check=True)
    for value in [*read.graph.input, *read.graph.output]:
        dims = value.type.tensor_type.shape.dim
        assert all(d.dim_param for d in dims[:2] if value.name != "output")
        assert dims[0].dim_param == "batch"
    assert str(Path(__file__).parent).encode() not in path.read_bytes()
    about = {entry.key: entry.value for entry in read.metadata_props}
    assert about == graph.metadata(model)
    assert about["sample_rate"] == "16000"
    assert json.loads(about["similarity"]) == model.similarity.settings()
    assert json.loads(about["thresholds"])["eer"]["value"] == 0.5


def test_trials_have_the_same_eer(exported):
    model, _, run = exported
    generator = torch.Generator().manual_seed(5)
    base = torch.randn(6, 12000, generator=generator).repeat_interleave(4, 0)
    wavs = (base + torch.randn(24, 12000, generator=generator)) / 20
    one, two = torch.triu_indices(24, 24, 1)
    labels = (one // 4 == two // 4).numpy()
    errors = []
    for rows in (run(wavs), model.encode_batch(wavs)):
        scores = model.similarity(rows[one], rows[two])
        errors.append(eer(scores.numpy(), labels))
    assert errors[0] == pytest.approx(errors[1], abs=1e-12)


def test_the_example_needs_no_torch(exported, tmp_path, monkeypatch, capsys):
    model, path, _ = exported
    files = [tmp_path / "a.wav", tmp_path / "b.wav"]
    for number, file in enumerate(files):
        wav = np.random.default_rng(number).standard_normal((9000 + number, 2)) / 20
        soundfile.write(file, wav, 16000, subtype="FLOAT")
    score = float(model.score_files(*files))
    monkeypatch.setattr(sys, "argv", ["verify_onnx.py", str(path), *map(str, files)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    said = capsys.readouterr().out.splitlines()
    assert float(said[0].split()[1]) == pytest.approx(score, abs=2e-4)
    assert said[1] == ("same speaker" if score > 0.5 else "different speakers")
    text = EXAMPLE.read_text()
    assert len(text.splitlines()) < 40
    assert "import torch" not in text and "sb_margins import" not in text


@needs_onnx
def test_a_wrong_graph_is_not_written(tmp_path, monkeypatch):
    model = SpeakerVerifier.from_hparams(
        write_model(tmp_path / "m", "resnet_tsp"), device="cpu"
    )
    monkeypatch.setattr(graph, "TOLERANCE", -1.0)
    with pytest.raises(UserError, match="does not give the model's embeddings"):
        graph.export_torch(model, tmp_path / "a.pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_torch_program(tmp_path):
    model = SpeakerVerifier.from_hparams(write_model(tmp_path / "m"), device="cpu")
    assert (
        cli(["export", str(tmp_path / "m"), str(tmp_path / "a.pt2"), "--torch-export"])
        == 0
    )
    about = {"model.json": ""}
    run = torch.export.load(tmp_path / "a.pt2", extra_files=about).module()
    assert json.loads(about["model.json"]) == graph.metadata(model)
    for batch, samples in ((1, 5000), (3, 70001), (8, 16000)):
        wavs = torch.randn(batch, samples) / 10
        assert apart(run(wavs), model.encode_batch(wavs)) < 1e-6


def test_wrong_wishes(tmp_path, monkeypatch):
    folder = write_model(tmp_path / "m", "resnet_tsp")
    model = SpeakerVerifier.from_hparams(folder, device="cpu")
    out = tmp_path / "a.onnx"
    with pytest.raises(UserError, match="opset 9 is not supported; give one from 18"):
        graph.export_onnx(model, out, opset=9)
    with pytest.raises(UserError, match=r"must end in \.onnx"):
        graph.export_onnx(model, tmp_path / "a.pt")
    (tmp_path / "b.onnx").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        graph.export_onnx(model, tmp_path / "b.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install 'sb-margins\[onnx\]'"):
        graph.export_onnx(model, out)
    assert cli(["export", str(folder), str(out), "--onnx", "--torch-export"]) == 2
    assert not out.exists()


def test_features_that_cannot_be_exported(tmp_path):
    model = SpeakerVerifier.from_hparams(write_model(tmp_path / "m"), device="cpu")
    model.mods["compute_features"].compute_STFT.pad_mode = "reflect"
    with pytest.raises(UserError, match="padded with zeros"):
        graph.export_torch(model, tmp_path / "a.pt2")
    assert not (tmp_path / "a.pt2").exists()
