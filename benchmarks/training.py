"""A training step and an epoch, ours against SpeechBrain's stock flow.

    python benchmarks/training.py            # writes results/training_cpu.md

Both flows train the same ECAPA-TDNN on the same crops length, batch, files and
augmentation, each in a process of its own with one thread, in turn; times are processor
seconds, the least of some rounds. Stock is what SpeechBrain's VoxCeleb recipe does:
DynamicItemDataset with a pipeline that reads a random crop of a file, PaddedBatch,
ECAPA's Classifier, LogSoftmaxWrapper(AdditiveAngularMargin), Adam, a cyclic rate.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import soundfile
import speechbrain as sb
import torch
from speechbrain.dataio import audio_io
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.ECAPA_TDNN import (
    ECAPA_TDNN,
    Classifier as StockClassifier,
)
from speechbrain.nnet.losses import AdditiveAngularMargin, LogSoftmaxWrapper
from speechbrain.nnet.schedulers import CyclicLRScheduler, WarmAndExpDecayLRSchedule
from speechbrain.processing.features import InputNormalization
from speechbrain.utils.run_opts import RunOptions

from sb_margins import select
from sb_margins.data import Manifest, Utterance
from sb_margins.schedules import LossSchedule
from sb_margins.training.augment import build_augmenter
from sb_margins.training.brain import SpeakerBrain
from sb_margins.training.crops import CropDataset, CropSampler, collate
from sb_margins.training.log import History
from sb_margins.training.process import keep_memory
from sb_margins.training.settings import TrainingSettings
from sb_margins.versions import versions

HERE = Path(__file__).resolve().parent
BATCH, SECONDS, RATE, EMB = 32, 2.0, 16000, 192
FILES, SPEAKERS = 96, 24


def encoder(channels: int) -> torch.nn.Module:
    """ECAPA-TDNN of the recipe's shape."""
    return ECAPA_TDNN(
        80,
        channels=[channels] * 4 + [channels * 3],
        kernel_sizes=[5, 3, 3, 3, 1],
        dilations=[1, 2, 3, 4, 1],
        attention_channels=128,
        lin_neurons=EMB,
    )


def modules(channels: int, **more: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Features, normalisation, encoder, and a head."""
    torch.manual_seed(1)
    return {
        "compute_features": Fbank(n_mels=80),
        "mean_var_norm": InputNormalization(norm_type="sentence", std_norm=False),
        "embedding_model": encoder(channels),
        **more,
    }


def adam(fused: bool) -> Any:
    """The optimiser of both; ours is the fused one, as in our YAMLs."""
    return partial(torch.optim.Adam, lr=1e-3, weight_decay=2e-6, fused=fused)


class StockBrain(sb.Brain):
    """SpeechBrain's train_speaker_embeddings.py."""

    def compute_forward(self, batch: Any, stage: sb.Stage) -> Any:
        batch = batch.to(self.device)
        wavs, lens = batch.sig
        wavs, lens = self.hparams.wav_augment(wavs, lens)
        feats = self.modules.compute_features(wavs)
        feats = self.modules.mean_var_norm(feats, lens)
        embeddings = self.modules.embedding_model(feats)
        return self.modules.classifier(embeddings), lens

    def compute_objectives(self, predictions: Any, batch: Any, stage: sb.Stage) -> Any:
        predictions, lens = predictions
        labels, _ = batch.spk_id_encoded
        loss = self.hparams.compute_cost(predictions, labels, lens)
        self.hparams.lr_annealing.on_batch_end(self.optimizer)
        return loss


def corpus(folder: Path) -> Manifest:
    """Noise files of 3 to 6 s; what they hold does not matter for the time."""
    rng, rows = np.random.default_rng(1), []
    for k in range(FILES):
        seconds = float(rng.uniform(3, 6))
        wav = 0.1 * rng.standard_normal(int(seconds * RATE))
        soundfile.write(folder / f"{k}.wav", wav, RATE)
        speaker = f"s{k % SPEAKERS}"
        rows.append(Utterance(f"{k}.wav", f"{k}.wav", seconds, speaker, RATE, {}))
    return Manifest(rows, folder)


def stock_data(manifest: Manifest, classes: int) -> DynamicItemDataset:
    """The recipe's audio pipeline: a random crop read from the file, the label."""
    items = {
        u.id: {
            "wav": str(manifest.path(u)),
            "duration": u.duration,
            "spk_id": int(u.spk_id[1:]) * (classes // SPEAKERS),
        }
        for u in manifest
    }
    length = int(SECONDS * RATE)

    @sb.utils.data_pipeline.takes("wav", "duration")
    @sb.utils.data_pipeline.provides("sig")
    def audio(wav: str, duration: float) -> torch.Tensor:
        start = random.randint(0, int(duration * RATE) - length)
        sig, _ = audio_io.load(wav, num_frames=length, frame_offset=start)
        return sig.transpose(0, 1).squeeze(1)

    @sb.utils.data_pipeline.takes("spk_id")
    @sb.utils.data_pipeline.provides("spk_id_encoded")
    def label(spk_id: int) -> torch.Tensor:
        return torch.LongTensor([spk_id])

    keys = ["id", "sig", "spk_id_encoded"]
    return DynamicItemDataset(items, [audio, label], keys)


def options() -> RunOptions:
    """One CPU, no bar."""
    return RunOptions.from_dictionary({"device": "cpu", "noprogressbar": True})


class Ours(SpeakerBrain):
    """Without the line that it prints after each epoch."""

    def record(self, epoch: int, train: Any, valid: Any) -> None:
        """Nothing."""


def stock_flow(manifest: Manifest, channels: int, classes: int) -> tuple[Any, Any]:
    """SpeechBrain's Brain and its loader."""
    brain = StockBrain(
        modules(channels, classifier=StockClassifier(EMB, out_neurons=classes)),
        adam(False),
        {
            "wav_augment": build_augmenter(str(manifest.root)),
            "compute_cost": LogSoftmaxWrapper(AdditiveAngularMargin(0.2, 30)),
            "lr_annealing": CyclicLRScheduler(1e-8, 1e-3, 65000),
        },
        options(),
    )
    data = stock_data(manifest, classes)
    words = {"batch_size": BATCH, "drop_last": True, "shuffle": True}
    return brain, brain.make_dataloader(data, sb.Stage.TRAIN, None, **words)


def our_flow(manifest: Manifest, channels: int, classes: int) -> tuple[Any, Any]:
    """Our Brain and its loader."""
    head = select.head("aam", EMB, classes)
    steps = FILES // BATCH
    hparams = {
        "head": head,
        "wav_augment": build_augmenter(str(manifest.root)),
        "lr_annealing": WarmAndExpDecayLRSchedule(1e-3, steps, 99 * steps),
        "loss_schedules": [LossSchedule("margin", end=1)],
    }
    brain = Ours(
        modules(channels, head=head),
        adam(True),
        hparams,
        options(),
        settings=TrainingSettings(seed=1, number_of_epochs=99, batch_size=BATCH),
        steps_per_epoch=steps,
        history=History(manifest.root / "history.csv"),
    )
    labels = {f"s{k}": k * (classes // SPEAKERS) for k in range(SPEAKERS)}
    crops = CropDataset(manifest, labels, seconds=SECONDS, seed=1)
    brain.train_sampler = CropSampler(FILES, repeats=1, seed=1)
    words = {"batch_size": BATCH, "drop_last": True, "collate_fn": collate}
    words["sampler"] = brain.train_sampler
    return brain, brain.make_dataloader(crops, sb.Stage.TRAIN, None, **words)


FLOWS = {"stock": stock_flow, "ours": our_flow}


def measure_flow(name: str, channels: int, classes: int, rounds: int) -> dict[str, Any]:
    """Least processor seconds of an epoch and of a step without reading."""
    if name == "ours":
        keep_memory()  # as `sb-margins train` does
    epochs, steps = [], []
    with tempfile.TemporaryDirectory() as folder:
        brain, loader = FLOWS[name](corpus(Path(folder)), channels, classes)
        brain.on_fit_start()
        batch = next(iter(loader))
        for epoch in range(1, rounds + 1):
            start = time.process_time()
            if channels < 1024:  # one step of the large encoder says enough
                brain._fit_train(loader, epoch, False)
            epochs.append(time.process_time() - start)
            brain.step, brain.nonfinite_count = 1, 0
            start = time.process_time()
            brain.fit_batch(batch)
            steps.append(time.process_time() - start)
            brain.step = 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"epoch": min(epochs), "step": min(steps), "peak": peak}


def measure(channels: int, classes: int, rounds: int, times: int) -> dict[str, Any]:
    """Both flows, each some times in a process of its own, in turn; the least."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in FLOWS}
    for _ in range(times):
        for name in FLOWS:
            words = [name, str(channels), str(classes), str(rounds)]
            command = [sys.executable, __file__, "--flow", *words]
            told = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
            found[name].append(json.loads(told.splitlines()[-1]))
    return {
        name: {key: min(run[key] for run in runs) for key in runs[0]}
        for name, runs in found.items()
    }


def head_seconds(classes: int, rounds: int = 5) -> dict[str, float]:
    """Forward and backward of the two heads alone."""
    torch.manual_seed(1)
    x = torch.randn(BATCH, EMB)
    y = torch.randint(classes, (BATCH,))
    ours = select.head("aam", EMB, classes)
    classify = StockClassifier(EMB, out_neurons=classes)
    cost = LogSoftmaxWrapper(AdditiveAngularMargin(0.2, 30))
    calls = {
        "ours": lambda e: ours(e, y),
        "stock": lambda e: cost(classify(e.unsqueeze(1)), y.unsqueeze(1)),
    }
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            leaf = x.clone().requires_grad_()
            start = time.process_time()
            call(leaf).backward()
            best[name] = min(best[name], time.process_time() - start)
    return best


def processor() -> str:
    """The CPU's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown CPU"
    names = [x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")]
    return names[0] if names else "unknown CPU"


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--times", type=int, default=2, help="processes of each flow")
    parser.add_argument("--large", type=int, default=1024, help="channels; 0: none")
    parser.add_argument("--flow", nargs=4, help="one flow in this process, as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.flow:
        name, *numbers = args.flow
        print(json.dumps(measure_flow(name, *map(int, numbers))))
        return
    told = ", ".join(f"{k} {v}" for k, v in versions().items())
    page = [
        "# Training against SpeechBrain's stock flow",
        "",
        f"Written by `benchmarks/training.py` on {datetime.date.today()}; "
        f"{processor()}, one thread; {told}. No GPU was available.",
        "",
        f"Processor seconds, least of {args.rounds} rounds in {args.times} processes "
        "of each flow, in turn; ECAPA-TDNN (SpeechBrain's on both sides), batches of "
        f"{BATCH} crops of {SECONDS:g} s, {FILES} wav files of 3 to 6 s "
        f"({FILES // BATCH} steps an epoch), AAM, the same augmentation. Validation is "
        "not in the epoch: the two validate different things. What ours does besides "
        "the head: the audio stays in memory (read before), Adam is fused, "
        "convolutions of one frame are not padded with nothing, freed memory stays "
        "with the process. Peak: resident memory of the process.",
        "",
        "| channels | classes | step: stock | ours | ratio | epoch: stock | ours | "
        "ratio | peak: stock | ours |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    steps = {}
    sizes = [(64, 17_982), (128, 120), (128, 17_982), (512, 17_982)]
    for channels, classes in sizes:
        found = measure(channels, classes, args.rounds, args.times)
        stock, ours = found["stock"], found["ours"]
        cells = [f"{channels}", f"{classes:,}"]
        for key in ("step", "epoch"):
            cells += [f"{stock[key]:.3f} s", f"{ours[key]:.3f} s"]
            cells += [f"{stock[key] / ours[key]:.2f}"]
        cells += [f"{stock['peak']:.2f} GiB", f"{ours['peak']:.2f} GiB"]
        page.append(f"| {' | '.join(cells)} |")
        print(page[-1], flush=True)
        if classes == 17_982:
            steps[channels] = ours["step"]
    if args.large:
        steps[args.large] = measure_flow("ours", args.large, 17_982, 2)["step"]
    heads = head_seconds(17_982)
    page += [
        "",
        "## The head's share of a step at 17,982 classes",
        "",
        "Forward and backward of the head alone (stock: classifier and loss), and its "
        "share of our step. The encoder of the recipe has 1,024 channels.",
        "",
        f"Head alone: stock {1000 * heads['stock']:.0f} ms, ours "
        f"{1000 * heads['ours']:.0f} ms ({heads['stock'] / heads['ours']:.1f} times).",
        "",
        "| channels | our step | head's share |",
        "| ---: | ---: | ---: |",
    ]
    for channels, seconds in steps.items():
        share = heads["ours"] / seconds
        page.append(f"| {channels} | {seconds:.2f} s | {share:.1%} |")
    text = "\n".join(page) + "\n"
    print(text)
    (HERE / "results" / "training_cpu.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
