"""Training heads against their peers, paired in one process.

    python benchmarks/losses.py                 # tables in results/losses_cpu.md
    python benchmarks/losses.py --device cuda   # ... losses_cuda.md
    python benchmarks/losses.py --quick         # a look, nothing written

A step is forward + backward with the gradients of the embeddings and of the weight.
Each candidate takes turns with the plain head (linear + cross entropy) in random order,
and its ratio is the median over the rounds, with the quartiles.
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
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from measure import is_cuda, keep_freed, peak_bytes, setting, table, take_turns

from sb_margins.classifiers import (
    AdjustedCosineClassifier,
    CosineClassifier,
    PoincareClassifier,
)
from sb_margins.head import Head
from sb_margins.losses import (
    AAMSoftmax,
    AMSoftmax,
    ASSoftmax,
    HAMSoftmax,
    HSoftmax,
    RealAMSoftmax,
    SphereFace2,
)

SHAPES = [(256, 192, 5994), (256, 192, 17982), (128, 256, 100_000)]
STREAMED = (64, 192, 1_000_000)
BROADCAST = (256, 192, 5994)
PLAIN, FUSED = "linear + cross entropy", "torch's fused linear cross entropy"
THEIRS = "SpeechBrain AAM"


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
            for weight in (w for w in module.parameters() if w.dim() == 2):
                same = weight.shape == self.weight.shape
                weight.copy_(self.weight if same else self.weight.t())

        return Step(module, loss, self)


def ours(data: Data, geometry: str, loss, mode: str = "store", c: float = 3.0) -> Step:
    """A Head, or the two modules of a stock recipe."""
    if geometry == "cosine":
        classify: torch.nn.Module = CosineClassifier(data.size, data.classes)
    elif geometry == "adjusted":
        classify = AdjustedCosineClassifier(data.size, data.classes, bias=0.3)
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


def sphereface2_as_written(data: Data) -> Step:
    layer = torch.nn.Linear(data.size, data.classes, bias=False)
    layer.register_parameter("b", torch.nn.Parameter(torch.tensor(9.6)))

    def loss(x, y):
        cos = F.linear(F.normalize(x), F.normalize(layer.weight))
        z = 32 * (2 * ((cos + 1) / 2) ** 3 - 1) + layer.b
        own, other = 0.7 * F.softplus(6.4 - z), 0.3 * F.softplus(z + 6.4)
        return torch.where(F.one_hot(y, cos.shape[1]) > 0, own, other).sum(1).mean()

    return data.step(layer, loss)


def speechbrain_aam(data: Data) -> Step:
    from speechbrain.lobes.models.ECAPA_TDNN import Classifier
    from speechbrain.nnet.losses import AdditiveAngularMargin, LogSoftmaxWrapper

    classify = Classifier(data.size, out_neurons=data.classes)
    cost = LogSoftmaxWrapper(AdditiveAngularMargin(0.2, 30))
    return data.step(
        classify, lambda x, y: cost(classify(x.unsqueeze(1)), y.unsqueeze(1))
    )


def torch_fused(data: Data) -> Step:
    """torch's own linear + cross entropy in chunks of the batch (torch 2.13)."""
    if not hasattr(F, "linear_cross_entropy"):
        raise ImportError("torch is older than 2.13", name="torch 2.13")
    linear = torch.nn.Linear(data.size, data.classes, bias=False)
    options = torch.nn.LinearCrossEntropyOptions()

    def loss(x, y):
        return F.linear_cross_entropy(x, linear.weight, y, options=options)

    return data.step(linear, loss)


def cut_cross_entropy(data: Data) -> Step:
    """Apple's Triton kernels; they take half precision alone."""
    from cut_cross_entropy import linear_cross_entropy

    linear = torch.nn.Linear(data.size, data.classes, bias=False)

    def loss(x, y):
        return linear_cross_entropy(x.bfloat16(), linear.weight.bfloat16(), y)

    return data.step(linear, loss)


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
        PLAIN: lambda: plain(data),
        FUSED: lambda: torch_fused(data),
        "cut-cross-entropy, bf16": lambda: cut_cross_entropy(data),
        "normalised linear + cross entropy": lambda: normalised(data),
        THEIRS: lambda: speechbrain_aam(data),
        "metric-learning ArcFace": lambda: metric_learning(data, "ArcFaceLoss"),
        "metric-learning CosFace": lambda: metric_learning(data, "CosFaceLoss"),
        "AM": lambda: ours(data, "cosine", AMSoftmax()),
        "AAM": lambda: ours(data, "cosine", AAMSoftmax()),
        "Real-AM zero": lambda: ours(data, "cosine", RealAMSoftmax()),
        "Real-AM drop": lambda: ours(data, "cosine", RealAMSoftmax(satisfied="drop")),
        "AS": lambda: ours(data, "cosine", ASSoftmax()),
        "H": lambda: ours(data, "ball", HSoftmax(), c=5.0),
        "HAM": lambda: ours(data, "ball", HAMSoftmax()),
        "SphereFace2 as written": lambda: sphereface2_as_written(data),
        "SphereFace2": lambda: ours(data, "adjusted", SphereFace2()),
        "SphereFace2, recomputed": lambda: ours(
            data, "adjusted", SphereFace2(), "again"
        ),
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


def memory_units(step: Step) -> float:
    """Peak beyond the weight's gradient, in [B, C] of float32."""
    data = step.data
    step()
    step.reset()  # the allocator's trace misses the release of older memory
    peak = peak_bytes(step, data.device) - 4 * data.classes * data.size
    return peak / (4 * data.batch * data.classes)


def compare(
    shape: tuple[int, int, int],
    device: str,
    rounds: int,
    builders: Callable[[Data], dict[str, Callable[[], Step]]] = candidates,
) -> Iterator[dict[str, Any]]:
    """A row for each candidate, each in turns with the first.

    Nothing but those two is in memory then, so that a million classes fit. What is not
    installed, or does not fit, says so in its row.
    """
    data = Data(shape, device)
    made = builders(data)
    first = next(iter(made))
    base = made[first]()
    for name, build in made.items():
        row: dict[str, Any] = {"head": name}
        try:
            step = base if name == first else build()
            memory = memory_units(step)
            turns = {first: base, name: step}
            kept = take_turns(turns, rounds, device)[name]
            row |= {"ms": kept[0], f"ratio to {first}": spread(kept)}
            if not is_cuda(device) and keep_freed(False):
                returned = take_turns(turns, rounds, device, keep=False)[name]
                row |= {"memory returned": spread(returned)}
            row |= {"peak memory, [B, C]": memory}
        except ImportError as error:
            row["ms"] = f"not installed ({error.name})"
        except torch.OutOfMemoryError:
            row["ms"] = "out of memory"
        except Exception as error:  # of a peer, in most cases: the others go on
            row["ms"] = f"failed: {type(error).__name__}: {error}".splitlines()[0][:200]
        base.reset()
        step = None
        if is_cuda(device):
            torch.cuda.empty_cache()
        yield row


def spread(times: Sequence[float]) -> str:
    """Median and quartiles of a ratio."""
    return "**{:.2f}** ({:.2f}-{:.2f})".format(*times[1:])


def streamed(data: Data) -> dict[str, Callable[[], Step]]:
    some = (PLAIN, FUSED, "AAM, recomputed", "Real-AM zero, recomputed")
    made = candidates(data)
    return {name: made[name] for name in (*some, "HAM, recomputed")}


def against_broadcast(data: Data) -> dict[str, Callable[[], Step]]:
    return {
        "HAM": lambda: ours(data, "ball", HAMSoftmax()),
        "broadcast [B, C, D] HAM": lambda: broadcast(data),
    }


def late(shape: tuple[int, int, int], device: str, rounds: int) -> Iterator[dict]:
    """What Real-AM and AS save once margins hold: ratios to the plain head."""
    names = ("AAM", "Real-AM drop", "Real-AM zero", "AS")
    for easy in (0.0, 0.5, 0.75, 1.0):
        made = candidates(Data(shape, device, easy))
        steps = {name: made[name]() for name in (PLAIN, *names)}
        times = take_turns(steps, rounds, device)
        row = {"rows whose margins hold": f"{easy:.0%}"}
        yield row | {name: f"{times[name][1]:.2f}" for name in names}


HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
SCALE = 2.0**12  # of the loss, as a GradScaler has it, so that fp16 keeps gradients


def half_precision(
    precision: str,
    device: str,
    shape: tuple[int, int, int] = (256, 192, 5994),
    names: Sequence[str] = ("AAM", "AAM, split modules", "AS", "HAM", THEIRS),
) -> Iterator[dict[str, Any]]:
    """Errors of the gradients under autocast, against the same head in float64."""
    data, dtype = Data(shape, device), HALVES[precision]
    sure = torch.linspace(0, 12, data.batch, device=device).unsqueeze(1)
    x = (data.x + sure * data.weight[data.labels]).to(dtype)

    def gradients(step: Step, x: torch.Tensor, half: bool) -> tuple:
        x = x.detach().requires_grad_()
        step.reset()
        with torch.autocast(torch.device(device).type, dtype, enabled=half):
            value = step.loss(x, data.labels)
        (value * SCALE).backward()
        weight = next(step.module.parameters())
        return x.grad.double() / SCALE, weight.grad.double() / SCALE

    for name in names:
        row: dict[str, Any] = {"head": name, "autocast": precision}
        try:
            step = candidates(data)[name]()
            dx, dw = gradients(step, x, True)
            step.module.to(device, torch.float64)
            exact_x, exact_w = gradients(step, x.double(), False)
            learn = exact_x.norm(dim=1) > 0  # AS-Softmax leaves some rows alone
            rows = (dx - exact_x)[learn].norm(dim=1) / exact_x[learn].norm(dim=1)
            weight = float((dw - exact_w).norm() / exact_w.norm())
            row["embeddings, mean per row"] = f"{rows.mean().item():.2%}"
            row["worst row"] = f"{rows.max().item():.2%}"
            row["weight"] = f"{weight:.2%}"
        except ImportError as error:
            row["embeddings, mean per row"] = f"not installed ({error.name})"
        yield row


ROUNDING = (
    "The embeddings are in half precision, so their gradient is rounded on the way out "
    "(bf16: 0.2 %); the weight's is float32. The loss is scaled by 2^12 for backward."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--quick", action="store_true", help="small, not written")
    args = parser.parse_args()
    device, rounds = args.device, args.rounds
    if not is_cuda(device):
        torch.set_num_threads(1)
    random.seed(0)
    lines = ["# Training heads: time and memory\n", setting(device), ""]
    lines += [f"Median of {rounds} rounds.", "", __doc__.split("\n\n", 2)[2].strip()]
    name = "losses_cuda.md" if is_cuda(device) else "losses_cpu.md"
    path = args.output or Path(__file__).parent / "results" / name

    def add(title: str, rows: Iterator[dict[str, Any]], *notes: str) -> None:
        found = []
        for row in rows:
            found.append(row)
            print(*row.values(), sep="  ", flush=True)
        lines.extend([f"\n## {title}\n", *table(found), *notes])
        if not args.quick:  # after each table: a long run may be cut short
            path.parent.mkdir(exist_ok=True)
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def told(shape: tuple[int, int, int]) -> str:
        return "B, D, C = {}, {}, {:,}".format(*shape)

    small = (64, 192, 2000)
    for shape in [small] if args.quick else SHAPES:
        add(told(shape), compare(shape, device, rounds))
    errors = half_precision("bf16", device, small if args.quick else SHAPES[0])
    add("bf16 autocast: error of the gradients", errors, "", ROUNDING)
    shape = small if args.quick else BROADCAST
    rows = compare(shape, device, min(rounds, 3), against_broadcast)
    add(f"Broadcast Poincaré: {told(shape)}", rows)
    if not args.quick:
        rows = compare(STREAMED, device, min(rounds, 4), streamed)
        add(f"A million classes, streamed: {told(STREAMED)}", rows)
    shape = small if args.quick else SHAPES[1]
    add(f"Late in training: {told(shape)}", late(shape, device, rounds))
    if not args.quick:
        print(f"written: {path}")


if __name__ == "__main__":
    main()
