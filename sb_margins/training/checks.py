"""Refusals before any hour is spent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sb_margins.data.manifest import Manifest
from sb_margins.errors import UserError

# Settings that may change between a run and its continuation.
FREE_TO_CHANGE = {
    "average_checkpoints",
    "ckpt_interval_minutes",
    "ckpt_interval_steps",
    "data_folder",
    "noprogressbar",
    "num_workers",
    "output_folder",
    "preload",
    "save_folder",
    "tensorboard",
    "train_log",
}


def check_numbers(
    plain: Mapping[str, Any], n_utterances: int, processes: int = 1
) -> None:
    """Batch size, epoch length and crop length make a training possible.

    Arguments
    ---------
    plain : mapping
        The plain values of the training YAML.
    n_utterances : int
        Utterances in the training split.
    processes : int
        Processes (devices) that train together; each takes its own batches.

    Raises
    ------
    UserError
        With the number to change.

    Example
    -------
    >>> check_numbers({"batch_size": 1}, 100)
    Traceback (most recent call last):
    ...
    sb_margins.errors.UserError: batch_size is 1, but batch normalisation needs ...
    """
    batch = plain.get("batch_size", 32)
    if not isinstance(batch, int) or batch < 2:
        raise UserError(
            f"batch_size is {batch}, but batch normalisation needs at least 2"
        )
    repeats = plain.get("crops_per_utterance") or 1
    if n_utterances * repeats < batch * processes:
        many = f" on each of {processes} processes" if processes > 1 else ""
        raise UserError(
            f"an epoch of {n_utterances} utterances x {repeats} crops does not fill "
            f"one batch of {batch}{many}: raise crops_per_utterance or lower batch_size"
        )
    seconds = plain.get("sentence_len", 2.0)
    if not isinstance(seconds, (int, float)) or not 0.2 <= seconds <= 60:
        raise UserError(
            f"sentence_len is {seconds}; crops are between 0.2 and 60 seconds"
        )
    speeds = plain.get("speeds") or [1.0]
    numbers = isinstance(speeds, list) and all(
        isinstance(v, (int, float)) and 0.5 <= v <= 2 for v in speeds
    )
    if not numbers or len(set(speeds)) < len(speeds):
        raise UserError(
            f"speeds is {speeds}; give different numbers between 0.5 and 2, the "
            "unchanged speed first, e.g. [1.0, 0.9, 1.1]"
        )
    epochs = plain.get("number_of_epochs", 1)
    if not isinstance(epochs, int) or epochs < 1:
        raise UserError(f"number_of_epochs is {epochs}; give a whole number above 0")


def check_audio(manifest: Manifest, seconds: float, look: int = 1000) -> str:
    """The audio is where the manifest says, and long enough for crops.

    Arguments
    ---------
    manifest : Manifest
        The training split.
    seconds : float
        Length of a crop.
    look : int
        How many files, evenly spread, are looked for.

    Returns
    -------
    str
        A remark on utterances shorter than a crop; empty without any.

    Raises
    ------
    UserError
        When a file is gone, or when no utterance is as long as a crop.

    Example
    -------
    >>> from sb_margins.data import Utterance
    >>> gone = Manifest([Utterance("a", "a.wav", 1.0, "s", 16000, {})], "nowhere")
    >>> check_audio(gone, 0.5)
    Traceback (most recent call last):
    ...
    sb_margins.errors.UserError: nowhere/a.wav is gone since the corpus was prepared...
    """
    for index in range(0, len(manifest), max(1, len(manifest) // look)):
        path = manifest.path(manifest[index])
        if not path.is_file():
            raise UserError(
                f"{path} is gone since the corpus was prepared. Put it back, or delete "
                "the folder with the manifests to have them made again"
            )
    longest = max(u.duration for u in manifest)
    if longest < seconds:
        raise UserError(
            f"crops of {seconds} s (sentence_len) are longer than all training audio "
            f"(the longest utterance has {longest:.1f} s): lower sentence_len"
        )
    short = sum(u.duration < seconds for u in manifest) / len(manifest)
    if not short:
        return ""
    return f"{short:.0%} of the utterances are shorter than a crop and are repeated"


def remark_on_ramp(plain: Mapping[str, Any]) -> str:
    """A remark when training ends before the margin has reached its value.

    Example
    -------
    >>> remark_on_ramp({"margin_end_epoch": 3, "number_of_epochs": 2})
    'training ends in epoch 2, before the margin is full (margin_end_epoch is 3)'
    """
    end, epochs = plain.get("margin_end_epoch") or 0, plain.get("number_of_epochs", 1)
    if not isinstance(end, (int, float)) or end <= epochs:
        return ""
    return (
        f"training ends in epoch {epochs}, before the margin is full "
        f"(margin_end_epoch is {end:g})"
    )


def check_loss(plain: Mapping[str, Any]) -> None:
    """The loss exists and has the settings that are given to it.

    Arguments
    ---------
    plain : mapping
        The plain values of the training YAML; without a name at ``loss`` the YAML
        builds its head itself, and that is checked when it does.

    Raises
    ------
    UserError
        With the nearest names.

    Example
    -------
    >>> check_loss({"loss": "hamm"})
    Traceback (most recent call last):
    ...
    sb_margins.errors.UserError: ... Did you mean 'ham'...
    """
    if not isinstance(plain.get("loss"), str):
        return
    from sb_margins import select

    names = ("margin", "scale", "delta", "curvature")
    given = {name: plain.get(name) for name in names}
    select.head(plain["loss"], 2, 2, **given, options=plain.get("loss_options"))


def check_class_count(asked: int | None, speakers: int, speeds: int = 1) -> int:
    """The head has as many classes as the training split has speakers.

    Arguments
    ---------
    asked : int, optional
        ``out_n_neurons`` of the YAML; None to count.
    speakers : int
        Speakers of the training split.
    speeds : int
        Speeds of the perturbation, each making new speakers.

    Returns
    -------
    int
        Number of classes.

    Raises
    ------
    UserError
        When the number asked for is another.

    Example
    -------
    >>> check_class_count(None, 10, 3)
    30
    >>> check_class_count(7205, 10)
    Traceback (most recent call last):
    ...
    sb_margins.errors.UserError: out_n_neurons is 7205, but the training split has 10...
    """
    count = speakers * speeds
    if asked is not None and asked != count:
        how = f"{speakers} speakers" + (f" x {speeds} speeds" if speeds > 1 else "")
        raise UserError(
            f"out_n_neurons is {asked}, but the training split has {how} = {count} "
            "classes. Leave out_n_neurons null to have them counted"
        )
    return count


def check_same_run(folder: Path, plain: Mapping[str, Any]) -> None:
    """A results folder belongs to one configuration.

    Arguments
    ---------
    folder : Path
        The output folder; ``run.json`` in it tells the settings of its run.
    plain : mapping
        The settings asked for now.

    Raises
    ------
    UserError
        Naming the settings that differ.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> write_run(folder, {"loss": "am"})
    >>> check_same_run(folder, {"loss": "am"})
    >>> check_same_run(folder, {"loss": "ham"})
    Traceback (most recent call last):
    ...
    sb_margins.errors.UserError: ... loss was 'am', now 'ham'...
    """
    file = folder / "run.json"
    if not file.is_file():
        return
    before = json.loads(file.read_text(encoding="utf-8"))["settings"]
    now = json.loads(json.dumps(dict(plain)))
    changed = [
        f"{key} was {before.get(key)!r}, now {now.get(key)!r}"
        for key in sorted(set(before) | set(now))
        if key not in FREE_TO_CHANGE and before.get(key) != now.get(key)
    ]
    if changed:
        raise UserError(
            f"{folder} holds a run with other settings: {'; '.join(changed)}. "
            "Choose another --output_folder, or delete that one"
        )


def write_run(folder: Path, plain: Mapping[str, Any]) -> None:
    """Write ``run.json``: the settings and versions of a run."""
    from sb_margins.versions import versions

    folder.mkdir(parents=True, exist_ok=True)
    told = {"settings": dict(plain), "versions": versions()}
    text = json.dumps(told, indent=2, sort_keys=True) + "\n"
    (folder / "run.json").write_text(text, encoding="utf-8")
