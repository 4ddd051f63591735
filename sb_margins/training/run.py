"""One run, from a configuration to a results folder, in the order it happens."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.utils.distributed import (
    ddp_barrier,
    ddp_init_group,
    if_main_process,
    run_on_main,
)
from speechbrain.utils.epoch_loop import EpochCounter

from sb_margins.data import Manifest, Prepared, prepare
from sb_margins.data.evaluation import (
    TrialList,
    check_unseen,
    other_lists,
    own_lists,
)
from sb_margins.data.mixing import mixed, old_speakers
from sb_margins.data.trials import read_trials
from sb_margins.encoder import SpeakerEncoder
from sb_margins.files import write_text
from sb_margins.messages import progress
from sb_margins.similarity import similarity_of
from sb_margins.training.brain import SpeakerBrain, Stats
from sb_margins.training.checkpoints import WholeCheckpointer, load_best, start_from
from sb_margins.training.config import TrainingConfig
from sb_margins.training.crops import (
    CropDataset,
    CropSampler,
    SpeakerSampler,
    check_audio,
    collate,
)
from sb_margins.training.log import VALIDATION, History
from sb_margins.training.process import (
    in_group,
    readable_errors,
    reading_processes,
    world_size,
)
from sb_margins.training.settings import TrainingSettings, check_same_run, write_run
from sb_margins.verification.embed import embed_files
from sb_margins.verification.embeddings import Embeddings
from sb_margins.verification.metrics import OperatingPoints
from sb_margins.verification.scoring import score_trials


@dataclass
class Trained:
    """A finished run: ``hparams`` holds all keys of the YAML, best weights loaded."""

    folder: Path
    prepared: Prepared
    settings: TrainingSettings
    hparams: dict[str, Any]
    history: History
    device: str
    last: tuple[SpeakerEncoder, torch.nn.Module]  # encoder, similarity of the last step

    @property
    def similarity(self) -> torch.nn.Module:
        """How its embeddings are compared: as its head did."""
        return similarity_of(self.hparams["head"])

    @property
    def encoder(self) -> SpeakerEncoder:
        """The trained encoder, in evaluation mode."""
        return SpeakerEncoder.from_modules(self.hparams["modules"]).eval()


def run(
    config: TrainingConfig, check: Callable[[Prepared], list[str]] | None = None
) -> Trained:
    """Prepare, check, train (or continue), and load the best weights.

    ``check`` may refuse the prepared corpus, or return remarks on it. Raises
    ``Interrupted`` after Ctrl-C, with a checkpoint saved.
    """
    settings = config.settings
    folder = Path(settings.output_folder)

    # Processes, and what needs no data to be refused
    ddp_init_group(config.run_opts)
    each = settings.check_loss()
    check_same_run(folder, config.recorded())

    # The corpus: speakers to classes, utterances to steps
    run_on_main(prepare_corpus, args=[settings])
    prepared = Prepared.load(folder / "data")
    run_on_main(lists_of, args=[settings, prepared])
    remarks = settings.remarks + (check(prepared) if check else [])
    manifest = prepared.manifest("train")
    if settings.old_speakers:
        old = old_speakers(settings.old_speakers, folder)
        manifest, told = mixed(prepared, old)
        check_unseen(lists_of(settings, prepared), manifest)
        remarks += told
    settings.check_epoch(len(manifest), world_size())
    remarks += check_audio(manifest, settings.sentence_len)
    classes = settings.count_classes(len(manifest.speakers))
    labels = CategoricalEncoder()
    labels.expect_len(len(manifest.speakers))
    labels.update_from_iterable(manifest.speakers, sequence_input=False)
    drawn: Any = {"repeats": settings.crops_per_utterance, "seed": settings.seed}
    sampler = CropSampler(len(manifest), **drawn)
    if each > 1:
        speakers = [labels.lab2ind[u.spk_id] for u in manifest]
        sampler = SpeakerSampler(speakers, each=each, processes=world_size(), **drawn)
    steps = len(sampler) // (settings.batch_size * world_size())

    # The objects of the YAML, and the results folder that describes them
    counted = {"out_n_neurons": classes, "steps_per_epoch": steps}
    hparams = config.build(**counted)
    counter = hparams.setdefault(
        "epoch_counter", EpochCounter(settings.number_of_epochs)
    )
    if if_main_process():
        write_run(folder, config.recorded())
        write_text(folder / "hyperparams.yaml", config.resolve(**counted))
        labels.save(folder / "label_encoder.txt")
    dataset = CropDataset(
        manifest,
        labels.lab2ind,
        seconds=settings.sentence_len,
        seed=settings.seed,
        speeds=settings.speeds,
        preload=settings.preload,
        progress=if_main_process() and not config.run_opts.noprogressbar,
    )
    history = History(folder / "history.csv")
    checkpointer = WholeCheckpointer(settings.save_folder, _recoverables(hparams))

    # What it starts from, where there is no checkpoint; each process takes its classes
    source, taken = settings.init_from, ""
    if source and checkpointer.find_checkpoint() is None:
        taken = start_from(source, hparams, labels.lab2ind)
    if settings.class_parallel and in_group():
        hparams["head"].spread()

    # The Brain
    brain = SpeakerBrain(
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=config.run_opts,
        checkpointer=checkpointer,
        settings=settings,
        steps_per_epoch=steps,
        history=history,
    )
    brain.validate = _validation(prepared, hparams["head"], str(brain.device))
    brain.train_sampler = sampler
    ddp_barrier()  # all have read the history before one writes it
    say = progress if if_main_process() else (lambda text: None)
    begin = _start(settings, prepared, manifest, brain, classes)
    say("\n  ".join([*begin, *remarks]))

    # Continue, or start from other weights, or from none
    if checkpointer.recover_if_possible():
        say(_resume(brain, counter))
    elif taken:
        say(taken)
    if not history.rows and counter.current == 0:
        brain.apply_schedules()
        stats = brain.validation_stats()
        brain.record(0, {}, stats)  # the untrained network
        brain.start = stats if taken else None

    # Train, then take the best weights
    loader = reading(settings, sampler, str(brain.device))
    with readable_errors():
        brain.fit(counter, dataset, train_loader_kwargs=loader)
        last = copy.deepcopy((brain.encoder.eval(), similarity_of(hparams["head"])))
        chosen = load_best(brain, settings.average_checkpoints)
    brain.modules.eval()
    say(f"evaluating {chosen}")
    device = str(brain.device)
    return Trained(folder, prepared, settings, hparams, history, device, last)


def reading(
    settings: TrainingSettings, sampler: CropSampler, device: str
) -> dict[str, Any]:
    """How crops are read: the arguments of the data loader."""
    workers = reading_processes(settings.num_workers, device)
    return {
        "batch_size": settings.batch_size,
        "drop_last": True,
        "collate_fn": collate,
        "sampler": sampler,
        "pin_memory": device.startswith("cuda"),
        "num_workers": workers,
        "prefetch_factor": 4 if workers else None,
        "persistent_workers": workers > 0,
    }


def prepare_corpus(settings: TrainingSettings) -> Prepared:
    """Make (or find) the manifests of the corpus, at ``<output_folder>/data``.

    And those of ``old_speakers``.
    """
    folder = Path(settings.output_folder)
    if settings.old_speakers:
        old_speakers(settings.old_speakers, folder)
    return prepare(
        settings.corpus,
        settings.data_folder,
        folder / "data",
        seed=settings.corpus_seed,
        **{"skip_bad": settings.skip_bad, **settings.corpus_options},
    )


def lists_of(settings: TrainingSettings, prepared: Prepared) -> dict[str, TrialList]:
    """The corpus's own trial lists and those of ``eval``, by name."""
    place = Path(settings.output_folder) / "eval"
    return own_lists(prepared) | other_lists(settings.eval, place, prepared)


def _recoverables(hparams: dict[str, Any]) -> dict[str, Any]:
    """Everything that moves during a run; the Brain adds itself, the optimizer, the
    scheduler of its rate, and the data loader."""
    parts = {
        "embedding_model": hparams["embedding_model"],
        "head": hparams["head"],
        "normalizer": hparams["mean_var_norm"],
        "counter": hparams["epoch_counter"],
        "accumulation": hparams.get("accumulation"),
    }
    return {name: part for name, part in parts.items() if part is not None}


def _validation(
    prepared: Prepared, head: torch.nn.Module, device: str
) -> Callable[[SpeakerEncoder], Stats] | None:
    """A function of an encoder: its figures on the dev trials (None without any)."""
    if "dev" not in prepared.splits or not prepared.has_trials("dev"):
        return None
    manifest = prepared.manifest("dev")
    trials = read_trials(prepared.trials("dev"))

    def validate(encoder: SpeakerEncoder) -> Stats:
        similarity = similarity_of(head)
        embeddings = _embed_together(encoder, manifest, device)
        scores = score_trials(embeddings, trials, similarity=similarity)
        points = OperatingPoints.of(scores, trials.labels)
        return {metric.label: metric(points) for metric in VALIDATION}

    return validate


def _embed_together(
    encoder: SpeakerEncoder, manifest: Manifest, device: str
) -> Embeddings:
    """Each process embeds its share of the files, and all get all."""
    ranks = world_size()
    if ranks == 1:
        return embed_files(encoder, manifest, device=device, progress=False)
    share = list(manifest)[torch.distributed.get_rank() :: ranks]
    made = None
    if share:  # with fewer files than processes some have none
        files = {u.id: manifest.path(u) for u in share}
        made = embed_files(encoder, files, device=device, progress=False)
    gathered: list[Any] = [None] * ranks
    torch.distributed.all_gather_object(gathered, made)
    parts = [part for part in gathered if part is not None]
    names = [name for part in parts for name in part.ids]
    return Embeddings(names, np.concatenate([part.matrix for part in parts]))


def _start(
    settings: TrainingSettings,
    prepared: Prepared,
    manifest: Manifest,
    brain: SpeakerBrain,
    classes: int,
) -> list[str]:
    """What is trained on what, in lines."""
    size = sum(p.numel() for p in brain.hparams.embedding_model.parameters())
    hours = sum(u.duration for u in manifest) / 3600
    loss = settings.loss or type(brain.head.loss).__name__
    lines = [
        f"training on {len(manifest)} utterances ({hours:.2f} h) of "
        f"{len(manifest.speakers)} speakers, {classes} classes; "
        f"encoder {size / 1e6:.2f} M parameters; loss {loss}; "
        f"{brain.steps_per_epoch} steps an epoch on {brain.device}"
    ]
    for split in prepared.splits[1:]:
        other = prepared.manifest(split)
        lines += [f"{split}: {len(other)} utterances, {len(other.speakers)} speakers"]
    lines += [f"results in {settings.output_folder}"]
    if world_size() > 1:
        backend = torch.distributed.get_backend()
        lines += [f"{world_size()} processes train together ({backend})"]
    if brain.head.ranks.size > 1:
        lines += [f"each has {classes / world_size():.0f} of the {classes} classes"]
    return lines


def _resume(brain: SpeakerBrain, counter: Any) -> str:
    if counter.current >= counter.limit:
        return f"already trained for {counter.limit} epochs; nothing left to train"
    if brain.step:
        return f"continuing in epoch {counter.current + 1} after step {brain.step}"
    return f"continuing after epoch {counter.current}"
