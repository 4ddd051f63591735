"""``prepare``: from any known corpus layout to manifests and trial lists."""

from __future__ import annotations

import csv
import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sb_margins.data.audio_files import CHECKS, read_headers
from sb_margins.data.checking import usable
from sb_margins.data.corpus import Corpus, Entry, Listing, existing_folder
from sb_margins.data.manifest import Manifest, Utterance
from sb_margins.data.prepared import FORMAT, Prepared
from sb_margins.data.splitting import divide, hold_out, make_trials
from sb_margins.data.trials import Trials, usable_trials, write_trials
from sb_margins.errors import UserError, nearest

CORPORA = (
    "folder",
    "demo",
    "mini_librispeech",
    "voxceleb",
    "cnceleb",
    "sitw",
)
COMMON: dict[str, Any] = {"skip_bad": False, "min_seconds": 0.4, "check": "ends"}
COMMON_HELP = {
    "skip_bad": "leave unreadable files out (listed) instead of stopping",
    "min_seconds": "leave shorter files out (listed)",
    "check": "header, ends (default: also decodes both ends) or full (all of it)",
}


def corpus_named(name: str) -> Corpus:
    """The corpus of that name.

    Arguments
    ---------
    name : str
        One of ``CORPORA``.

    Returns
    -------
    Corpus

    Raises
    ------
    UserError
        When there is none; tells the nearest names.

    Example
    -------
    >>> corpus_named("folder").name
    'folder'
    """
    if name not in CORPORA:
        raise UserError(
            f"no corpus '{name}'.{nearest(name, CORPORA)} Known: {', '.join(CORPORA)}. "
            "Any folder of speaker/.../audio files is corpus 'folder'"
        )
    return importlib.import_module(f"sb_margins.data.{name}").CORPUS


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
        Where the audio lies; may be None for a corpus that is made on the spot.
    save_folder : str or Path
        Where the manifests go.
    seed : int
        Of splits and trial lists (and of the demo corpus).
    workers : int
        Threads that read headers; 0 = two per core.
    verbose : bool
        Whether to say on standard error what was done.
    **options
        ``skip_bad`` (default False), ``min_seconds`` (0.4), ``check`` ("ends"),
        and the corpus's own: see ``sb-margins prepare CORPUS --help``.

    Returns
    -------
    Prepared

    Raises
    ------
    UserError
        For an unknown corpus or option, a wrong layout, unreadable files (all
        of them at once, by name), too few speakers.

    Example
    -------
    >>> prepare("folders", "x", "y")
    Traceback (most recent call last):
    ...
    sb_margins.errors.UserError: no corpus 'folders'. Did you mean 'folder'? ...
    """
    try:
        return _prepare(
            corpus, data_folder, save_folder, seed, workers, verbose, options
        )
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        raise UserError(
            f"preparing {corpus} stopped: {error.strerror or error}{place}. Check "
            "permissions and space, and run it again"
        ) from error


def _prepare(
    corpus: str,
    data_folder: str | Path | None,
    save_folder: str | Path,
    seed: int,
    workers: int,
    verbose: bool,
    options: Mapping[str, Any],
) -> Prepared:
    layout = corpus_named(corpus)
    common, own = _options(layout, options)
    folder = _folder(layout, data_folder, seed, own)
    save = Path(save_folder)
    if save.absolute() == folder:
        raise UserError(
            f"save_folder and data_folder are the same ({folder}): manifests would "
            "mix with the corpus's own tables. Give another save_folder"
        )

    def say(text: str) -> None:
        if verbose:
            print(f"prepare {corpus}: {text}", file=sys.stderr)

    key = {
        "format": FORMAT,
        "corpus": corpus,
        "data_folder": str(folder),
        "seed": seed,
        "options": {**common, **own},
    }
    old = _old(save)
    if old and _same(old, key, layout, folder):
        prepared = Prepared.load(save)
        if _audio_is_there(prepared):
            return prepared
    if old:
        say(f"{_changes(old, key)}; preparing {save} again")

    listing = layout.collect(folder, seed=seed, **own)
    headers = read_headers(
        [listing.root / e.wav for e in listing.entries],
        common["check"],
        workers,
        progress=verbose,
    )
    save.mkdir(parents=True, exist_ok=True)
    utterances, left_out = usable(listing, headers, common, save)
    splits = _splits(listing, utterances, seed, own)
    trials = _trials(listing, splits, left_out, seed)
    _remove_old(save, old)
    for split, group in splits.items():
        Manifest(group, listing.root).write(save / f"{split}.csv")
    for split, lines in trials.items():
        write_trials(save / f"trials_{split}.txt", lines)
    counts = _counts(splits, trials)
    info = {
        **key,
        "data_root": str(listing.root),
        "stamp": layout.stamp(folder) if layout.stamp else "",
        "counts": counts,
        "notes": listing.notes,
    }
    text = json.dumps(info, indent=2, ensure_ascii=False, default=str) + "\n"
    part = save / "prepare.json.part"
    part.write_text(text, encoding="utf-8")
    part.replace(save / "prepare.json")
    for note in listing.notes:
        say(note)
    for split, count in counts.items():
        say(f"{split}: " + ", ".join(f"{n} {what}" for what, n in count.items()))
    return Prepared(save, listing.root)


def _options(
    layout: Corpus, options: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The common and the corpus's own options, complete and of the right type."""
    known = {**COMMON, **layout.options}
    chosen = dict(known)
    for name, value in options.items():
        if name not in known:
            raise UserError(
                f"corpus '{layout.name}' has no option '{name}'."
                f"{nearest(name, known)} It has: {', '.join(sorted(known))}"
            )
        kind = type(known[name])
        if kind is float and isinstance(value, int):
            value = float(value)
        if known[name] is not None and type(value) is not kind:
            raise UserError(
                f"option '{name}' of corpus '{layout.name}' takes "
                f"{kind.__name__}, not {value!r}"
            )
        chosen[name] = value
    if chosen["check"] not in CHECKS:
        raise UserError(f"check={chosen['check']!r}: choose {', '.join(CHECKS)}")
    common = {name: chosen[name] for name in COMMON}
    return common, {name: chosen[name] for name in layout.options}


def _folder(
    layout: Corpus, folder: str | Path | None, seed: int, own: Mapping[str, Any]
) -> Path:
    if layout.default_folder is not None:
        path = layout.default_folder(seed, own) if folder is None else Path(folder)
        return path.expanduser().absolute()
    if folder is None:
        raise UserError(f"corpus '{layout.name}' needs its folder: --data_folder")
    return existing_folder(folder)


def _old(save: Path) -> dict[str, Any] | None:
    """What an earlier preparation left, if it can be read."""
    try:
        return json.loads((save / "prepare.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _same(
    old: Mapping[str, Any], key: Mapping[str, Any], layout: Corpus, folder: Path
) -> bool:
    if any(old.get(name) != value for name, value in key.items()):
        return False
    if layout.stamp is None:
        return True
    return folder.is_dir() and old.get("stamp") == layout.stamp(folder)


def _audio_is_there(prepared: Prepared) -> bool:
    """Every file that was written is there, and the first audio of each split."""
    for split, count in prepared.info["counts"].items():
        if "target trials" in count and not prepared.has_trials(split):
            return False
        try:
            with (prepared.folder / f"{split}.csv").open(encoding="utf-8") as stream:
                first = next(csv.DictReader(stream))
        except (OSError, StopIteration):
            return False
        if not (prepared.data_root / first["wav"]).is_file():
            return False
    return True


def _changes(old: Mapping[str, Any], key: Mapping[str, Any]) -> str:
    before = {**old, **old.get("options", {})}
    after = {**key, **key["options"]}
    changed = [
        f"{name} was {before.get(name)!r}, is {value!r}"
        for name, value in after.items()
        if name != "options" and before.get(name) != value
    ]
    return "; ".join(changed) or "the data have changed"


def _splits(
    listing: Listing,
    utterances: Sequence[tuple[Entry, Utterance]],
    seed: int,
    own: Mapping[str, Any],
) -> dict[str, list[Utterance]]:
    ordered = sorted(utterances, key=lambda pair: pair[1].id)
    if not ordered:
        raise UserError(f"no usable audio in {listing.root}")
    if not any(entry.split for entry, _ in ordered):
        shares = ("dev_share", "test_share", "eval_utterances")
        splits = divide(
            [u for _, u in ordered], seed, **{k: own[k] for k in shares if k in own}
        )
    else:
        splits = {}
        for entry, utterance in ordered:
            splits.setdefault(entry.split, []).append(utterance)
        if "dev" not in splits and listing.dev_speakers:
            train, dev = hold_out(
                splits["train"], seed, listing.dev_speakers, listing.eval_utterances
            )
            splits.update(train=train, dev=dev)
            listing.notes.append(
                f"{listing.dev_speakers} training speakers were held out as dev"
            )
    owner: dict[str, str] = {}
    for split, group in splits.items():
        if split == "train":
            continue
        for u in group:
            owner[u.spk_id] = split
    shared = sorted({u.spk_id for u in splits.get("train", ())} & set(owner))
    if shared:
        raise UserError(
            f"{len(shared)} speakers are in 'train' and in another split: "
            f"{', '.join(shared[:5])}. A verifier must be tested on other speakers "
            "than it was trained on: correct splits.csv"
        )
    return splits


def _trials(
    listing: Listing,
    splits: Mapping[str, Sequence[Utterance]],
    left_out: Mapping[str, str],
    seed: int,
) -> dict[str, Trials]:
    lists = {}
    for split, group in splits.items():
        if split == "train":
            continue
        known = {u.id: u for u in group}
        if split in listing.trials:
            given = listing.trials[split]
            lists[split] = usable_trials(
                given, split, known, left_out, listing.official
            )
            lost = len(given) - len(lists[split])
            if lost:
                listing.notes.append(
                    f"{lost} trials of '{split}' need files that were left out"
                )
        else:
            made = Trials.from_rows(make_trials(group, seed))
            lists[split] = usable_trials(made, split, known)
    return lists


def _counts(
    splits: Mapping[str, Sequence[Utterance]], trials: Mapping[str, Trials]
) -> dict[str, dict[str, Any]]:
    counts: dict[str, dict[str, Any]] = {}
    for split in sorted(splits, key=lambda s: (s != "train", s)):
        group = splits[split]
        counts[split] = {
            "speakers": len({u.spk_id for u in group}),
            "utterances": len(group),
            "hours": round(sum(u.duration for u in group) / 3600, 2),
        }
        if split in trials:
            targets = sum(label for label, _, _ in trials[split])
            counts[split]["target trials"] = targets
            counts[split]["non-target trials"] = len(trials[split]) - targets
    return counts


def _remove_old(save: Path, old: Mapping[str, Any] | None) -> None:
    """No manifest of an earlier preparation may stay among the new ones."""
    (save / "prepare.json").unlink(missing_ok=True)
    for split in (old or {}).get("counts", {}):
        (save / f"{split}.csv").unlink(missing_ok=True)
        (save / f"trials_{split}.txt").unlink(missing_ok=True)
