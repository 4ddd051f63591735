"""Folders as SpeechBrain publishes and leaves them load, and score as it does."""

from __future__ import annotations

import shutil

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.inference.speaker import SpeakerRecognition
from speechbrain.utils.fetching import LocalStrategy

from sb_margins.cli import main as cli
from sb_margins.errors import UserError
from sb_margins.inference import SpeakerVerifier
from sb_margins.inference.results import read_model
from sb_margins.inference.safe_yaml import to_yaml

COMMON = """
# Pretrain folder (HuggingFace)
pretrained_path: speechbrain/{name}
n_mels: 40
out_n_neurons: 3
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: !ref <n_mels>
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
{encoder}
{classifier}
mean_var_norm_emb: !new:speechbrain.processing.features.InputNormalization
    norm_type: global
    std_norm: False
modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
    mean_var_norm_emb: !ref <mean_var_norm_emb>
    classifier: !ref <classifier>
label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
        mean_var_norm_emb: !ref <mean_var_norm_emb>
        classifier: !ref <classifier>
        label_encoder: !ref <label_encoder>
    paths:
        embedding_model: !ref <pretrained_path>/embedding_model.ckpt
        mean_var_norm_emb: !ref <pretrained_path>/mean_var_norm_emb.ckpt
        classifier: !ref <pretrained_path>/classifier.ckpt
        label_encoder: !ref <pretrained_path>/label_encoder.{suffix}
"""
ECAPA = """
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: !ref <n_mels>
    channels: [16, 16, 16, 16, 48]
    kernel_sizes: [5, 3, 3, 3, 1]
    dilations: [1, 2, 3, 4, 1]
    attention_channels: 8
    lin_neurons: 24
"""
COSINE = """
classifier: !new:speechbrain.lobes.models.ECAPA_TDNN.Classifier
    input_size: 24
    out_neurons: !ref <out_n_neurons>
"""
LAYERS = """
classifier: !new:speechbrain.lobes.models.Xvector.Classifier
    input_shape: [null, null, 24]
    activation: !name:torch.nn.LeakyReLU
    lin_blocks: 1
    lin_neurons: 24
    out_neurons: !ref <out_n_neurons>
"""
XVECTOR = """
embedding_model: !new:speechbrain.lobes.models.Xvector.Xvector
    in_channels: !ref <n_mels>
    activation: !name:torch.nn.LeakyReLU
    tdnn_blocks: 2
    tdnn_channels: [16, 48]
    tdnn_kernel_sizes: [5, 1]
    tdnn_dilations: [1, 1]
    lin_neurons: 24
"""
RESNET = """
embedding_model: !new:speechbrain.lobes.models.ResNet.ResNet
    input_size: !ref <n_mels>
    channels: [4, 4, 8, 8]
    strides: [1, 2, 2, 2]
    block_sizes: [1, 1, 1, 1]
    lin_neurons: 24
"""
# Nodes that published YAMLs hold and that no embedding needs.
UNUSED = """
seed: 1986
__set_seed: !apply:torch.manual_seed [!ref <seed>]
log_softmax: !new:speechbrain.nnet.activations.Softmax
    apply_log: True
opt_class: !name:torch.optim.Adam
    lr: 0.001
compute_cost: !new:speechbrain.nnet.losses.LogSoftmaxWrapper
    loss_fn: !new:speechbrain.nnet.losses.AdditiveAngularMargin
        margin: 0.2
        scale: 30
"""
LAYOUTS = {
    "spkrec-ecapa-voxceleb": (ECAPA, COSINE, "", "txt"),
    "spkrec-xvect-voxceleb": (XVECTOR, LAYERS, "", "ckpt"),
    "spkrec-resnet-voxceleb": (RESNET, COSINE, UNUSED, "txt"),
    "lang-id-voxlingua107-ecapa": (ECAPA, LAYERS, UNUSED, "txt"),
}


@pytest.fixture(scope="module", params=LAYOUTS)
def published(request, tmp_path_factory):
    """A folder as it lies on the hub, with weights made here."""
    folder = tmp_path_factory.mktemp("published")
    encoder, classifier, unused, suffix = LAYOUTS[request.param]
    text = unused + COMMON.format(
        name=request.param, encoder=encoder, classifier=classifier, suffix=suffix
    )
    (folder / "hyperparams.yaml").write_text(text)
    torch.manual_seed(1)
    built = load_hyperpyyaml(text)
    features = torch.randn(4, 60, 40)
    for _ in range(2):  # statistics of batch normalisation
        built["embedding_model"](features)
    torch.save(built["embedding_model"].state_dict(), folder / "embedding_model.ckpt")
    torch.save(built["classifier"].state_dict(), folder / "classifier.ckpt")
    norm = built["mean_var_norm_emb"]
    norm(torch.randn(4, 5, 24), torch.ones(4))
    norm._save(folder / "mean_var_norm_emb.ckpt")
    labels = built["label_encoder"]
    labels.update_from_iterable(["a", "b", "c"], sequence_input=False)
    labels.save(folder / f"label_encoder.{suffix}")
    return folder


def stock(folder, savedir, strategy):
    return SpeakerRecognition.from_hparams(
        source=str(folder),
        savedir=str(savedir),
        overrides={"pretrained_path": str(folder)},
        local_strategy=strategy,
    )


def same(ours, theirs):
    """Embeddings, scores and classes, for two batches of one length."""
    torch.manual_seed(2)
    one, two = 0.1 * torch.randn(3, 16000), 0.1 * torch.randn(3, 16000)
    results = []
    for model in (ours, theirs):
        torch.manual_seed(3)  # SpeechBrain's x-vector adds noise when it pools
        embeddings = model.encode_batch(one).reshape(3, -1)
        score, _ = model.verify_batch(one, two, threshold=0.25)
        results.append((embeddings, score.reshape(-1), model.classify_batch(one)[3]))
    for found, expected in zip(*results, strict=True):
        if torch.is_tensor(found):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        else:
            assert found == expected


@pytest.mark.parametrize("strategy", ["SYMLINK", "COPY"])
def test_published_folder_and_what_speechbrain_leaves_of_it(
    published, strategy, tmp_path
):
    theirs = stock(published, tmp_path / "saved", LocalStrategy[strategy])
    ours = SpeakerVerifier.from_hparams(str(published))
    with pytest.raises(UserError, match="no calibrated threshold"):
        ours.verify_batch(torch.ones(1, 16000), torch.ones(1, 16000))
    same(ours, theirs)
    same(SpeakerVerifier.from_hparams(str(tmp_path / "saved")), theirs)


def test_snapshot_of_the_hub_cache(published, tmp_path):
    """models--org--name/snapshots/REVISION, all links to ../../blobs."""
    repository = tmp_path / "models--speechbrain--x"
    snapshot = repository / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, path in enumerate(sorted(published.iterdir())):
        shutil.copy(path, repository / "blobs" / f"{number:040x}")
        (snapshot / path.name).symlink_to(f"../../blobs/{number:040x}")
    theirs = stock(published, tmp_path / "saved", LocalStrategy.COPY)
    same(SpeakerVerifier.from_hparams(str(snapshot)), theirs)


def embeddings(encoder):
    """Seeded: the pooling of x-vectors adds noise."""
    torch.manual_seed(5)
    with torch.no_grad():
        return encoder(torch.randn(2, 12000))


@pytest.mark.parametrize(
    "published", ["spkrec-ecapa-voxceleb", "spkrec-xvect-voxceleb"], indirect=True
)
def test_published_models_are_adapted(published, tiny_corpus, tmp_path):
    """With no epoch, the x-vector is the same model; ECAPA-TDNN learns for one."""
    before = SpeakerVerifier.from_hparams(str(published))
    words = ["finetune", str(published), f"--data_folder={tiny_corpus}"]
    words += ["--noprogressbar", "--batch_size=8", "--sentence_len=0.6"]
    learns = "ecapa-vox" in (published / "hyperparams.yaml").read_text()
    epochs = int(learns)
    words += [f"--output_folder={tmp_path}", f"--number_of_epochs={epochs}"]
    assert cli([*words, "--freeze_steps=1"]) == 0
    after = SpeakerVerifier.from_hparams(str(tmp_path / "model"))
    assert "eer" in after.thresholds
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 2 + epochs
    if not learns:
        assert before.fingerprint == after.fingerprint
        assert torch.equal(*map(embeddings, (before.encoder, after.encoder)))


def test_the_results_of_a_stock_recipe_are_a_model_to_start_from(published, tmp_path):
    """As ``recipes/VoxCeleb/SpeakerRec/train_speaker_embeddings.py`` leaves them."""
    checkpoint = tmp_path / "save" / "CKPT+2026-01-01+00-00-00+00"
    checkpoint.mkdir(parents=True)
    for name in ("embedding_model", "classifier"):
        shutil.copy(published / f"{name}.ckpt", checkpoint)
    (checkpoint / "CKPT.yaml").write_text("ErrorRate: 0.1\nunixtime: 1.0\n")
    text = (published / "hyperparams.yaml").read_text()
    (tmp_path / "hyperparams.yaml").write_text(text)
    one, two = read_model(published), read_model(tmp_path)
    assert torch.equal(*map(embeddings, (one.encoder, two.encoder)))
    assert to_yaml(one.blocks) == to_yaml(two.blocks) and one.size == two.size == 24
