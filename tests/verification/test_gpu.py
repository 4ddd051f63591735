"""Embedding, scoring and normalising on a GPU: no devices mixed, few waits.

The GPU is pretended, see helpers/pretended_gpu.py.
"""

import numpy as np
import pytest
import soundfile
import torch
from pretended_gpu import pretended_gpu, to_gpu
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.Xvector import Xvector
from speechbrain.processing.features import InputNormalization

from sb_margins.data.trials import Trials
from sb_margins.encoder import SpeakerEncoder
from sb_margins.similarity import CosineSimilarity, PoincareSimilarity
from sb_margins.verification.embed import embed_files
from sb_margins.verification.embeddings import Embeddings
from sb_margins.verification.normalisation import Normaliser
from sb_margins.verification.scoring import score_trials


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("crops", [0, 3])
def test_embedding_waits_once_a_batch(tmp_path, make_voice, crops, precision):
    files = {}
    for k in range(6):  # three lengths, three batches
        files[str(k)] = tmp_path / f"{k}.wav"
        soundfile.write(files[str(k)], make_voice(k, 0, 1.0 + k // 2), 16000)
    network = Xvector(
        in_channels=20,
        tdnn_blocks=2,
        tdnn_channels=[8, 8],
        tdnn_kernel_sizes=[3, 1],
        tdnn_dilations=[1, 1],
        lin_neurons=12,
    )
    norm = InputNormalization(norm_type="sentence", std_norm=False)
    encoder = SpeakerEncoder(Fbank(n_mels=20), norm, network).eval()
    model = encoder.fingerprint()
    with torch.no_grad(), pretended_gpu() as device:
        to_gpu(encoder)
        settings = {"crops": crops, "crop_seconds": 0.9, "precision": precision}
        made = embed_files(encoder, files, model=model, device="cuda", **settings)
    assert made.matrix.shape == (6, 12)
    assert device.waits.total() == 3, device.waits
    # constants of features and normalisation, once for all; no speech
    assert all("encoder.py" in where for where in device.copies), device.copies


SIMILARITIES = {
    "cosine": CosineSimilarity(),
    "unit": PoincareSimilarity(5.0),
    "textbook": PoincareSimilarity(0.7, metric="curvature"),
}


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_scoring_waits_for_its_scores_alone(similarity, dense, normalise):
    rng = np.random.default_rng(0)
    names = [str(k) for k in range(40)]
    embeddings = Embeddings(names, rng.standard_normal((40, 8)).astype(np.float32))
    pairs = [(a, b) for a in names for b in names] if dense else [("0", "1")]
    trials = Trials([a for a, _ in pairs], [b for _, b in pairs])
    cohort = rng.standard_normal((30, 8))
    with pretended_gpu() as device:
        score_trials(
            embeddings,
            trials,
            SIMILARITIES[similarity],
            normaliser=Normaliser("as", cohort, top_k=10) if normalise else None,
            device="cuda",
        )
    # the scores, and means and deviations of the cohort's
    assert device.waits.total() == 1 + 2 * normalise, device.waits
    assert device.launches
