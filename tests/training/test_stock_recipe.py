"""SpeechBrain's VoxCeleb training flow with only classifier and compute_cost swapped.

The steps are those of `train_speaker_embeddings.py`: features, mean-variance
normalisation, ECAPA-TDNN, `modules.classifier`, `hparams.compute_cost(outputs, labels,
lens)`, `classification_error` as the metric; the sizes are small.
"""

import shutil

import pytest
import torch

sb = pytest.importorskip("speechbrain")

from hyperpyyaml import load_hyperpyyaml  # noqa: E402
from speechbrain.utils.metric_stats import MetricStats  # noqa: E402

from sb_margins import select  # noqa: E402

YAML = """
emb_dim: 16
out_n_neurons: 4
n_mels: 24
lr: 0.005

compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: !ref <n_mels>
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: !ref <n_mels>
    channels: [16, 16, 16, 16, 48]
    kernel_sizes: [5, 3, 3, 3, 1]
    dilations: [1, 2, 3, 4, 1]
    groups: [1, 1, 1, 1, 1]
    attention_channels: 16
    lin_neurons: !ref <emb_dim>

loss_parts: !include:{name}.yaml
    input_size: !ref <emb_dim>
    out_neurons: !ref <out_n_neurons>
classifier: !ref <loss_parts[classifier]>
compute_cost: !ref <loss_parts[compute_cost]>

modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
    classifier: !ref <classifier>

opt_class: !name:torch.optim.Adam
    lr: !ref <lr>
error_stats: !name:speechbrain.utils.metric_stats.MetricStats
    metric: !name:speechbrain.nnet.losses.classification_error
        reduction: batch
"""


class SpeakerBrain(sb.core.Brain):
    def compute_forward(self, batch, stage):
        wavs, lens = batch.sig
        features = self.modules.compute_features(wavs.to(self.device))
        features = self.modules.mean_var_norm(features, lens)
        embeddings = self.modules.embedding_model(features)
        return self.modules.classifier(embeddings), lens

    def compute_objectives(self, predictions, batch, stage):
        outputs, lens = predictions
        labels, _ = batch.spk_id_encoded
        loss = self.hparams.compute_cost(outputs, labels, lens)
        assert loss.dim() == 0 and loss.dtype == torch.float32
        if stage != sb.Stage.TRAIN:
            self.error_metrics.append(batch.id, outputs, labels, lens)
        return loss

    def on_stage_start(self, stage, epoch=None):
        if stage != sb.Stage.TRAIN:
            self.error_metrics = self.hparams.error_stats()

    def on_stage_end(self, stage, loss, epoch=None):
        if stage == sb.Stage.TRAIN:
            self.losses.append(loss)
        else:
            self.errors.append(self.error_metrics.summarize("average"))


class Voices(torch.utils.data.Dataset):
    def __init__(self, make_voice):
        self.wavs = [
            torch.from_numpy(make_voice(speaker, i, 0.5))
            for i in range(4)
            for speaker in range(4)
        ]

    def __len__(self):
        return len(self.wavs)

    def __getitem__(self, i):
        label = torch.tensor([i % 4])
        return {"id": str(i), "sig": self.wavs[i], "spk_id_encoded": label}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["aam", "real_am", "as", "ham", "joint"])
def test_stock_flow(name, precision, make_voice, tmp_path):
    if precision == "bf16" and name in ("as", "joint"):
        pytest.skip("the others show it")
    torch.manual_seed(0)
    path = tmp_path / "train.yaml"
    shutil.copy(select.hparams_dir() / f"losses/{name}.yaml", tmp_path)
    path.write_text(YAML.replace("{name}", name))
    with open(path) as stream:
        hparams = load_hyperpyyaml(stream)
    brain = SpeakerBrain(
        hparams["modules"],
        hparams["opt_class"],
        hparams,
        run_opts={"device": "cpu", "precision": precision, "noprogressbar": True},
    )
    brain.losses, brain.errors = [], []
    assert hparams["error_stats"]().__class__ is MetricStats
    data = Voices(make_voice)
    loader = torch.utils.data.DataLoader(
        data, batch_size=8, collate_fn=sb.dataio.batch.PaddedBatch
    )
    brain.fit(range(8), loader, loader)
    assert brain.losses[-1] < brain.losses[0]
    assert all(0 <= e <= 1 for e in brain.errors) and len(brain.errors) == 8
    grads = [p.grad for p in brain.modules.classifier.parameters()]
    assert all(torch.isfinite(g).all() for g in grads if g is not None)
