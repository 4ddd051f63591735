"""One training, from a configuration to a results folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.utils.distributed import (
    ddp_barrier,
    ddp_init_group,
    if_main_process,
    run_on_main,
)

from sb_margins.data import Prepared, prepare
from sb_margins.data.trials import read_trials
from sb_margins.encoder import SpeakerEncoder
from sb_margins.plots.curves import plot_training
from sb_margins.similarity import similarity_of
from sb_margins.training.brain import SpeakerBrain, Stats
from sb_margins.training.checkpoints import checkpointer_for
from sb_margins.training.checks import (
    check_audio,
    check_class_count,
    check_loss,
    check_numbers,
    check_same_run,
    remark_on_ramp,
    write_run,
)
from sb_margins.training.config import TrainingConfig
from sb_margins.training.crops import CropDataset, CropSampler, collate
from sb_margins.training.failures import plainly_told
from sb_margins.training.history import VALIDATION, History
from sb_margins.training.initial import start_from
from sb_margins.training.processes import in_group
from sb_margins.training.selection import load_final
from sb_margins.verification.extraction import extract
from sb_margins.verification.metrics import OperatingPoints
from sb_margins.verification.scoring import score_trials


@dataclass
class Trained:
    """A finished training.

    Arguments
    ---------
    folder : Path
        The results folder.
    prepared : Prepared
        Its corpus.
    hparams : dict
        All keys of the YAML, weights of the best checkpoint loaded.
    history : History
        Figures of each epoch.
    device : str
        Where the modules are.
    """

    folder: Path
    prepared: Prepared
    hparams: dict[str, Any]
    history: History
    device: str

    @property
    def similarity(self) -> torch.nn.Module:
        """How its embeddings are compared: as its head did."""
        return similarity_of(self.hparams["head"])

    @property
    def encoder(self) -> SpeakerEncoder:
        """The trained encoder, in evaluation mode."""
        modules = self.hparams["modules"]
        names = ("compute_features", "mean_var_norm", "embedding_model")
        return SpeakerEncoder(*(modules[name] for name in names)).eval()


def settings_of(plain: dict[str, Any]) -> dict[str, Any]:
    """The numbers, words and plain lists of a configuration."""

    def simple(value: Any) -> bool:
        if isinstance(value, list):
            return all(not isinstance(v, (dict, list)) for v in value)
        return not isinstance(value, dict)

    return {
        key: value
        for key, value in plain.items()
        if not key.startswith("__")
        and (simple(value) or key == "corpus_options")
        and value is not None
    }


def prepare_corpus(plain: dict[str, Any]) -> Prepared:
    """Make (or find made) the manifests of the corpus that a YAML names.

    Arguments
    ---------
    plain : dict
        Its plain values: ``corpus``, ``data_folder``, ``output_folder``,
        ``corpus_seed``, ``skip_bad``, ``corpus_options``.

    Returns
    -------
    Prepared
        At ``<output_folder>/data``.
    """
    return prepare(
        plain.get("corpus") or "folder",
        plain["data_folder"],
        Path(plain["output_folder"]) / "data",
        seed=plain.get("corpus_seed", 1986),
        **{"skip_bad": plain.get("skip_bad", False)},
        **(plain.get("corpus_options") or {}),
    )


def validation(
    prepared: Prepared, split: str, head: torch.nn.Module, device: str
) -> Callable | None:
    """A function of an encoder: its figures on a split's trials (None without any)."""
    if split not in prepared.splits or not prepared.has_trials(split):
        return None
    manifest = prepared.manifest(split)
    trials = read_trials(prepared.trials(split))

    def validate(encoder: SpeakerEncoder) -> Stats:
        found = extract(encoder, manifest, device=device, progress=False)
        scores = score_trials(found, trials, similarity=similarity_of(head))
        points = OperatingPoints.of(scores, trials.labels)
        return {metric.label: metric(points) for metric in VALIDATION}

    return validate


def train(config: TrainingConfig) -> Trained:
    """Prepare, check, train (or continue), and load the best weights.

    Arguments
    ---------
    config : TrainingConfig
        From ``read_config``.

    Returns
    -------
    Trained

    Raises
    ------
    UserError
        For anything that would make the training fail or lie, before it starts.
    Interrupted
        After Ctrl-C, with a checkpoint saved.
    """
    plain = config.plain
    ddp_init_group(config.run_opts)
    folder = Path(plain["output_folder"])
    check_loss(plain)
    check_same_run(folder, settings_of(plain))
    run_on_main(prepare_corpus, args=[plain])
    prepared = Prepared.load(folder / "data")
    manifest = prepared.manifest("train")
    world = torch.distributed.get_world_size() if in_group() else 1
    check_numbers(plain, len(manifest), world)
    remark = check_audio(manifest, plain.get("sentence_len", 2.0))
    speeds = plain.get("speeds") or [1.0]
    classes = check_class_count(
        plain.get("out_n_neurons"), len(manifest.speakers), len(speeds)
    )
    seed, batch_size = plain.get("seed", 1986), plain.get("batch_size", 32)
    repeats = plain.get("crops_per_utterance") or 1
    sampler = CropSampler(len(manifest), repeats=repeats, seed=seed)
    steps = len(sampler) // (batch_size * world)
    derived = {"out_n_neurons": classes, "steps_per_epoch": steps}
    hparams = config.build(**derived)
    labels = CategoricalEncoder()
    labels.expect_len(len(manifest.speakers))
    labels.update_from_iterable(manifest.speakers, sequence_input=False)
    if if_main_process():
        write_run(folder, settings_of(plain))
        text = config.resolve(**derived)
        (folder / "hyperparams.yaml").write_text(text, encoding="utf-8")
        labels.save(folder / "label_encoder.txt")

    dataset = CropDataset(
        manifest,
        labels.lab2ind,
        seconds=plain.get("sentence_len", 2.0),
        seed=seed,
        speeds=speeds,
        preload=plain.get("preload"),
        progress=if_main_process() and not config.run_opts.noprogressbar,
    )
    history = History(folder / "history.csv")
    checkpointer = checkpointer_for(Path(plain["save_folder"]), hparams)
    brain = SpeakerBrain(
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=config.run_opts,
        checkpointer=checkpointer,
        steps_per_epoch=steps,
        history=history,
    )
    brain.validate = validation(prepared, "dev", hparams["head"], str(brain.device))
    brain.train_sampler = sampler
    ddp_barrier()  # all have read the history before one writes it
    _tell_start(config, prepared, dataset, brain, classes)
    for line in filter(None, (remark, remark_on_ramp(plain))):
        if if_main_process():
            print(f"  {line}")
    checkpointer.recover_if_possible()
    _tell_resume(brain, hparams["epoch_counter"])
    if plain.get("init_from") and not checkpointer.list_checkpoints():
        told = start_from(plain["init_from"], hparams, labels.lab2ind)
        if if_main_process():
            print(told)
    if not history.rows and hparams["epoch_counter"].current == 0:
        brain.apply_schedules()
        brain.record(0, {}, brain.validation_stats())  # the untrained network
    loader = {
        "batch_size": batch_size,
        "drop_last": True,
        "num_workers": plain.get("num_workers") or 0,
        "collate_fn": collate,
        "sampler": sampler,
        "pin_memory": str(brain.device).startswith("cuda"),
    }
    with plainly_told():
        brain.fit(hparams["epoch_counter"], dataset, train_loader_kwargs=loader)
        chosen = load_final(brain, plain.get("average_checkpoints") or 1)
    brain.modules.eval()
    if if_main_process():
        print(f"evaluating {chosen}")
        plot_training(history.rows, folder / "curve.png", _title(plain, prepared))
    return Trained(folder, prepared, hparams, history, str(brain.device))


def _title(plain: dict[str, Any], prepared: Prepared) -> str:
    name = Path(plain["data_folder"]).name
    synthetic = " (synthetic voices)" if plain.get("corpus") == "demo" else ""
    return f"{plain.get('loss', '')} on {name}{synthetic}, seed {plain.get('seed')}"


def _tell_start(
    config: TrainingConfig,
    prepared: Prepared,
    dataset: CropDataset,
    brain: SpeakerBrain,
    classes: int,
) -> None:
    if not if_main_process():
        return
    size = sum(p.numel() for p in brain.hparams.embedding_model.parameters())
    hours = sum(u.duration for u in dataset.manifest) / 3600
    print(
        f"training on {len(dataset)} utterances ({hours:.2f} h) of "
        f"{len(dataset.manifest.speakers)} speakers, {classes} classes; "
        f"encoder {size / 1e6:.2f} M parameters; loss {config.plain.get('loss')}; "
        f"{brain.steps_per_epoch} steps an epoch on {brain.device}"
    )
    for split in prepared.splits[1:]:
        manifest = prepared.manifest(split)
        print(
            f"  {split}: {len(manifest)} utterances, {len(manifest.speakers)} speakers"
        )
    print(f"results in {config.plain['output_folder']}")


def _tell_resume(brain: SpeakerBrain, counter: Any) -> None:
    if not if_main_process() or (counter.current == 0 and brain.step == 0):
        return
    if counter.current >= counter.limit:
        print(f"already trained for {counter.limit} epochs; nothing left to train")
    elif brain.step:
        print(f"continuing in epoch {counter.current + 1} after step {brain.step}")
    else:
        print(f"continuing after epoch {counter.current}")
