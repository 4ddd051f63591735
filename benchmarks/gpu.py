"""Everything that a GPU can tell, in order of worth, in the minutes there are.

    python benchmarks/gpu.py --minutes 25 --speech speech.tar
    python benchmarks/gpu.py --device cpu --smallest     # a rehearsal, half a minute

What to carry to a machine without network, made on one that has it:

    git bundle create sb_margins.bundle main             # there: git clone it
    python benchmarks/gpu.py --pack CORPUS --to speech.tar   # Opus, at most 40 MB
    pip download -d wheels --only-binary :all: --python-version 3.12 \\
        --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 \\
        -c constraints.txt torch torchaudio speechbrain hyperpyyaml scikit-learn \\
        matplotlib soundfile jinja2 tyro rich espeakng-loader \\
        pytorch-metric-learning cut-cross-entropy
    # there: pip install --no-index --find-links wheels torch torchaudio ...
    #        pip install --no-deps --no-build-isolation -e .

CORPUS is a folder of speaker/.../audio, or one with a manifest.csv. Peers that are not
installed are told in their rows; without speech the training is on synthetic voices.

Each job runs in a process of its own and its rows are saved as they come, in
results/gpu_NAME.md and .json, so that a run that is killed, or a job that dies, loses
nothing else. No job starts once the minutes are used up, and the one that runs then is
stopped.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import multiprocessing
import os
import random
import re
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import inference
import losses
import soundfile
import torch
from measure import is_cuda, setting, table
from training import Flow, measure_flow

from sb_margins.cli import main as sb_margins
from sb_margins.data.corpus import walk
from sb_margins.errors import UserError
from sb_margins.files import unpack, write_json, write_text
from sb_margins.head import Head
from sb_margins.select import hparams_dir

HERE = Path(__file__).resolve().parent
Rows = Iterator[dict[str, Any]]
LEFT = 20.0  # seconds that a job needs to be worth starting
KBPS = 0.9  # libsndfile's compression level: about 30 kbit/s of Opus


@dataclass
class Job:
    """Some rows of a part of the report."""

    part: str
    name: str
    rows: Callable[..., Rows]
    settings: dict[str, Any]
    state: str = "not started: the time is used up"
    seconds: float = 0.0
    found: list[dict[str, Any]] = field(default_factory=list)


# -- the parts --------------------------------------------------------------------


def machine(device: str) -> Rows:
    """What this runs on."""
    yield {"what": "setting", "value": setting(device)}
    if is_cuda(device):
        about = torch.cuda.get_device_properties(device)
        yield {"what": "memory, GiB", "value": about.total_memory / 2**30}
        yield {"what": "capability", "value": f"{about.major}.{about.minor}"}
        yield {"what": "bfloat16", "value": torch.cuda.is_bf16_supported()}
        yield {"what": "GPUs", "value": torch.cuda.device_count()}


def agreement(device: str, shape: tuple[int, int, int]) -> Rows:
    """Values and gradients of every head against the CPU's dense ones in float64."""
    sys.path.append(str(HERE.parent / "tests" / "helpers"))
    import losses_grid

    batch, size, classes = shape
    for classifier, loss in losses_grid.FEWER_PAIRS:
        torch.manual_seed(0)
        model, cost = losses_grid.build(
            classifier, loss, size, classes, torch.float64, "cpu", 1 / size**0.5
        )
        labels = torch.randint(classes, (batch,))
        x = torch.randn(batch, size, dtype=torch.float64) / size**0.5
        near = losses_grid.prototypes(model)[labels[: batch // 2]]
        x[: batch // 2] = 3 * near + 0.1 * x[: batch // 2]
        state = model.state_dict()
        exact = _step(model, cost, x, labels, "split")
        row: dict[str, Any] = {"classifier": classifier, "loss": loss}
        for dtype in (torch.float64, torch.float32):
            for how in ("stored", "recomputed", "split"):
                model, cost = losses_grid.build(classifier, loss, size, classes)
                model.to(device, dtype).load_state_dict(state)
                here = _step(model, cost, x.to(device, dtype), labels.to(device), how)
                name = f"{str(dtype)[-7:]} {how}"
                row[name] = max(map(_apart, here, exact))
        wrong = [k for k, v in row.items() if "float" in k and not v < _limit(k)]
        yield row | {"verdict": f"LOOK: {', '.join(wrong)}" if wrong else "agrees"}


def _step(model: Any, cost: Any, x: Any, labels: Any, how: str) -> list[torch.Tensor]:
    """The loss, and the gradients of the embeddings and of each parameter."""
    x = x.detach().requires_grad_()
    head = Head(model, cost, store=how != "recomputed", tile=max(1, len(labels) // 2))
    value = cost(model(x), labels) if how == "split" else head(x, labels)
    value.backward()
    if how != "split":
        head.flush()
    found = [value, x.grad, *(p.grad for p in model.parameters())]
    return [tensor.detach().cpu().double() for tensor in found]


def _apart(value: torch.Tensor, exact: torch.Tensor) -> float:
    return float((value - exact).norm() / exact.norm().clamp_min(1e-12))


def _limit(name: str) -> float:
    """An error above it is looked at: a whole non-target may have been kept or not."""
    return 1e-3 if "32" in name else 1e-9


def half_precision(device: str, shape: tuple[int, int, int]) -> Rows:
    """Errors of gradients in bf16 and fp16."""
    for precision in losses.HALVES:
        yield from losses.half_precision(precision, device, shape)


def heads(device: str, shape: tuple[int, int, int], rounds: int) -> Rows:
    """Time and memory of all heads at a number of classes."""
    for row in losses.compare(shape, device, rounds):
        yield {"classes": shape[2], **row}


def flow(settings: dict[str, Any], rounds: int, folder: str) -> Rows:
    """A step and an epoch of a flow."""
    way = Flow(**settings)
    Path(folder).mkdir(exist_ok=True)
    compiled = ", --compile" if way.compiled else ""
    name = f"{way.encoder}-{way.channels} {way.name}, {way.precision}{compiled}"
    found = measure_flow(way, rounds, Path(folder))
    yield {
        "flow": name,
        "step, ms": 1000 * found["step"],
        "epoch, s": found["epoch"],
        "utt/s": round(found["utt/s"]),
        "first epoch more, s": found["first"],
        "peak memory, GiB": found["peak"],
    }


def extraction(device: str, channels: int, files: int, turns: int) -> Rows:
    """Embeddings a second."""
    with tempfile.TemporaryDirectory() as name:
        yield from inference.throughput(Path(name), device, channels, files)


def verifying(device: str, channels: int, files: int, turns: int) -> Rows:
    """verify_files against a list."""
    with tempfile.TemporaryDirectory() as name:
        yield from inference.compare(Path(name), device, channels, files, turns)


def train(device: str, speech: str | None, loss: str, flags: list[str]) -> Rows:
    """A training from the command line, with its evaluation."""
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "results"
        words = [f"--data_folder={Path(name) / 'demo'}", "--corpus=demo"]
        if speech is not None:
            folder = Path(speech)
            if not folder.is_dir():
                unpack(speech, Path(name) / "speech")
                folder = Path(name) / "speech"
            words = [f"--data_folder={folder}", "--corpus=folder"]
        words += [f"--output_folder={out}", f"--loss={loss}", "--noprogressbar"]
        words += [f"--device={device}", *flags]
        start = time.monotonic()
        code = sb_margins(["train", str(hparams_dir() / "train_ecapa.yaml"), *words])
        if code:
            raise RuntimeError(f"sb-margins train ended with {code}")
        wall = time.monotonic() - start
        with open(out / "history.csv", newline="", encoding="utf-8") as file:
            epochs = list(csv.DictReader(file))
        lists = json.loads((out / "metrics.json").read_text(encoding="utf-8"))["lists"]
        yield {
            "loss": loss,
            "speech": Path(speech).name if speech else "synthetic voices",
            "epochs": len(epochs) - 1,
            "training, s": sum(float(row.get("seconds") or 0) for row in epochs),
            "all, s": wall,
            "utt/s, last epoch": round(float(epochs[-1]["utt/s"])),
            "loss at the end": float(epochs[-1]["loss"]),
            **{f"EER {name}": _eer(values) for name, values in lists.items()},
        }


def _eer(values: dict[str, Any]) -> str:
    value = next(v for k, v in values.items() if k.lower().startswith("eer"))
    value = value.get("value", value) if isinstance(value, dict) else value
    return f"{value:.2%}" if isinstance(value, float) else str(value)


# -- in which order ---------------------------------------------------------------


def jobs(device: str, smallest: bool, speech: str | None, work: Path) -> list[Job]:
    """All, most worth first."""
    grid = (16, 8, 40) if smallest else (128, 192, 5994)
    half = (16, 8, 40) if smallest else (256, 192, 5994)
    shapes = [(256, 192, 5994), (256, 192, 17_982), (256, 192, 100_000)]
    shapes += [(256, 192, 1_000_000)]
    shapes = [(8, 4, 30)] if smallest else shapes
    rounds = 3 if smallest else 9
    sizes = {"channels": 1024, "files": 512, "turns": 2}
    flags = ["--channels=1024", "--precision=bf16", "--batch_size=128"]
    flags += ["--number_of_epochs=20"]
    if smallest:
        sizes = {"channels": 8, "files": 2, "turns": 1}
        flags = ["--channels=8", "--attention_channels=8", "--emb_dim=16"]
        flags += ["--batch_size=8", "--number_of_epochs=1", "--sentence_len=0.6"]
        flags += ["--n_mels=24", "--crops_per_utterance=1", "--warmup_epochs=0"]
        flags += [] if speech else ["--corpus_options={speakers: 12, utterances: 2}"]

    def flows(encoder: str, channels: int, *ways: str) -> list[Job]:
        made = []
        for way in ways:
            name, precision, compiled = (*way.split(), "")[:3]
            settings = {"name": name, "precision": precision, "device": device}
            settings |= {"compiled": bool(compiled), "encoder": encoder}
            settings |= {"channels": 8 if smallest else channels}
            if smallest:
                settings |= {"classes": 40, "batch": 4, "crop": 0.5, "files": 8}
            else:
                settings |= {"batch": 128, "crop": 3.0, "files": 1280, "repeats": 4}
            rest = {"rounds": 2 if smallest else 3, "folder": str(work / "noise")}
            made.append(Job("training", way, flow, {"settings": settings, **rest}))
        return made

    def head(shape: tuple[int, int, int]) -> Job:
        settings = {"device": device, "shape": shape, "rounds": rounds}
        return Job("heads", f"{shape[2]:,} classes", heads, settings)

    def training(loss: str) -> Job:
        settings = {"device": device, "speech": speech, "loss": loss, "flags": flags}
        return Job("real training", loss, train, settings)

    here = {"device": device}
    return [
        Job("machine", "machine", machine, here),
        Job("agreement", "every head", agreement, here | {"shape": grid}),
        Job("half precision", "gradients", half_precision, here | {"shape": half}),
        *map(head, shapes[:2]),
        *flows("ecapa", 1024, "stock fp32", "ours fp32", "ours bf16"),
        training("aam"),
        Job("extraction", "embed_files", extraction, here | sizes),
        *map(head, shapes[2:]),
        *flows("ecapa", 1024, "ours bf16 compile", "stock bf16"),
        *flows("resnet34", 64, "stock fp32", "ours bf16"),
        *([] if smallest else [training("ham")]),
        Job(
            "verifying",
            "lists",
            verifying,
            here | sizes | {"files": 2 + sizes["files"] // 8},
        ),
        *([] if smallest else flows("resnet34", 64, "ours fp32", "ours bf16 compile")),
    ]


TITLES = {
    "machine": ("The machine", ""),
    "agreement": (
        "Every head against the CPU in float64",
        "Largest relative error of the value, the embeddings' gradient and each "
        "parameter's.",
    ),
    "half precision": ("Errors of gradients under autocast", losses.ROUNDING),
    "heads": (
        "Heads: forward and backward",
        "Ratio of times: median over rounds in turn with the plain head, with "
        "quartiles. Peak memory beyond the weight's gradient, in [B, C] of float32.",
    ),
    "training": (
        "A training step and an epoch against SpeechBrain's stock flow",
        "The step's batch is at hand; the epoch reads its audio. A fused optimiser, "
        "audio in memory (below 1 GiB) and drops without waits are ours; both read "
        "with as many processes.",
    ),
    "real training": ("Training and evaluation from the command line", ""),
    "extraction": ("Embedding of files", ""),
    "verifying": ("Lists of trials", ""),
}


def report(jobs: list[Job], about: str) -> str:
    """Everything found until now, as Markdown."""
    lines = ["# Measured on a GPU", "", about, ""]
    for part, (title, note) in TITLES.items():
        some = [job for job in jobs if job.part == part]
        rows = [row for job in some for row in job.found]
        lines += [f"## {title}", "", *([note, ""] if note else [])]
        lines += [*table(_with_ratios(rows)), ""] if rows else []
        for job in some:
            if job.state != "done":
                lines += [f"* {job.name}: {job.state}"]
        lines += ["", f"({sum(job.seconds for job in some):.0f} s)", ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def _with_ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Flows with how many times as fast they are as the first of their encoder."""
    first: dict[str, dict[str, Any]] = {}
    out = []
    for row in rows:
        if "epoch, s" not in row:
            return rows
        base = first.setdefault(row["flow"].split()[0], row)
        ratios = {k: base[k] / row[k] for k in ("step, ms", "epoch, s")}
        more = {f"{k.split(',')[0]}: times as fast": v for k, v in ratios.items()}
        out.append(row | more)
    return out


# -- running them -----------------------------------------------------------------


def in_process(job: Job, path: str, threads: int) -> None:
    """In a process of its own: each row is a line of a file, as soon as it is known."""
    torch.set_num_threads(threads)
    random.seed(0)
    with open(path, "a", encoding="utf-8") as file:
        try:
            for row in job.rows(**job.settings):
                print(json.dumps({"row": row}), file=file, flush=True)
            state = "done"
        except BaseException as error:
            traceback.print_exc()
            text = str(error).strip().split("\n")[0][:300]
            state = f"failed: {type(error).__name__}: {text}"
        print(json.dumps({"state": state}), file=file, flush=True)


def run(
    all_jobs: list[Job], minutes: float, out: Path, device: str, work: Path
) -> None:
    """One after the other; the report is written whenever there is something new."""
    begin = time.monotonic()
    # CUDA does not survive a fork, and without it a fork spares all imports
    threads = (os.cpu_count() or 1) if is_cuda(device) else 1
    context = multiprocessing.get_context("spawn" if is_cuda(device) else "fork")
    for number, job in enumerate(all_jobs):
        left = 60 * minutes - (time.monotonic() - begin)
        if left < LEFT and number:
            continue
        path, start, seen = work / f"{number}.jsonl", time.monotonic(), -1
        path.touch()
        print(f"{job.part}: {job.name} ({left / 60:.1f} min left)", flush=True)
        process = context.Process(target=in_process, args=(job, str(path), threads))
        process.start()
        job.state = "running"
        while True:
            process.join(0.1)
            alive = process.is_alive()
            job.seconds = time.monotonic() - start
            if alive and job.seconds > max(left, 60):
                process.kill()
                process.join()
                alive, job.state = False, "stopped: the time is used up"
            if path.stat().st_size != seen or not alive:
                seen = path.stat().st_size
                _read(job, path)
                if not alive and job.state == "running":
                    job.state = f"died (exit status {process.exitcode})"
                save(all_jobs, out)
            if not alive:
                break
        print(f"  {job.state}, {job.seconds:.0f} s", flush=True)
    save(all_jobs, out)


def _read(job: Job, path: Path) -> None:
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    values = [json.loads(line) for line in lines]
    job.found = [value["row"] for value in values if "row" in value]
    for value in values:
        job.state = value.get("state", job.state)


def save(all_jobs: list[Job], out: Path) -> None:
    """The report and the same as JSON, both whole or as they were."""
    about = next((str(row["value"]) for row in all_jobs[0].found), "")
    write_text(out.with_suffix(".md"), report(all_jobs, about))
    parts = [
        {"part": j.part, "name": j.name, "state": j.state, "rows": j.found}
        | {"seconds": j.seconds, "settings": j.settings}
        for j in all_jobs
    ]
    write_json(out.with_suffix(".json"), {"about": about, "jobs": parts})


def pack(corpus: Path, target: Path, megabytes: float) -> None:
    """A corpus as Opus in a tar: its folders, lists and a manifest's paths stay."""
    total = 0
    with tarfile.open(target, "w") as tar:

        def add(name: str, data: bytes) -> None:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))

        for name in walk(corpus):
            wav, rate = soundfile.read(corpus / name, dtype="float32")
            stream = io.BytesIO()
            options = {"format": "OGG", "subtype": "OPUS", "compression_level": KBPS}
            soundfile.write(stream, wav, rate, **options)
            add(str(Path(name).with_suffix(".opus")), stream.getvalue())
            total += len(stream.getvalue())
        for path in sorted([*corpus.glob("*.csv"), *corpus.glob("*.txt")]):
            text = path.read_text(encoding="utf-8")
            if path.name == "manifest.csv":
                text = re.sub(r"\.(flac|wav|ogg|mp3)\b", ".opus", text)
            add(path.name, text.encode())
    size = target.stat().st_size / 1e6
    print(f"{target}: {size:.1f} MB, {total / 1e6:.1f} MB of them Opus")
    if size > megabytes:
        raise UserError(
            f"{target} is larger than {megabytes:g} MB: pack fewer speakers"
        )


def rehearse() -> None:
    """What takes a minute on any machine is left out: the compiler of --compile."""
    import torch._dynamo  # noqa: F401 - once, for all processes

    torch.compile = partial(torch.compile, backend="eager")


def main() -> int:
    """Measure, or pack speech."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--speech", help="a corpus to train on: a folder or a tar")
    parser.add_argument("--smallest", action="store_true", help="rehearse")
    parser.add_argument("--only", help="names of parts, by commas")
    parser.add_argument("--output", type=Path, help="the report, without its ending")
    parser.add_argument("--pack", type=Path, metavar="CORPUS", help="make a tar of it")
    parser.add_argument("--to", type=Path, default=Path("speech.tar"))
    parser.add_argument("--megabytes", type=float, default=40)
    args = parser.parse_args()
    if args.pack:
        pack(args.pack, args.to, args.megabytes)
        return 0
    if is_cuda(args.device) and not torch.backends.cuda.is_built():
        raise UserError("this PyTorch is built without CUDA: --device cpu rehearses")
    if args.speech and not Path(args.speech).exists():
        raise UserError(f"no such speech: {args.speech}")
    if args.smallest:
        rehearse()
    name = "gpu_report" if is_cuda(args.device) else "gpu_rehearsal"
    out = args.output or HERE / "results" / name
    with tempfile.TemporaryDirectory() as folder:
        made = jobs(args.device, args.smallest, args.speech, Path(folder))
        wanted = args.only.split(",") if args.only else list(TITLES)
        made = made[:1] + [job for job in made[1:] if job.part in wanted]
        run(made, args.minutes, out, args.device, Path(folder))
    print(f"written: {out.with_suffix('.md')}")
    return int(any(job.state.startswith(("failed", "died")) for job in made))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
