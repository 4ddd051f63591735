"""Training heads against their peers, paired in one process.

    python benchmarks/losses.py                 # tables in results/losses_cpu.md
    python benchmarks/losses.py --device cuda   # ... losses_cuda.md
    python benchmarks/losses.py --quick         # a look, nothing written

A step is forward + backward with the gradients of the embeddings and of the weight.
Candidates of a table take turns in random order, and each number is the median over
the rounds of the ratio to the plain head (linear + cross entropy) of the same round.
On a CPU the clock is the process's CPU time with one thread, which other people's load
on the machine disturbs least, and there are two ratios: "kept" when what a step frees
stays with the process for the next one, "returned" when it goes back to the system and
comes anew page by page, as glibc has it with large tensors. A plain training sees
something between, ours on the CPU the first. Peak memory is what
torch's allocator handed out during a step beyond the inputs and the parameters, less
the weight's gradient, in units of one [B, C] of float32. Embeddings are random: no
margin holds, so that Real-AM and AS get nothing for free; a table of its own shows
what they save once margins hold.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import platform
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from importlib import metadata
from pathlib import Path

import torch
import torch.nn.functional as F

from sb_margins.classifiers import CosineClassifier, PoincareClassifier
from sb_margins.head import Head
from sb_margins.losses import (
    AAMSoftmax,
    AMSoftmax,
    ASSoftmax,
    HAMSoftmax,
    HSoftmax,
    RealAMSoftmax,
)

SHAPES = [(256, 192, 5994), (256, 192, 17982), (128, 256, 100_000)]
STREAMED = (64, 192, 1_000_000)
BROADCAST = (256, 192, 5994)


class Step:
    """Forward + backward of a module, from no gradients at all."""

    def __init__(self, module: torch.nn.Module, loss: Callable, data: Data) -> None:
        self.module, self.loss, self.data = module, loss, data

    def reset(self) -> None:
        for weight in self.module.parameters():
            weight.grad = None

    def __call__(self) -> torch.Tensor:
        x = self.data.x.detach().requires_grad_()
        self.reset()
        value = self.loss(x, self.data.labels)
        value.backward()
        return value.detach()


class Data:
    """Embeddings, labels and weights of one shape."""

    def __init__(self, shape: tuple[int, int, int], device: str, easy: float = 0.0):
        self.batch, self.size, self.classes = shape
        self.device = device
        torch.manual_seed(0)
        self.labels = torch.randint(0, self.classes, (self.batch,), device=device)
        self.weight = torch.randn(self.classes, self.size, device=device) * 0.1
        self.x = torch.randn(self.batch, self.size, device=device)
        done = int(easy * self.batch)
        self.x[:done] = self.weight[self.labels[:done]] * 10

    def step(self, module: torch.nn.Module, loss: Callable) -> Step:
        """One step of a module with weights of this size."""
        module.to(self.device)
        with torch.no_grad():
            for weight in module.parameters():
                same = weight.shape == self.weight.shape
                weight.copy_(self.weight if same else self.weight.t())

        return Step(module, loss, self)


def ours(data: Data, geometry: str, loss, mode: str = "store", c: float = 3.0) -> Step:
    """A Head, or the two modules of a stock recipe."""
    if geometry == "cosine":
        classify: torch.nn.Module = CosineClassifier(data.size, data.classes)
    else:
        classify = PoincareClassifier(data.size, data.classes, c)
    if mode == "split":
        return data.step(classify, lambda x, y: loss(classify(x), y))
    head = Head(classify, loss, store=mode == "store")
    return data.step(head, head)


def plain(data: Data) -> Step:
    linear = torch.nn.Linear(data.size, data.classes, bias=False)
    return data.step(linear, lambda x, y: F.cross_entropy(linear(x), y))


def normalised(data: Data) -> Step:
    layer = torch.nn.Linear(data.size, data.classes, bias=False)

    def loss(x, y):
        cos = F.linear(F.normalize(x), F.normalize(layer.weight))
        return F.cross_entropy(30 * cos, y)

    return data.step(layer, loss)


def speechbrain_aam(data: Data) -> Step:
    from speechbrain.lobes.models.ECAPA_TDNN import Classifier
    from speechbrain.nnet.losses import AdditiveAngularMargin, LogSoftmaxWrapper

    classify = Classifier(data.size, out_neurons=data.classes)
    cost = LogSoftmaxWrapper(AdditiveAngularMargin(0.2, 30))
    return data.step(
        classify, lambda x, y: cost(classify(x.unsqueeze(1)), y.unsqueeze(1))
    )


def metric_learning(data: Data, name: str) -> Step:
    from pytorch_metric_learning import losses

    margin = 11.5 if name == "ArcFaceLoss" else 0.2
    loss = getattr(losses, name)(data.classes, data.size, margin=margin, scale=30)
    return data.step(loss, loss)


class Broadcast(torch.nn.Module):
    """The Poincaré head as others ship it: [B, C, D] differences."""

    def __init__(self, data: Data) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(data.classes, data.size))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        def inside(u):
            norm = u.norm(dim=-1, keepdim=True).clamp_min(1e-5)
            return u * ((1 - 1e-5) / 3**0.5 / norm).clamp_max(1)

        x, w = inside(x)[:, None], inside(self.weight)[None]
        square = (x - w).square().sum(-1)
        room = (1 - x.square().sum(-1)) * (1 - w.square().sum(-1))
        d = torch.acosh(1 + 2 * square / room.clamp_min(1e-5))
        margin = 0.2 * F.one_hot(y, len(self.weight))
        return F.cross_entropy(-30 * (d + margin), y)


def broadcast(data: Data) -> Step:
    head = Broadcast(data)
    return data.step(head, head)


def candidates(data: Data) -> dict[str, Callable[[], Step]]:
    """Everything of the main tables, by name; built one at a time."""
    return {
        "linear + cross entropy": lambda: plain(data),
        "normalised linear + cross entropy": lambda: normalised(data),
        "SpeechBrain AAM": lambda: speechbrain_aam(data),
        "metric-learning ArcFace": lambda: metric_learning(data, "ArcFaceLoss"),
        "metric-learning CosFace": lambda: metric_learning(data, "CosFaceLoss"),
        "AM": lambda: ours(data, "cosine", AMSoftmax()),
        "AAM": lambda: ours(data, "cosine", AAMSoftmax()),
        "Real-AM zero": lambda: ours(data, "cosine", RealAMSoftmax()),
        "Real-AM drop": lambda: ours(data, "cosine", RealAMSoftmax(satisfied="drop")),
        "AS": lambda: ours(data, "cosine", ASSoftmax()),
        "H": lambda: ours(data, "ball", HSoftmax(), c=5.0),
        "HAM": lambda: ours(data, "ball", HAMSoftmax()),
        "AAM, recomputed": lambda: ours(data, "cosine", AAMSoftmax(), "again"),
        "Real-AM zero, recomputed": lambda: ours(
            data, "cosine", RealAMSoftmax(), "again"
        ),
        "AS, recomputed": lambda: ours(data, "cosine", ASSoftmax(), "again"),
        "HAM, recomputed": lambda: ours(data, "ball", HAMSoftmax(), "again"),
        "AAM, split modules": lambda: ours(data, "cosine", AAMSoftmax(), "split"),
        "Real-AM zero, split modules": lambda: ours(
            data, "cosine", RealAMSoftmax(), "split"
        ),
        "AS, split modules": lambda: ours(data, "cosine", ASSoftmax(), "split"),
        "HAM, split modules": lambda: ours(data, "ball", HAMSoftmax(), "split"),
    }


def clock(device: str) -> float:
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def keep_freed(keep: bool) -> bool:
    """Have glibc keep freed memory, or return it; False where there is no glibc."""
    try:
        libc = ctypes.CDLL(None)
        # <malloc.h>: M_MMAP_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
        libc.mallopt(-4, 0 if keep else 65536)
        libc.mallopt(-3, 128 << 10)
        libc.mallopt(-1, 2**31 - 1 if keep else 128 << 10)
        libc.malloc_trim(0)
    except (OSError, TypeError, AttributeError):
        return False
    return True


def take_turns(
    steps: dict[str, Step], rounds: int, device: str, keep: bool = True
) -> dict[str, tuple[float, float, float, float]]:
    """Median milliseconds, and median and quartiles of the ratios to the first."""
    if device == "cpu":
        keep_freed(keep)
    times: dict[str, list[float]] = {name: [] for name in steps}
    names, base = list(steps), next(iter(steps))
    for name in names:
        steps[name]()
    for _ in range(rounds):
        random.shuffle(names)
        for name in names:
            gc.disable()
            start = clock(device)
            steps[name]()
            times[name].append(clock(device) - start)
            gc.enable()
    found = {}
    for name, own in times.items():
        ratios = [a / b for a, b in zip(own, times[base], strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4)
        middle = statistics.median(ratios)
        found[name] = (1e3 * statistics.median(own), middle, low, high)
    return found


def peak_bytes(step: Step, device: str) -> int:
    """What torch's allocator handed out at most during a step."""
    gc.collect()
    if device != "cpu":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        step()
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        profile.export_chrome_trace(file.name)
        with open(file.name) as stream:
            events = json.load(stream)["traceEvents"]
    events = [e for e in events if e.get("name") == "[memory]"]
    live = top = 0
    for event in sorted(events, key=lambda e: e["ts"]):
        live += event["args"]["Bytes"]
        top = max(top, live)
    return top


def memory_units(build: Callable[[], Step], data: Data) -> float:
    """Peak beyond the weight's gradient, in [B, C] of float32."""
    step = build()
    step()
    step.reset()  # the allocator's trace misses the release of older memory
    peak = peak_bytes(step, data.device) - 4 * data.classes * data.size
    return peak / (4 * data.batch * data.classes)


def main_table(shape, args, lines: list[str]) -> None:
    """Time and memory of all candidates at one shape."""
    data = Data(shape, args.device)
    steps, memory = {}, {}
    for name, build in candidates(data).items():
        try:
            steps[name] = build()
        except ImportError as error:
            print(f"skipped {name}: {error}", file=sys.stderr)
            continue
        memory[name] = memory_units(build, data)
    lines += [f"\n## B, D, C = {shape[0]}, {shape[1]}, {shape[2]:,}\n"]
    time_table(steps, memory, args.rounds, args.device, lines)


def time_table(steps, memory, rounds: int, device: str, lines: list[str]) -> None:
    """Time of all steps in turns, with memory kept and returned."""
    kept = take_turns(steps, rounds, device)
    returned = kept
    if device == "cpu" and keep_freed(False):
        returned = take_turns(steps, rounds, device, keep=False)
    start = len(lines)
    first = next(iter(steps))
    lines += [
        f"| head | ms, kept | ratio to {first}, kept | returned | memory, [B, C] |"
    ]
    lines += ["|---|---:|---:|---:|---:|"]
    for name, (ms, *ratios) in kept.items():
        both = [ratios, returned[name][1:]]
        told = " | ".join("**{:.2f}** ({:.2f}-{:.2f})".format(*r) for r in both)
        lines.append(f"| {name} | {ms:.1f} | {told} | {memory[name]:.3f} |")
    print("\n".join(lines[start - 1 :]), flush=True)


def small_table(title, shape, builders, args, lines, rounds=None) -> None:
    """Time and memory of a few candidates."""
    data = Data(shape, args.device)
    made = builders(data)
    memory = {name: memory_units(build, data) for name, build in made.items()}
    steps = {name: build() for name, build in made.items()}
    lines += [f"\n## {title}: B, D, C = {shape[0]}, {shape[1]}, {shape[2]:,}\n"]
    time_table(steps, memory, rounds or args.rounds, args.device, lines)


def streamed(data: Data) -> dict[str, Callable[[], Step]]:
    return {
        "linear + cross entropy": lambda: plain(data),
        "AAM, recomputed": lambda: ours(data, "cosine", AAMSoftmax(), "again"),
        "Real-AM zero, recomputed": lambda: ours(
            data, "cosine", RealAMSoftmax(), "again"
        ),
        "HAM, recomputed": lambda: ours(data, "ball", HAMSoftmax(), "again"),
    }


def against_broadcast(data: Data) -> dict[str, Callable[[], Step]]:
    return {
        "HAM": lambda: ours(data, "ball", HAMSoftmax()),
        "broadcast [B, C, D] HAM": lambda: broadcast(data),
    }


def late_table(shape, args, lines: list[str]) -> None:
    """What Real-AM and AS save once margins hold."""
    lines += [
        f"\n## Late in training: B, D, C = {shape[0]}, {shape[1]}, {shape[2]:,}\n"
    ]
    lines += ["| rows whose margins hold | AAM | Real-AM drop | Real-AM zero | AS |"]
    lines += ["|---:|---:|---:|---:|---:|"]
    for easy in (0.0, 0.5, 0.75, 1.0):
        data = Data(shape, args.device, easy)
        steps = {
            "plain": plain(data),
            "AAM": ours(data, "cosine", AAMSoftmax()),
            "drop": ours(data, "cosine", RealAMSoftmax(satisfied="drop")),
            "zero": ours(data, "cosine", RealAMSoftmax()),
            "AS": ours(data, "cosine", ASSoftmax()),
        }
        times = take_turns(steps, args.rounds, args.device)
        cells = " | ".join(f"{times[n][1]:.2f}" for n in steps if n != "plain")
        lines.append(f"| {easy:.0%} | {cells} |")
    print("\n".join(lines[-6:]), flush=True)


def half_precision(args, lines: list[str]) -> None:
    """Error of the embeddings' gradient under bf16 autocast, against float64."""
    from speechbrain.lobes.models.ECAPA_TDNN import Classifier
    from speechbrain.nnet.losses import AdditiveAngularMargin, LogSoftmaxWrapper

    data = Data((256, 192, 5994), args.device)
    x = (data.x + 12 * data.weight[data.labels]).bfloat16()
    head = Head(CosineClassifier(192, 5994), AAMSoftmax()).to(args.device)
    theirs = Classifier(192, out_neurons=5994).to(args.device)
    cost = LogSoftmaxWrapper(AdditiveAngularMargin(0.2, 30))
    for weight in (head.classifier.weight, theirs.weight):
        weight.data.copy_(data.weight)

    def grads(run, module, x, on):
        x = x.detach().requires_grad_()
        module.zero_grad()
        with torch.autocast(args.device, torch.bfloat16, enabled=on):
            loss = run(x)
        loss.backward()
        return x.grad.double(), next(module.parameters()).grad.double().clone()

    def our(x):
        return head(x, data.labels)

    def their(x):
        return cost(theirs(x.unsqueeze(1)), data.labels.unsqueeze(1))

    runs = {
        "sb_margins Head": grads(our, head, x, True),
        "SpeechBrain": grads(their, theirs, x, True),
    }
    exact = grads(our, head.double(), x.double(), False)
    lines += ["\n## bf16 autocast: error of the gradients against float64\n"]
    lines += ["| head | embeddings, mean per row | worst row | weight |"]
    lines += ["|---|---:|---:|---:|"]
    for name, (dx, dw) in runs.items():
        rows = (dx - exact[0]).norm(dim=1) / exact[0].norm(dim=1)
        weight = (dw - exact[1]).norm() / exact[1].norm()
        lines.append(
            f"| {name} | {rows.mean():.2%} | {rows.max():.2%} | {weight:.2%} |"
        )
    lines.append(
        "\nThe embeddings are bf16, so their gradient is rounded to bf16 on the way "
        "out (0.2 %); the weight's is float32."
    )
    print("\n".join(lines[-6:]), flush=True)


COSINE = ("AM", "AAM", "Real-AM zero", "Real-AM drop", "AS")
TARGETS = (
    # heads, column (time against the plain head, or memory), most that is wanted
    (COSINE, "time", 1.1),
    (("H", "HAM"), "time", 1.4),
    ((*COSINE, "H", "HAM"), "memory", 1.5),
    (("AAM, recomputed", "HAM, recomputed"), "memory", 0.6),
    (tuple(f"{n}, split modules" for n in ("AAM", "AS", "HAM")), "time", 1.5),
)


def verdict(text: str) -> list[str]:
    """What was wanted of these tables, and what was missed."""
    shape, found = "", {}
    for line in text.splitlines():
        if line.startswith("## "):
            shape = line[3:].removeprefix("B, D, C = ")
        ratio = r"\*\*([\d.]+)\*\*"
        row = re.match(
            rf"\| (.+?) \| [\d.]+ \| {ratio} .*{ratio} .*\| ([\d.]+) \|$", line
        )
        if row:
            kept, returned, memory = map(float, row.groups()[1:])
            found[shape, row[1]] = {
                "kept": kept,
                "returned": returned,
                "memory": memory,
            }
    lines = ["\n## Targets\n", "| wanted | missed at |", "|---|---|"]
    shapes = [f"{b}, {d}, {c:,}" for b, d, c in SHAPES]

    def row(wanted: str, missed: Callable[[dict, str], str | None]) -> None:
        told = [
            f"{name} {text} at C = {shape.split(', ')[2]}"
            for (shape, name), values in found.items()
            if shape in shapes and (text := missed(values, name))
        ]
        lines.append(f"| {wanted} | {'; '.join(told) or 'nothing'} |")

    def over(heads, column: str, most: float):
        def missed(values: dict, name: str) -> str | None:
            much = name in heads and values[column] > most
            return f"{values[column]:.2f}" if much else None

        return missed

    def slow(column: str):
        def missed(values: dict, name: str) -> str | None:
            ratio = values["theirs"][column] / values[column] if name == "AAM" else 9.0
            return f"{ratio:.1f}x" if ratio < 3.5 else None

        return missed

    for shape in shapes:
        if (shape, "SpeechBrain AAM") in found and (shape, "AAM") in found:
            found[shape, "AAM"]["theirs"] = found[shape, "SpeechBrain AAM"]
    for heads, column, most in TARGETS:
        names = ", ".join(heads)
        if column == "memory":
            row(f"memory <= {most} [B, C] ({names})", over(heads, column, most))
            continue
        for which in ("kept", "returned"):
            told = f"time <= {most} x the plain head, {which} ({names})"
            row(told, over(heads, which, most))
    for which in ("kept", "returned"):
        row(f"AAM at least 3.5x faster than SpeechBrain's, {which}", slow(which))
    lines.append(
        "\nWhere time is missed: the plain head has no classes to normalise (four "
        "passes over the weight, besides its products) and some 150 small operations "
        "less, 1 to 2 ms at any size; with memory kept it does not pay for its larger "
        "matrices, either. How much that weighs depends on the processor."
    )
    return lines


def versions(device: str) -> list[str]:
    names = ("torch", "speechbrain", "pytorch-metric-learning")
    found = []
    for name in names:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"{name} absent")
    chip = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                chip = line.split(":", 1)[1].strip()
    if device != "cpu":
        chip = torch.cuda.get_device_name()
    how = "CPU time, one thread" if device == "cpu" else "wall time"
    return [
        f"{date.today()}; {chip}; {how}; {', '.join(found)}; "
        f"Python {platform.python_version()}."
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--quick", action="store_true", help="small, not written")
    args = parser.parse_args()
    if args.device == "cpu":
        torch.set_num_threads(1)
    random.seed(0)
    lines = ["# Training heads: time and memory\n", *versions(args.device), ""]
    lines += [__doc__.split("\n\n", 2)[2].strip()]
    kind = args.device.split(":")[0]
    path = args.output or Path(__file__).parent / "results" / f"losses_{kind}.md"

    def save() -> None:  # after each table: a long run may be cut short
        if not args.quick:
            path.parent.mkdir(exist_ok=True)
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    for shape in [(64, 192, 2000)] if args.quick else SHAPES:
        main_table(shape, args, lines)
        save()
    half_precision(args, lines)
    small_table("Broadcast Poincaré", BROADCAST, against_broadcast, args, lines, 3)
    save()
    if not args.quick:
        small_table("A million classes, streamed", STREAMED, streamed, args, lines, 4)
        save()
    late_table((64, 192, 2000) if args.quick else SHAPES[1], args, lines)
    lines += verdict("\n".join(lines))
    save()
    if not args.quick:
        print(f"written: {path}")


if __name__ == "__main__":
    main()
