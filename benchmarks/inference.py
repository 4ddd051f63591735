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
import datetime
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.inference.speaker import SpeakerRecognition

from sb_margins.inference import EnrolledSet, SpeakerVerifier, export_model
from sb_margins.similarity import CosineSimilarity, PoincareSimilarity
from sb_margins.versions import versions

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


def least(
    functions: Sequence[Callable[[], object]], turns: int, wall: bool
) -> list[float]:
    """Least time of each, run by turns."""
    clock = time.perf_counter if wall else time.process_time
    best = [float("inf")] * len(functions)
    for _ in range(turns):
        for i, function in enumerate(functions):
            start = clock()
            function()
            best[i] = min(best[i], clock() - start)
    return best


def compare(folder: Path, args: argparse.Namespace) -> list[str]:
    """Rows of the first table."""
    options = {"device": args.device}
    model = make_model(folder / "model", args.channels)
    ours = SpeakerVerifier.from_hparams(model, run_opts=options)
    stock = SpeakerRecognition.from_hparams(source=str(model), run_opts=options)
    rows = []
    for lengths, spread in (("one length", 0.0), ("all different", 2.0)):
        paths = make_files(folder / lengths, args.files, spread)
        for uses in (1, 4):
            trials = make_trials(paths, uses)
            stock_scores: list[float] = []
            our_scores: list[float] = []

            def run_stock(trials=trials, out=stock_scores):
                out[:] = [float(stock.verify_files(a, b)[0]) for a, b in trials]

            def run_ours(trials=trials, out=our_scores):
                out[:] = ours.verify_list(trials).tolist()

            theirs, own = least([run_stock, run_ours], args.turns, args.device != "cpu")
            apart = np.abs(np.array(stock_scores) - our_scores).max()
            count = 2 * len(trials)
            rows.append(
                f"| {lengths} | {uses} | {len(trials)} | {count / theirs:.1f} | "
                f"{count / own:.1f} | {theirs / own:.2f} | {apart:.0e} |"
            )
            print(rows[-1], flush=True)
    return rows


def identify(args: argparse.Namespace) -> list[str]:
    """Rows of the second table."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        model = SpeakerVerifier.from_hparams(
            make_model(Path(name) / "model", 16), run_opts={"device": args.device}
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
                rows.append(
                    f"| {type(similarity).__name__} | {count} | {times[0]:.1f} | "
                    f"{np.median(times[1:]):.2f} | {max(times[1:]):.2f} | "
                    f"{1000 * loading:.0f} |"
                )
                print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Run both and write the page."""
    tool = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    tool.add_argument("--device", default="cpu")
    tool.add_argument("--channels", type=int, default=256, help="default %(default)s")
    tool.add_argument("--files", type=int, default=16, help="default %(default)s")
    tool.add_argument("--turns", type=int, default=2, help="default %(default)s")
    tool.add_argument("--out", type=Path)
    args = tool.parse_args()
    where = "cpu" if args.device == "cpu" else "gpu"
    out = args.out or HERE / "results" / f"inference_{where}.md"
    with tempfile.TemporaryDirectory() as name:
        rows = compare(Path(name), args)
    known = ", ".join(f"{k} {v}" for k, v in versions().items() if isinstance(v, str))
    machine = f"{torch.get_num_threads()} threads, {platform.machine()}"
    if where == "gpu":
        machine = torch.cuda.get_device_name()
    page = [
        "# Verifying files, and identification",
        "",
        f"`python benchmarks/inference.py --device {args.device} "
        f"--channels {args.channels} --files {args.files} --turns {args.turns}`, "
        f"{datetime.date.today()}, {machine}; {known}.",
        "",
        f"ECAPA-TDNN with {args.channels} channels, {args.files} flac files of about "
        "3 s. Embeddings (sides of trials) per",
        f"{'processor ' if where == 'cpu' else ''}second: SpeechBrain's "
        "`verify_files` in a loop, our `verify_list`, and how many times faster.",
        "The last column is the largest difference of a score.",
        "In VoxCeleb1-O a file is used 16 times.",
        "",
        "| lengths | uses of a file | trials | SpeechBrain | ours | ratio | apart |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
        "Identification after the embedding, 192 numbers each; milliseconds.",
        "",
        "| similarity | enrolled | first | median | slowest of 50 | loading the set |",
        "|---|---|---|---|---|---|",
        *identify(args),
        "",
    ]
    out.write_text("\n".join(page), encoding="utf-8")
    print(f"written: {out}")


if __name__ == "__main__":
    main()
