"""The settings of a run: each default once, wrong values refused by name."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field as dataclass_field, fields
from pathlib import Path
from typing import Any

from sb_margins import select
from sb_margins.audio import SAMPLE_RATE
from sb_margins.errors import UserError
from sb_margins.files import write_text
from sb_margins.versions import versions

# Settings that may change between a run and its continuation.
FREE_TO_CHANGE = {
    "average_checkpoints",
    "class_parallel",
    "ckpt_interval_minutes",
    "ckpt_interval_steps",
    "data_folder",
    "eval",
    "noprogressbar",
    "num_workers",
    "output_folder",
    "preload",
    "save_folder",
    "tensorboard",
    "train_log",
}
KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "True or False"),
    "str": ((str, int, float), "a text"),
    "dict": ((dict,), "a mapping such as {dev_share: 0.1}"),
    "list": ((list,), "a list such as [1.0, 0.9, 1.1]"),
}


def setting(text: str, default: Any = None) -> Any:
    """A field with the text that ``--help`` shows."""
    metadata = {"help": text, "default": default}
    if isinstance(default, (dict, list)):
        return dataclass_field(default_factory=default.copy, metadata=metadata)
    return dataclass_field(default=default, metadata=metadata)


@dataclass
class TrainingSettings:
    """What our code reads of a training YAML; a key that is missing or null has the
    default below. The objects of the YAML (encoder, head, optimiser, ...) are built by
    HyperPyYAML."""

    data_folder: str = setting("the recordings", "")
    output_folder: str = setting("where the results go", "results/train")
    save_folder: str = setting("where the checkpoints go: OUTPUT_FOLDER/save", "")
    corpus: str = setting("how to read them; see sb-margins prepare", "folder")
    corpus_seed: int = setting("seed of a split made by us", 1986)
    corpus_options: dict = setting("options of the corpus", {})
    skip_bad: bool = setting("leave unreadable files out", False)
    eval: dict = setting("trial lists of other corpora: NAME=FOLDER ...", {})
    encoder: str | None = setting("a YAML of hparams/encoders by name, or a path")
    loss: str | None = setting("see sb-margins losses")
    margin: float | None = setting("the loss's margin")
    scale: float | None = setting("the loss's scale")
    delta: float | None = setting("AS-Softmax's delta")
    curvature: float | None = setting("of the ball of hyperbolic losses")
    loss_options: dict = setting("other settings of the loss", {})
    margin_end_epoch: float = setting("when the margin has reached its value", 0.0)
    out_n_neurons: int | None = setting("classes; counted when null")
    steps_per_epoch: int | None = setting("counted; for schedules to refer to")
    sample_rate: int = setting("of the model, in Hz", SAMPLE_RATE)
    init_from: str | None = setting("a model or results folder, or a hub name")
    freeze_steps: int = setting("updates before the encoder moves", 0)
    encoder_rate: float = setting("the encoder's learning rate, as a share of lr", 1.0)
    old_speakers: str | None = setting("a corpus whose training speakers are added")
    warnings: list = setting("what verdicts of the exported model say first", [])
    seed: int = setting("of initial weights, order, crops and augmentation", 1986)
    number_of_epochs: int = setting("passes over the training data", 12)
    batch_size: int = setting("crops in a batch, per process", 32)
    crops_per_utterance: int = setting("crops of each utterance in an epoch", 1)
    sentence_len: float = setting("seconds of a crop", 2.0)
    speeds: list = setting("further speeds are further speakers", [1.0])
    num_workers: int | None = setting("processes that read audio; null: chosen")
    preload: bool | None = setting("keep all audio in memory; null: below 1 GiB")
    average_checkpoints: int = setting("try the mean of so many last epochs", 1)
    class_parallel: bool = setting("torchrun: the classes spread over processes", False)

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> TrainingSettings:
        """From the plain values of a YAML, types checked."""
        values: dict[str, Any] = {}
        for field in fields(cls):
            value = plain.get(field.name)
            if value is None:
                continue
            types, text = KINDS[str(field.type).split(" ")[0]]
            is_bool = isinstance(value, bool)
            if not isinstance(value, types) or (is_bool and bool not in types):
                raise UserError(f"{field.name} is {value!r}, but must be {text}")
            values[field.name] = str(value) if types[0] is str else value
        return cls(**values)

    def __post_init__(self) -> None:
        self.save_folder = self.save_folder or f"{self.output_folder}/save"
        if self.batch_size < 2:
            raise UserError(
                f"batch_size is {self.batch_size}, but batch normalisation needs at "
                "least 2"
            )
        if not 0.2 <= self.sentence_len <= 60:
            raise UserError(
                f"sentence_len is {self.sentence_len}; crops are between 0.2 and 60 "
                "seconds"
            )
        speeds = self.speeds
        valid = all(isinstance(v, (int, float)) and 0.5 <= v <= 2 for v in speeds)
        if not speeds or not valid or len(set(speeds)) < len(speeds):
            raise UserError(
                f"speeds is {speeds}; give different numbers between 0.5 and 2, "
                "the unchanged speed first, e.g. [1.0, 0.9, 1.1]"
            )
        for name in ("number_of_epochs", "crops_per_utterance", "average_checkpoints"):
            least = 0 if name == "number_of_epochs" and self.init_from else 1
            if getattr(self, name) < least:
                raise UserError(
                    f"{name} is {getattr(self, name)}; give a whole number of {least} "
                    "or more"
                )
        if not 0 < self.encoder_rate < math.inf:
            raise UserError(
                f"encoder_rate is {self.encoder_rate}; give a number above 0 "
                "(freeze_steps keeps the encoder still)"
            )
        if self.sample_rate != SAMPLE_RATE:
            raise UserError(
                f"sample_rate is {self.sample_rate}, but training reads all audio at "
                f"{SAMPLE_RATE} Hz"
            )

    def check_loss(self) -> int:
        """The loss exists and has the settings that are given to it.

        Returns how many utterances of a speaker its batches should have in a row. A
        YAML without a name at ``loss`` builds its head itself, and has 1.
        """
        if self.loss is None:
            return 1
        names = ("margin", "scale", "delta", "curvature")
        given = {name: getattr(self, name) for name in names}
        head = select.head(self.loss, 2, 2, **given, options=self.loss_options)
        if self.class_parallel:
            head.check_spread()
        each = getattr(head.classifier, "utterances_per_speaker", 1)
        if each > 1 and (self.batch_size % each or self.batch_size < 2 * each):
            raise UserError(
                f"batch_size is {self.batch_size}, but {self.loss} wants two or more "
                f"speakers with {each} utterances each in a batch: a multiple of {each}"
            )
        if each > 1 and len(self.speeds) > 1:
            raise UserError(
                f"speeds is {self.speeds}, but {self.loss} compares utterances of one "
                "voice with each other, and another speed is another voice: set "
                "speeds: [1.0]"
            )
        return each

    def check_epoch(self, utterances: int, processes: int = 1) -> None:
        """An epoch fills at least one batch of each process."""
        crops = utterances * self.crops_per_utterance
        if crops < self.batch_size * processes:
            where = f" on each of {processes} processes" if processes > 1 else ""
            raise UserError(
                f"an epoch of {utterances} utterances x {self.crops_per_utterance} "
                f"crops does not fill one batch of {self.batch_size}{where}: raise "
                "crops_per_utterance or lower batch_size"
            )

    def count_classes(self, speakers: int) -> int:
        """One class for each speaker of the training split at each speed."""
        count = speakers * len(self.speeds)
        if self.out_n_neurons not in (None, count):
            speeds = f" x {len(self.speeds)} speeds" if len(self.speeds) > 1 else ""
            raise UserError(
                f"out_n_neurons is {self.out_n_neurons}, but the training split has "
                f"{speakers} speakers{speeds} = {count} classes. Leave out_n_neurons "
                "null to have them counted"
            )
        return count

    @property
    def remarks(self) -> list[str]:
        """What is allowed but deserves a line."""
        if not self.number_of_epochs or self.margin_end_epoch <= self.number_of_epochs:
            return []
        return [
            f"training ends in epoch {self.number_of_epochs}, before the margin is full"
            f" (margin_end_epoch is {self.margin_end_epoch:g})"
        ]


def describe_settings() -> str:
    """The settings for ``--help``, one a line."""
    lines = []
    for field in fields(TrainingSettings):
        text, default = field.metadata["help"], field.metadata["default"]
        shown = f" ({default})" if default not in (None, "", {}) else ""
        lines.append(f"  --{field.name.replace('_', '-'):<21} {text}{shown}")
    return "\n".join(lines)


def check_same_run(folder: Path, recorded: Mapping[str, Any]) -> None:
    """Refuse a results folder whose ``run.json`` holds other settings than these."""
    file = folder / "run.json"
    if not file.is_file():
        return
    try:
        before = json.loads(file.read_text(encoding="utf-8"))["settings"]
        before = {"encoder": recorded.get("encoder"), **before}  # older: none
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} is damaged ({error}), so it is unknown what {folder} holds. "
            "Choose another --output-folder, or delete that one"
        ) from error
    now = json.loads(json.dumps(dict(recorded)))
    changed = [
        f"{key} was {before.get(key)!r}, now {now.get(key)!r}"
        for key in sorted(set(before) | set(now))
        if key not in FREE_TO_CHANGE and before.get(key) != now.get(key)
    ]
    if changed:
        raise UserError(
            f"{folder} holds a run with other settings: {'; '.join(changed)}. "
            "Choose another --output-folder, or delete that one"
        )


def write_run(folder: Path, recorded: Mapping[str, Any]) -> None:
    """Write ``run.json``: the settings and versions of a run."""
    content = {"settings": dict(recorded), "versions": versions()}
    write_text(
        folder / "run.json", json.dumps(content, indent=2, sort_keys=True) + "\n"
    )
