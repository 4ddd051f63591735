"""ONNX graphs against torch: equal embeddings, equal EER, seconds of one core.

    python benchmarks/graph.py --data ../shared/data      # needs the extra onnx

Each encoder of hparams/encoders with random weights is exported and compared on random
pieces of 0.3 to 30 s of the folder's recordings (its files in random order, joined), in
padded batches of 1 to 8, and on random trials. Speed: least processor seconds of some
turns on one piece of 4 s.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from hyperpyyaml import load_hyperpyyaml

from sb_margins.audio import load_audio
from sb_margins.inference import SpeakerVerifier, export_model, export_onnx
from sb_margins.verification.metrics import eer

ENCODERS = Path(__file__).resolve().parents[1] / "hparams" / "encoders"
FEATURES = """
n_mels: 80
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: !ref <n_mels>
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
"""


def make(folder: Path, encoder: str) -> tuple[SpeakerVerifier, object]:
    """A model with random weights, and the session of its graph."""
    torch.manual_seed(0)
    text = FEATURES + (ENCODERS / f"{encoder}.yaml").read_text()
    modules = load_hyperpyyaml(text)
    export_model(modules, folder / encoder, settings=text)
    model = SpeakerVerifier.from_hparams(folder / encoder, device="cpu")
    path = export_onnx(model, folder / f"{encoder}.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return model, onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"]
    )


def run(session, wavs: np.ndarray, lengths: np.ndarray) -> torch.Tensor:
    """Embeddings of a padded batch."""
    return torch.from_numpy(
        session.run(None, {"waveform": wavs, "lengths": lengths})[0]
    )


def pieces(folder: Path, count: int, longest: float) -> list[np.ndarray]:
    """Random lengths, evenly spread on a logarithmic scale."""
    rng = np.random.default_rng(0)
    files = iter(rng.permutation(sorted(folder.rglob("audio/**/*.flac"))).tolist())
    speech, out = np.zeros(0, np.float32), []
    for seconds in np.exp(rng.uniform(np.log(0.3), np.log(longest), count)):
        wanted = int(16000 * seconds)
        while len(speech) < wanted:
            speech = np.concatenate([speech, load_audio(next(files))])
        out.append(speech[:wanted])
        speech = speech[wanted:]
    return out


def compare(encoder: str, folder: Path, parts: list[np.ndarray], turns: int) -> str:
    """One row of the table."""
    model, session = make(folder, encoder)
    rng = np.random.default_rng(1)
    graph, direct = [], []
    at = 0
    while at < len(parts):
        batch = parts[at : at + rng.integers(1, 9)]
        at += len(batch)
        lengths = np.array([len(part) for part in batch])
        wavs = np.zeros((len(batch), lengths.max()), np.float32)
        for row, part in zip(wavs, batch, strict=True):
            row[: len(part)] = part
        graph.append(run(session, wavs, lengths))
        direct += [model.encode_batch(torch.from_numpy(part)) for part in batch]
    one, two = torch.cat(graph).double(), torch.cat(direct).double()
    apart = float((1 - torch.cosine_similarity(one, two)).abs().max())
    pairs = rng.integers(0, len(parts), (2, 20_000))
    labels = rng.random(20_000) < 0.1
    errors = [
        100 * eer(model.similarity(e[pairs[0]], e[pairs[1]]).numpy(), labels)
        for e in (one, two)
    ]
    wav = rng.standard_normal((1, 64000)).astype(np.float32) / 10
    length, tensor = np.array([64000]), torch.from_numpy(wav)
    seconds = [
        min(clocked(f) for _ in range(turns))
        for f in (lambda: run(session, wav, length), lambda: model.encode_batch(tensor))
    ]
    size = sum(p.numel() for p in model.encoder.parameters()) / 1e6
    return (
        f"| {encoder} | {size:.2f} | {apart:.1e} | {errors[0]:.2f}, {errors[1]:.2f} | "
        f"{1000 * seconds[1]:.0f} | {1000 * seconds[0]:.0f} |"
    )


def clocked(function) -> float:
    """Processor seconds of one call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--longest", type=float, default=30.0)
    parser.add_argument("--turns", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    parts = pieces(args.data, args.count, args.longest)
    heads = ["encoder", "million parameters", "largest 1 - cosine"]
    heads += ["EER %: graph, torch", "torch, ms", "onnxruntime, ms"]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for encoder in sorted(path.stem for path in ENCODERS.glob("*.yaml")):
            print(compare(encoder, Path(folder), parts, args.turns), flush=True)


if __name__ == "__main__":
    main()
