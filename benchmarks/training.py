"""A training step and an epoch, ours against SpeechBrain's stock flow.

    python benchmarks/training.py            # writes results/training_cpu.md

Both flows train the same encoder on crops of the same length, batches and files, each
in a process of its own, in turn; seconds are the process's own on one thread, and the
ratio is the median over the pairs. Stock is what SpeechBrain's VoxCeleb recipe does:
DynamicItemDataset with a pipeline that reads a random crop of a file, PaddedBatch,
SpeechBrain's augmentations, its classifier, LogSoftmaxWrapper(AdditiveAngularMargin),
Adam, a cyclic rate. Ours is what `sb-margins train` does. (benchmarks/gpu.py measures
the same on a GPU.)
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import soundfile
import speechbrain as sb
import torch
from measure import is_cuda, seconds, setting, table
from speechbrain.augment.augmenter import Augmenter
from speechbrain.augment.time_domain import AddNoise, DropChunk, DropFreq
from speechbrain.dataio import audio_io
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.ECAPA_TDNN import (
    ECAPA_TDNN,
    Classifier as StockClassifier,
)
from speechbrain.lobes.models.ResNet import ResNet
from speechbrain.nnet.losses import AdditiveAngularMargin, LogSoftmaxWrapper
from speechbrain.nnet.schedulers import CyclicLRScheduler, WarmAndExpDecayLRSchedule
from speechbrain.processing.features import InputNormalization
from speechbrain.utils.run_opts import RunOptions

from sb_margins import select
from sb_margins.data import Manifest, Utterance
from sb_margins.schedules import LossSchedule
from sb_margins.training.augment import build_augmenter
from sb_margins.training.brain import SpeakerBrain
from sb_margins.training.crops import CropDataset, CropSampler
from sb_margins.training.log import History
from sb_margins.training.process import keep_memory, reading_processes
from sb_margins.training.run import reading
from sb_margins.training.settings import TrainingSettings

HERE = Path(__file__).resolve().parent
RATE = 16000


@dataclass(frozen=True)
class Flow:
    """One way of training, and its sizes."""

    name: str = "ours"  # or stock
    encoder: str = "ecapa"  # or resnet34
    channels: int = 128
    classes: int = 17_982
    precision: str = "fp32"
    compiled: bool = False
    device: str = "cpu"
    batch: int = 32
    crop: float = 2.0  # seconds
    files: int = 96
    repeats: int = 1  # of each file in an epoch
    speakers: int = 24

    @property
    def emb_dim(self) -> int:
        """Size of the embeddings."""
        return 256 if self.encoder == "resnet34" else 192

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return self.files * self.repeats // self.batch

    def network(self) -> torch.nn.Module:
        """SpeechBrain's encoder, as in hparams/encoders."""
        c = self.channels
        if self.encoder == "resnet34":
            return ResNet(
                80,
                channels=[c, c, 2 * c, 2 * c],
                strides=[1, 2, 2, 2],
                block_sizes=[3, 4, 6, 3],
                lin_neurons=self.emb_dim,
            )
        return ECAPA_TDNN(
            80,
            channels=[c] * 4 + [c * 3],
            kernel_sizes=[5, 3, 3, 3, 1],
            dilations=[1, 2, 3, 4, 1],
            attention_channels=128,
            lin_neurons=self.emb_dim,
        )

    def modules(self, **more: torch.nn.Module) -> dict[str, torch.nn.Module]:
        """Features, normalisation, encoder, and a head."""
        torch.manual_seed(1)
        return {
            "compute_features": Fbank(n_mels=80),
            "mean_var_norm": InputNormalization(norm_type="sentence", std_norm=False),
            "embedding_model": self.network(),
            **more,
        }

    def options(self) -> RunOptions:
        """Device and precision; no bar."""
        values = {"device": self.device, "precision": self.precision}
        values |= {"noprogressbar": True, "compile": self.compiled}
        return RunOptions.from_dictionary(values)


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
        labels = self.hparams.wav_augment.replicate_labels(labels)
        loss = self.hparams.compute_cost(predictions, labels, lens)
        self.hparams.lr_annealing.on_batch_end(self.optimizer)
        return loss


def stock_augmenter() -> Augmenter:
    """The parts of ours, SpeechBrain's own, one for a whole batch."""
    parts = [
        AddNoise(snr_low=0, snr_high=15),
        DropFreq(drop_freq_count_high=3),
        DropChunk(drop_length_low=1000, drop_length_high=2000, drop_count_high=5),
    ]
    return Augmenter(
        concat_original=False,
        min_augmentations=1,
        max_augmentations=1,
        shuffle_augmentations=True,
        augment_prob=0.75,
        augmentations=parts,
    )


def corpus(folder: Path, flow: Flow) -> Manifest:
    """Noise files of 3 to 6 s; what they hold does not matter for the time."""
    rng, rows = np.random.default_rng(1), []
    for k in range(flow.files):
        length, path = float(rng.uniform(3, 6)), folder / f"{k}.wav"
        wav = 0.1 * rng.standard_normal(int(length * RATE), np.float32)
        if not path.exists():
            soundfile.write(path, wav, RATE)
        speaker = f"s{k % flow.speakers}"
        rows.append(Utterance(path.name, path.name, length, speaker, RATE, {}))
    return Manifest(rows, folder)


def stock_data(manifest: Manifest, flow: Flow) -> DynamicItemDataset:
    """The recipe's audio pipeline: a random crop read from the file, the label."""
    items = {
        f"{u.id} {k}": {
            "wav": str(manifest.path(u)),
            "duration": u.duration,
            "spk_id": int(u.spk_id[1:]) * (flow.classes // flow.speakers),
        }
        for k in range(flow.repeats)
        for u in manifest
    }
    length = int(flow.crop * RATE)

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


class Ours(SpeakerBrain):
    """Without the line that it prints after each epoch."""

    def record(self, epoch: int, train: Any, valid: Any) -> None:
        """Nothing."""


def stock_flow(manifest: Manifest, flow: Flow) -> tuple[Any, Any]:
    """SpeechBrain's Brain and its loader."""
    classify = StockClassifier(flow.emb_dim, out_neurons=flow.classes)
    brain = StockBrain(
        flow.modules(classifier=classify),
        adam(False),
        {
            "wav_augment": stock_augmenter(),
            "compute_cost": LogSoftmaxWrapper(AdditiveAngularMargin(0.2, 30)),
            "lr_annealing": CyclicLRScheduler(1e-8, 1e-3, 65000),
        },
        flow.options(),
    )
    words = {"batch_size": flow.batch, "drop_last": True, "shuffle": True}
    words["num_workers"] = reading_processes(None, flow.device)
    data = stock_data(manifest, flow)
    return brain, brain.make_dataloader(data, sb.Stage.TRAIN, None, **words)


def our_flow(manifest: Manifest, flow: Flow) -> tuple[Any, Any]:
    """Our Brain and its loader."""
    head = select.head("aam", flow.emb_dim, flow.classes)
    settings = TrainingSettings(seed=1, number_of_epochs=99, batch_size=flow.batch)
    hparams = {
        "head": head,
        "wav_augment": build_augmenter(),
        "lr_annealing": WarmAndExpDecayLRSchedule(1e-3, flow.steps, 99 * flow.steps),
        "loss_schedules": [LossSchedule("margin", end=1)],
    }
    brain = Ours(
        flow.modules(head=head),
        adam(True),
        hparams,
        flow.options(),
        settings=settings,
        steps_per_epoch=flow.steps,
        history=History(manifest.root / "history.csv"),
    )
    shift = flow.classes // flow.speakers
    labels = {f"s{k}": k * shift for k in range(flow.speakers)}
    crops = CropDataset(manifest, labels, seconds=flow.crop, seed=1)
    sampler = CropSampler(flow.files, repeats=flow.repeats, seed=1)
    brain.train_sampler = sampler
    words = reading(settings, sampler, flow.device)
    return brain, brain.make_dataloader(crops, sb.Stage.TRAIN, None, **words)


FLOWS = {"stock": stock_flow, "ours": our_flow}


def measure_flow(flow: Flow, rounds: int, folder: Path) -> dict[str, float]:
    """Least seconds of an epoch, and of a step whose batch is at hand; the first round,
    with its compiling, apart."""
    if flow.name == "ours":
        keep_memory(flow.device)  # as `sb-margins train` does
    cuda = is_cuda(flow.device)
    brain, loader = FLOWS[flow.name](corpus(folder, flow), flow)
    brain.on_fit_start()
    batch = next(iter(loader))
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    found: dict[str, list[float]] = {"step": [], "epoch": []}

    def step() -> None:
        brain.step, brain.nonfinite_count = 1, 0
        brain.fit_batch(batch)

    for epoch in range(1, rounds + 1):
        brain.step = 0
        run = partial(brain._fit_train, loader, epoch, False)
        found["epoch"].append(seconds(run, flow.device))
        found["step"].append(seconds(step, flow.device, 10 if cuda else 1))
    if hasattr(brain, "_end_readers"):
        brain._end_readers()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if cuda:
        peak = torch.cuda.max_memory_allocated()
    best = {key: min(times[1:] or times) for key, times in found.items()}
    utterances = flow.steps * flow.batch / best["epoch"]
    first = found["epoch"][0] - best["epoch"]
    return best | {"utt/s": utterances, "first": first, "peak": peak / 2**30}


def in_turn(flows: dict[str, Flow], rounds: int, times: int) -> dict[str, list[dict]]:
    """Every flow some times in a process of its own, in turn."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in flows}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(times):
            for name, flow in flows.items():
                words = json.dumps(asdict(flow)), str(rounds), folder
                command = [sys.executable, __file__, "--flow", *words]
                out = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
                found[name].append(json.loads(out.splitlines()[-1]))
    return found


def against(found: dict[str, list[dict]], rounds: int) -> list[dict[str, Any]]:
    """Rows: medians, and the median ratio of the pairs to the first."""
    rows, first = [], next(iter(found))
    for name, runs in found.items():
        row: dict[str, Any] = {"flow": name}
        for key in ("step", "epoch"):
            pairs = zip(found[first], runs, strict=True)
            row[f"{key}, s"] = statistics.median(run[key] for run in runs)
            ratio = statistics.median(a[key] / b[key] for a, b in pairs)
            row[f"{key}: times as fast"] = f"{ratio:.2f}"
        row["utt/s"] = round(statistics.median(run["utt/s"] for run in runs))
        row["first epoch more, s"] = statistics.median(run["first"] for run in runs)
        row["peak, GiB"] = statistics.median(run["peak"] for run in runs)
        rows.append(row)
    return rows


SIZES = ((64, 17_982), (128, 120), (128, 17_982), (512, 17_982))


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=3, help="epochs of a process")
    parser.add_argument("--times", type=int, default=3, help="processes of each flow")
    parser.add_argument("--compiled", action="store_true", help="also --compile")
    parser.add_argument("--sizes", default=SIZES, type=json.loads)
    parser.add_argument("--flow", nargs=3, help="one flow in this process, as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.flow:
        told, rounds, folder = args.flow
        found = measure_flow(Flow(**json.loads(told)), int(rounds), Path(folder))
        print(json.dumps(found))
        return
    page = ["# Training against SpeechBrain's stock flow", "", setting("cpu"), ""]
    page += [
        f"`benchmarks/training.py --rounds {args.rounds} --times {args.times}`: "
        f"processor seconds, least of {args.rounds} rounds (the first apart) in each "
        f"of {args.times} processes, the flows in turn; medians, and of the ratios. "
        "Batches of 32 crops of 2 s, 3 steps an epoch, AAM. Validation is not in the "
        "epoch: the two validate different things. Ours keeps the audio in memory "
        "(below 1 GiB), Adam is fused, convolutions of one frame are not padded, freed "
        "memory stays with the process. Peak: resident memory.",
    ]
    for channels, classes in args.sizes:
        base = Flow(channels=channels, classes=classes)
        flows = {
            "SpeechBrain's": replace(base, name="stock"),
            "SpeechBrain's, bf16": replace(base, name="stock", precision="bf16"),
            "ours": base,
            "ours, bf16": replace(base, precision="bf16"),
        }
        if args.compiled:
            flows["ours, --compile"] = replace(base, compiled=True)
            flows["ours, bf16, --compile"] = replace(
                base, precision="bf16", compiled=True
            )
        found = in_turn(flows, args.rounds, args.times)
        page += ["", f"## ECAPA-TDNN, {channels} channels, {classes:,} classes", ""]
        page += table(against(found, args.rounds))
        print("\n".join(page), flush=True)
    text = "\n".join(page) + "\n"
    (HERE / "results" / "training_cpu.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
