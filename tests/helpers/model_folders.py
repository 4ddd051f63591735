"""Small model folders for the tests of inference."""

from __future__ import annotations

from pathlib import Path

import torch
from hyperpyyaml import load_hyperpyyaml

from sb_margins.inference.export import export_model
from sb_margins.inference.thresholds import Threshold

ENCODERS = {
    "ecapa": """
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: !ref <n_mels>
    channels: [16, 16, 48]
    kernel_sizes: [5, 3, 1]
    dilations: [1, 2, 1]
    groups: [1, 1, 1]
    attention_channels: 8
    res2net_scale: 4
    lin_neurons: !ref <emb_dim>
""",
    "resnet": """
embedding_model: !new:speechbrain.lobes.models.ResNet.ResNet
    input_size: !ref <n_mels>
    channels: [4, 4, 8, 8]
    block_sizes: [1, 1, 1, 1]
    lin_neurons: !ref <emb_dim>
    activation: !name:torch.nn.ReLU
""",
    "resnet_tsp": """
embedding_model: !new:sb_margins.resnet.ResNetTSP
    input_size: !ref <n_mels>
    channels: [4, 4, 8, 8]
    block_sizes: [1, 1, 1, 1]
    lin_neurons: !ref <emb_dim>
""",
    "xvector": """
embedding_model: !new:speechbrain.lobes.models.Xvector.Xvector
    in_channels: !ref <n_mels>
    tdnn_blocks: 2
    tdnn_channels: [16, 32]
    tdnn_kernel_sizes: [5, 1]
    tdnn_dilations: [1, 1]
    lin_neurons: !ref <emb_dim>
""",
}

SETTINGS = """
seed: 1
output_folder: /nowhere/results
n_mels: 40
half: 12
emb_dim: !ref <half> * 2
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: !ref <n_mels>  # a comment
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: {norm}
    std_norm: False
{encoder}
"""

THRESHOLDS = {
    "eer": Threshold(0.5, 0.04, 0.05, "dev trials of the test corpus"),
    "far1": Threshold(0.7, 0.01, 0.2, "dev trials of the test corpus"),
}


def settings(encoder: str = "ecapa", norm: str = "sentence") -> str:
    return SETTINGS.format(norm=norm, encoder=ENCODERS[encoder])


def modules(text: str, seed: int = 3) -> dict:
    """The encoder of a YAML, with random but settled weights, in eval mode."""
    torch.manual_seed(seed)
    built = load_hyperpyyaml(text)
    names = ("compute_features", "mean_var_norm", "embedding_model")
    made = {name: built[name] for name in names}
    wavs = torch.randn(6, 16000) * torch.linspace(0.05, 1, 16000)
    for module in made.values():
        module.train()
    with torch.no_grad():  # batch-norm statistics, as after a training
        for _ in range(3):
            encode(made, wavs)
    for module in made.values():
        module.eval()
    return made


def encode(made: dict, wavs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        feats = made["compute_features"](wavs)
        feats = made["mean_var_norm"](feats, torch.ones(len(wavs)))
        return made["embedding_model"](feats).reshape(len(wavs), -1)


def write_model(folder: Path, encoder: str = "ecapa", **options) -> Path:
    """A model folder with thresholds and labels."""
    text = settings(encoder, options.pop("norm", "sentence"))
    options.setdefault("thresholds", THRESHOLDS)
    options.setdefault("labels", ["ann", "bob"])
    made = options.pop("modules", None) or modules(text)
    return export_model(made, folder, settings=text, **options)
