"""``prepare``: from any known corpus layout to manifests and trial lists."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sb_margins.data.checking import CHECKS, usable
from sb_margins.data.corpus import Corpus, Entry, Listing, choose, existing_folder
from sb_margins.data.manifest import Manifest, Utterance
from sb_margins.data.prepared import FORMAT, Prepared
from sb_margins.data.splitting import DIVIDED, divide, fewer, hold_out, make_trials
from sb_margins.data.tables import read_table
from sb_margins.data.trials import Trials, usable_trials, write_trials
from sb_margins.errors import UserError, listed, nearest
from sb_margins.files import write_text
from sb_margins.messages import progress

CORPORA = ("folder", "demo", "mini_librispeech", "voxceleb", "cnceleb", "sitw")
CHECKING: dict[str, Any] = {"skip_bad": False, "min_seconds": 0.4, "check": "ends"}
COMMON: dict[str, Any] = {**CHECKING, "fold": "", "evaluation_only": False}
COMMON_HELP = {
    "skip_bad": "leave unreadable files out (listed) instead of stopping",
    "min_seconds": "leave shorter files out (listed)",
    "check": "header, ends (also decodes both ends, for truncated and silent files and "
    "copies) or full (decodes everything)",
    "fold": "e.g. 2/5: the second of five folds of all train, dev and test speakers is "
    "test, the next one dev, the others train",
    "evaluation_only": "no training speakers; without splits all speakers are test",
}


def corpus_named(name: str) -> Corpus:
    """The corpus of that name, or an error with the nearest names."""
    if name not in CORPORA:
        raise UserError(
            f"no corpus '{name}'.{nearest(name, CORPORA)} Known: {', '.join(CORPORA)}. "
            "Any folder of speaker/.../audio files is corpus 'folder'"
        )
    return importlib.import_module(f"sb_margins.data.{name}").CORPUS


def recognise(folder: str | Path) -> str:
    """The corpus whose layout a folder has; "folder" when it is no special one."""
    folder = existing_folder(folder)
    if not any((folder / name).is_file() for name in ("manifest.csv", "manifest.json")):
        for name in reversed(CORPORA):  # CN-Celeb's speakers are called as VoxCeleb's
            layout = corpus_named(name)
            if layout.recognise and layout.recognise(folder):
                return name
    return "folder"


def prepare(
    corpus: str,
    data_folder: str | Path | None,
    save_folder: str | Path,
    seed: int = 1986,
    workers: int = 0,
    verbose: bool = True,
    **options: Any,
) -> Prepared:
    """Write manifests and trial lists of a corpus; a no-op the second time.

    Arguments
    ---------
    corpus : str
        One of ``CORPORA``.
    data_folder : str or Path, optional
        Where the audio lies; may be None for a corpus that is made or fetched.
    save_folder : str or Path
        Where the manifests go.
    seed : int
        Of splits and trial lists.
    workers : int
        Threads that read headers; 0 = two per core.
    verbose : bool
        Whether to print to standard error what was done.
    **options
        ``skip_bad`` (default False), ``min_seconds`` (0.4), ``check`` ("ends"),
        ``fold`` (""; "2/5": the second of five folds is test, the next one dev),
        ``evaluation_only`` (False; True: list no training speakers), and the corpus's
        own: see ``sb-margins prepare CORPUS --help``.

    Returns
    -------
    Prepared

    Raises
    ------
    UserError
        For an unknown corpus or option, a wrong layout, unreadable files (all
        of them at once, by name), too few speakers.
    OSError
        When a folder cannot be read or written.
    """
    layout = corpus_named(corpus)
    options = _complete(layout, options)
    save = Path(save_folder)

    def say(text: str) -> None:
        if verbose:
            progress(f"prepare {corpus}: {text}", sys.stderr)

    folder = _data_folder(layout, data_folder)
    if save.absolute() == folder:
        raise UserError(
            f"save_folder and data_folder are the same ({folder}): manifests would "
            "mix with the corpus's own tables. Give another save_folder"
        )
    settings = {
        "format": FORMAT,
        "corpus": corpus,
        "data_folder": str(folder),
        "seed": seed,
        "options": options,
    }
    before = _read_info(save)
    if before:
        if _is_current(before, settings, layout, folder) and _is_complete(save):
            return Prepared.load(save)
        say(f"{_changes(before, settings)}; preparing {save} again")

    own = {name: options[name] for name in layout.options}
    if options["evaluation_only"]:
        own |= layout.evaluation
    listing = layout.collect(folder, seed=seed, **own)
    if options["evaluation_only"]:
        listing.entries = [e for e in listing.entries if e.split != "train"]
    save.mkdir(parents=True, exist_ok=True)
    common = {name: options[name] for name in CHECKING}
    utterances, left_out = usable(
        listing, save, workers=workers, progress=verbose, **common
    )
    splits = _splits(listing, utterances, seed, options)
    trials = {
        split: _trials(listing, split, group, left_out, seed)
        for split, group in splits.items()
        if split != "train"
    }

    _remove_old(save, before)
    for split, group in splits.items():
        Manifest(group, listing.root).write(save / f"{split}.csv")
    for split in trials:
        write_trials(save / f"trials_{split}.txt", trials[split])
    counts = {
        split: _count(splits[split], trials.get(split))
        for split in sorted(splits, key=lambda s: (s != "train", s))
    }
    info = {
        **settings,
        "data_root": str(listing.root),
        "stamp": layout.stamp(folder) if layout.stamp else "",
        "counts": counts,
        "notes": listing.notes,
    }
    text = json.dumps(info, indent=2, ensure_ascii=False, default=str)
    write_text(save / "prepare.json", text + "\n")
    for note in listing.notes:
        say(note)
    for split, count in counts.items():
        say(f"{split}: " + ", ".join(f"{n} {what}" for what, n in count.items()))
    return Prepared(save, listing.root)


def _complete(layout: Corpus, options: Mapping[str, Any]) -> dict[str, Any]:
    """The common and the corpus's own options, all set and of the right type."""
    complete = {**COMMON, **layout.options}
    for name, value in options.items():
        if name not in complete:
            raise UserError(
                f"corpus '{layout.name}' has no option '{name}'."
                f"{nearest(name, complete)} It has: {', '.join(sorted(complete))}"
            )
        kind = type(complete[name])
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise UserError(
                f"option '{name}' of corpus '{layout.name}' takes "
                f"{kind.__name__}, not {value!r}"
            )
        complete[name] = value
    choose("check", complete["check"], CHECKS)
    return complete


def _data_folder(layout: Corpus, folder: str | Path | None) -> Path:
    if layout.writes:
        return Path(folder or layout.default_folder).expanduser().absolute()
    if folder is None:
        raise UserError(f"corpus '{layout.name}' needs its folder: --data-folder")
    return existing_folder(folder)


def _read_info(save: Path) -> dict[str, Any] | None:
    """The ``prepare.json`` of an earlier preparation, if it can be read."""
    try:
        info = json.loads((save / "prepare.json").read_text(encoding="utf-8"))
        info["options"] = {"fold": "", "evaluation_only": False, **info["options"]}
    except (OSError, ValueError, KeyError):
        return None
    return info


def _is_current(
    before: Mapping[str, Any], settings: Mapping[str, Any], layout: Corpus, folder: Path
) -> bool:
    """Whether the settings are the same, and the data as far as a stamp says."""
    same = all(before.get(name) == value for name, value in settings.items())
    if layout.stamp is None or not same:
        return same
    return folder.is_dir() and before.get("stamp") == layout.stamp(folder)


def _is_complete(save: Path) -> bool:
    """Whether every file that was written is there, and each split's first audio."""
    prepared = Prepared.load(save)
    for split, count in prepared.info["counts"].items():
        if "target trials" in count and not prepared.has_trials(split):
            return False
        try:
            first = next(read_table(save / f"{split}.csv", wav=("wav",)))
        except (UserError, StopIteration):
            return False
        if not (prepared.data_root / first.known["wav"]).is_file():
            return False
    return True


def _changes(before: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    old = {**before, **before.get("options", {})}
    new = {**settings, **settings["options"]}
    changed = [
        f"{name} was {old.get(name)!r}, is {value!r}"
        for name, value in new.items()
        if name != "options" and old.get(name) != value
    ]
    return "; ".join(changed) or "the data have changed"


def _splits(
    listing: Listing,
    utterances: Sequence[tuple[Entry, Utterance]],
    seed: int,
    options: Mapping[str, Any],
) -> dict[str, list[Utterance]]:
    """The corpus's own splits, or made ones; dev is held out when there is none."""
    if not utterances:
        raise UserError(f"no usable audio in {listing.root}")
    ordered = sorted(utterances, key=lambda pair: pair[1].id)
    splits: dict[str, list[Utterance]] = {}
    pooled = DIVIDED if options["fold"] else ()
    for name in pooled:
        listing.trials.pop(name, None)
    for entry, utterance in ordered:
        name = "" if entry.split in pooled else entry.split
        splits.setdefault(name, []).append(utterance)
    if options["evaluation_only"] and list(splits) == [""]:
        splits["test"] = fewer(splits.pop(""), options.get("eval_utterances", 0), seed)
    elif pooled or list(splits) == [""]:
        shares = ("dev_share", "test_share", "eval_utterances", "fold")
        splits |= divide(
            splits.pop("", []), seed, **{k: options[k] for k in shares if k in options}
        )
    elif "train" in splits and "dev" not in splits and listing.dev_speakers:
        splits["train"], splits["dev"] = hold_out(
            splits["train"], seed, listing.dev_speakers, listing.eval_utterances
        )
        listing.notes.append(
            f"{listing.dev_speakers} training speakers were held out as dev"
        )
    trained = {u.spk_id for u in splits.get("train", ())}
    evaluated = {u.spk_id for s, g in splits.items() if s != "train" for u in g}
    shared = sorted(trained & evaluated)
    if shared:
        raise UserError(
            f"{len(shared)} speakers are in 'train' and in another split: "
            f"{listed(shared, 5)}. A verifier must be tested on other speakers "
            "than it was trained on: correct splits.csv"
        )
    return splits


def _trials(
    listing: Listing,
    split: str,
    group: Sequence[Utterance],
    left_out: Mapping[str, str],
    seed: int,
) -> Trials:
    """The corpus's own trials of a split, checked, or made ones."""
    known = {u.id: u for u in group}
    given = listing.trials.get(split) or make_trials(group, seed)
    trials = usable_trials(given, split, known, left_out, listing.official)
    if lost := len(given) - len(trials):
        listing.notes.append(
            f"{lost} trials of '{split}' need files that were left out"
        )
    return trials


def _count(group: Sequence[Utterance], trials: Trials | None) -> dict[str, float]:
    count: dict[str, float] = {
        "speakers": len({u.spk_id for u in group}),
        "utterances": len(group),
        "hours": round(sum(u.duration for u in group) / 3600, 2),
    }
    if trials is not None:
        targets = sum(label for label, _, _ in trials)
        count["target trials"] = targets
        count["non-target trials"] = len(trials) - targets
    return count


def _remove_old(save: Path, before: Mapping[str, Any] | None) -> None:
    """No manifest of an earlier preparation may stay among the new ones."""
    (save / "prepare.json").unlink(missing_ok=True)
    for split in (before or {}).get("counts", {}):
        (save / f"{split}.csv").unlink(missing_ok=True)
        (save / f"trials_{split}.txt").unlink(missing_ok=True)
