"""Verification of files against SpeechBrain's verify_files; identification time.

    python benchmarks/inference.py                # writes results/inference_cpu.md
    python benchmarks/inference.py --device cuda --channels 1024

Both sides load the same exported model (ECAPA-TDNN, random weights) in one process and
score the same trial lists by turns; least time of some turns: processor seconds on a
CPU, so that a busy machine does not matter much, and wall time on a GPU. An *embedding*
is one side of a trial: a list of N trials needs 2 N of them, read once or not.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from hyperpyyaml import load_hyperpyyaml
from measure import is_cuda, seconds, setting, table
from speechbrain.inference.speaker import SpeakerRecognition

from sb_margins.inference import EnrolledSet, SpeakerVerifier, export_model
from sb_margins.similarity import CosineSimilarity, PoincareSimilarity
from sb_margins.verification.embed import embed_files

HERE = Path(__file__).resolve().parent
SETTINGS = """
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: 80
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: 80
    channels: [{c}, {c}, {c}, {c}, {last}]
    kernel_sizes: [5, 3, 3, 3, 1]
    dilations: [1, 2, 3, 4, 1]
    groups: [1, 1, 1, 1, 1]
    attention_channels: 128
    lin_neurons: 192
"""


def make_model(folder: Path, channels: int) -> Path:
    """An exported ECAPA with random weights."""
    torch.manual_seed(0)
    text = SETTINGS.format(c=channels, last=3 * channels)
    return export_model(load_hyperpyyaml(text), folder, settings=text)


def make_files(folder: Path, count: int, spread: float) -> list[Path]:
    """Noise of about 3 s; all of one length when ``spread`` is 0."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    paths = []
    for i in range(count):
        seconds = 3 + spread * (rng.random() - 0.5)
        path = folder / f"{i}.flac"
        wav = 0.1 * rng.standard_normal(int(16000 * seconds))
        soundfile.write(path, wav, 16000)
        paths.append(path)
    return paths


def make_trials(paths: Sequence[Path], uses: int) -> list[tuple[str, str]]:
    """A list in which every file takes part ``uses`` times."""
    rng = np.random.default_rng(1)
    sides = np.concatenate([rng.permutation(len(paths)) for _ in range(uses)])
    return [(str(paths[a]), str(paths[b])) for a, b in sides.reshape(-1, 2)]


def compare(
    folder: Path, device: str, channels: int, files: int, turns: int
) -> Iterator[dict[str, Any]]:
    """Rows: embeddings a second of SpeechBrain's verify_files and ours, in turns."""
    options = {"device": device}
    model = make_model(folder / "model", channels)
    ours = SpeakerVerifier.from_hparams(model, run_opts=options)
    stock = SpeakerRecognition.from_hparams(source=str(model), run_opts=options)
    for lengths, spread in (("one length", 0.0), ("all different", 2.0)):
        paths = make_files(folder / lengths, files, spread)
        for uses in (1, 4):
            trials = make_trials(paths, uses)
            scores: dict[str, list[float]] = {}

            def theirs(trials=trials, scores=scores):
                pairs = [stock.verify_files(a, b)[0] for a, b in trials]
                scores["theirs"] = [float(score) for score in pairs]

            def own(trials=trials, scores=scores):
                scores["own"] = ours.verify_list(trials).tolist()

            least = [
                min(seconds(run, device) for _ in range(turns)) for run in (theirs, own)
            ]
            apart = np.abs(np.subtract(scores["theirs"], scores["own"])).max()
            count = 2 * len(trials)
            yield {
                "lengths": lengths,
                "uses of a file": uses,
                "trials": len(trials),
                "SpeechBrain, embeddings/s": count / least[0],
                "ours": count / least[1],
                "ratio": f"{least[0] / least[1]:.2f}",
                "apart": float(apart),
            }


def throughput(
    folder: Path, device: str, channels: int, files: int
) -> Iterator[dict[str, Any]]:
    """Rows: utterances a second of embed_files, the second time."""
    model = SpeakerVerifier.from_hparams(
        make_model(folder / "model", channels), run_opts={"device": device}
    )
    for lengths, spread in (("one length", 0.0), ("all different", 2.0)):
        paths = make_files(folder / f"{lengths}, many", files, spread)
        for precision in ("fp32", "bf16"):
            run = partial(
                embed_files,
                model.encoder,
                {path.stem: path for path in paths},
                device=device,
                precision=precision,
                progress=False,
            )
            least = min(seconds(run, device) for _ in range(2))
            row = {"lengths": lengths, "precision": precision}
            yield row | {"utt/s": files / least}


def identify(device: str) -> Iterator[dict[str, Any]]:
    """Rows: milliseconds of naming a voice among many."""
    with tempfile.TemporaryDirectory() as name:
        model = SpeakerVerifier.from_hparams(
            make_model(Path(name) / "model", 16), run_opts={"device": device}
        )
        generator = torch.Generator().manual_seed(0)
        for similarity in (CosineSimilarity(), PoincareSimilarity(3.0)):
            for count in (10_000, 100_000):
                vectors = torch.randn(count, 192, generator=generator)
                people = EnrolledSet(
                    model.fingerprint, Path(name) / "people.npz", similarity
                )
                people.add_many([f"speaker {i}" for i in range(count)], vectors)
                people.save()
                model.similarity = similarity.to(model.device)
                start = time.perf_counter()
                model.use_enrolled(people.path)
                loading = time.perf_counter() - start
                times = []
                for i in range(51):
                    query = vectors[i] + 0.1 * torch.randn(192, generator=generator)
                    start = time.perf_counter()
                    best = model.identify_embedding(query)
                    times.append(1000 * (time.perf_counter() - start))
                    assert best[0].name == f"speaker {i}"
                yield {
                    "similarity": type(similarity).__name__,
                    "enrolled": count,
                    "first": times[0],
                    "median": float(np.median(times[1:])),
                    "slowest of 50": max(times[1:]),
                    "loading the set": 1000 * loading,
                }


def main() -> None:
    """Run both and write the page."""
    tool = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    tool.add_argument("--device", default="cpu")
    tool.add_argument("--channels", type=int, default=256, help="default %(default)s")
    tool.add_argument("--files", type=int, default=16, help="default %(default)s")
    tool.add_argument("--turns", type=int, default=2, help="default %(default)s")
    tool.add_argument("--out", type=Path)
    args = tool.parse_args()
    where = "gpu" if is_cuda(args.device) else "cpu"
    out = args.out or HERE / "results" / f"inference_{where}.md"
    with tempfile.TemporaryDirectory() as name:
        sizes = (args.channels, args.files, args.turns)
        rows = list(compare(Path(name), args.device, *sizes))
    page = [
        "# Verifying files, and identification",
        "",
        f"`python benchmarks/inference.py --device {args.device} "
        f"--channels {args.channels} --files {args.files} --turns {args.turns}`, "
        f"{setting(args.device)}",
        "",
        f"ECAPA-TDNN with {args.channels} channels, {args.files} flac files of about "
        "3 s. Embeddings (sides of trials) per",
        f"{'processor ' if where == 'cpu' else ''}second: SpeechBrain's "
        "`verify_files` in a loop, our `verify_list`, and how many times faster.",
        "The last column is the largest difference of a score.",
        "In VoxCeleb1-O a file is used 16 times.",
        "",
        *table(rows),
        "",
        "Identification after the embedding, 192 numbers each; milliseconds.",
        "",
        *table(list(identify(args.device))),
        "",
    ]
    out.write_text("\n".join(page), encoding="utf-8")
    print(f"written: {out}")


if __name__ == "__main__":
    main()
