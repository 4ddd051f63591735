"""CN-Celeb 1 and 2, as OpenSLR 82 unpacks them.

``CN-Celeb_flac/data/<speaker>/<genre>-<n>-<m>.flac``, ``dev/dev.lst`` (training
speakers), ``eval/enroll``, ``eval/test`` and ``eval/lists/{enroll,trials}.lst``;
``CN-Celeb2_flac/data/<speaker>/...``. The enrolment side of a trial is the
concatenated file of ``eval/enroll`` (what others call CNC-Eval-Concat).
"""

from __future__ import annotations

import os
from pathlib import Path

from sb_margins.data.audio_files import is_audio, walk
from sb_margins.data.corpus import Corpus, Entry, Listing, existing_folder
from sb_margins.data.trials import read_trials
from sb_margins.errors import UserError

TRAIN = ("all", "cnceleb1", "cnceleb2")
_EXPECTED = (
    "expected CN-Celeb_flac/ with data/<speaker>/<genre>-01-001.flac, dev/dev.lst, "
    "eval/enroll/, eval/test/, eval/lists/enroll.lst and eval/lists/trials.lst (and, "
    "for training on both, CN-Celeb2_flac/data/<speaker>/ beside it)"
)


def collect(
    folder: Path,
    *,
    seed: int,
    cnceleb2: str = "",
    train: str = "all",
    dev_speakers: int = 40,
    eval_utterances: int = 20,
) -> Listing:
    """List CN-Celeb's training speakers and its evaluation trials.

    Arguments
    ---------
    folder : Path
        ``CN-Celeb_flac`` itself, or the folder that holds it.
    seed : int
        Not used here: dev speakers are drawn later.
    cnceleb2 : str
        ``CN-Celeb2_flac``, when it is not beside the first.
    train : str
        ``all`` that is there, ``cnceleb1`` or ``cnceleb2``.
    dev_speakers : int
        Training speakers held out to choose the best checkpoint.
    eval_utterances : int
        Most utterances of each of those.

    Returns
    -------
    Listing

    Raises
    ------
    UserError
        When the layout is another one.

    Example
    -------
    >>> collect(getfixture("tmp_path"), seed=1)
    Traceback (most recent call last):
    ...
    sb_margins.errors.UserError: no CN-Celeb in ...: expected CN-Celeb_flac/ ...
    """
    if train not in TRAIN:
        raise UserError(f"train='{train}': choose {', '.join(TRAIN)}")
    first, second = _roots(folder, cnceleb2)
    if train == "cnceleb2" and second is None:
        raise UserError(f"train=cnceleb2, but no CN-Celeb2_flac by {folder}")
    both = [first] if second is None else [first, second]
    root = Path(os.path.commonpath(both)) if second else first
    listing = Listing(
        root,
        [],
        dev_speakers=dev_speakers,
        eval_utterances=eval_utterances,
        official=True,
    )
    tested = _evaluation(listing, first)
    if train != "cnceleb2":
        lines = (first / "dev" / "dev.lst").read_text(encoding="utf-8").split()
        _training(listing, first, [s for s in lines if s not in tested])
    if train != "cnceleb1" and second is not None:
        inside = sorted(p.name for p in (second / "data").iterdir() if p.is_dir())
        _training(listing, second, [s for s in inside if s not in tested])
    return listing


def _roots(folder: Path, cnceleb2: str) -> tuple[Path, Path | None]:
    """The folders of CN-Celeb 1 and, when there, 2."""
    first = None
    for place in (folder, folder / "CN-Celeb_flac", folder / "CN-Celeb"):
        if (place / "eval" / "lists" / "trials.lst").is_file():
            first = place
            break
    if first is None:
        found = sorted(p.name for p in folder.iterdir())[:6]
        raise UserError(
            f"no CN-Celeb in {folder}: {_EXPECTED}. It holds: "
            f"{', '.join(found) or 'nothing'}"
        )
    for needed in ("data", "dev/dev.lst", "eval/lists/enroll.lst"):
        if not (first / needed).exists():
            raise UserError(f"{first} has no {needed}: {_EXPECTED}")
    if cnceleb2:
        second = existing_folder(cnceleb2)
        if not (second / "data").is_dir():
            raise UserError(f"{second} has no data/<speaker>/ folders: {_EXPECTED}")
        return first, second
    for place in (first.parent / "CN-Celeb2_flac", first.parent / "CN-Celeb2"):
        if (place / "data").is_dir():
            return first, place
    return first, None


def _training(listing: Listing, corpus: Path, speakers: list[str]) -> None:
    inside = corpus.relative_to(listing.root).as_posix()
    prefix = "" if inside == "." else f"{inside}/"
    absent = []
    for speaker in speakers:
        folder = corpus / "data" / speaker
        if not folder.is_dir():
            absent.append(speaker)
            continue
        for name in walk(folder):
            genre = name.split("/")[-1].split("-")[0]
            listing.entries.append(
                Entry(
                    f"{speaker}/{name}",
                    f"{prefix}data/{speaker}/{name}",
                    speaker,
                    "train",
                    {"genre": genre},
                )
            )
    if absent:
        raise UserError(
            f"{len(absent)} speakers of {corpus / 'dev' / 'dev.lst'} have no folder in "
            f"{corpus / 'data'}: {', '.join(absent[:5])}. Unpack the archive again"
        )


def _evaluation(listing: Listing, corpus: Path) -> set[str]:
    """The test split and its trials; returns the speakers in it."""
    inside = corpus.relative_to(listing.root).as_posix()
    prefix = "" if inside == "." else f"{inside}/"
    there = {}
    for side in ("enroll", "test"):
        if not (corpus / "eval" / side).is_dir():
            raise UserError(f"{corpus} has no eval/{side}: {_EXPECTED}")
        for name in sorted(os.listdir(corpus / "eval" / side)):
            if is_audio(name):
                # the lists say .wav; the archive holds .flac
                there[f"{side}/{os.path.splitext(name)[0]}"] = f"{side}/{name}"
    models = {}
    lists = corpus / "eval" / "lists"
    for line in (lists / "enroll.lst").read_text(encoding="utf-8").splitlines():
        words = line.split()
        if len(words) == 2:
            models[words[0]] = words[1]

    missing: dict[str, None] = {}

    def there_as(word: str) -> str:
        path = models.get(word, word)
        stem = os.path.splitext(path)[0]
        if stem not in there:
            missing[path] = None
        return there.get(stem, path)

    trials = read_trials(lists / "trials.lst", labelled=True).renamed(there_as)
    if missing:
        raise UserError(
            f"{lists / 'trials.lst'} names {len(missing)} files that are not in "
            f"{corpus / 'eval'}: {', '.join(list(missing)[:5])}. Unpack it again"
        )
    listing.trials["test"] = trials
    speakers = set()
    for utterance in trials.utterances:
        stem = utterance.split("/")[1]
        speaker, _, rest = stem.partition("-")
        genre = rest.split("-")[0] if utterance.startswith("test/") else "enroll"
        wav = f"{prefix}eval/{utterance}"
        listing.entries.append(Entry(utterance, wav, speaker, "test", {"genre": genre}))
        speakers.add(speaker)
    return speakers


CORPUS = Corpus(
    "cnceleb",
    "CN-Celeb 1 and 2 (training and evaluation)",
    collect,
    help={
        "cnceleb2": "CN-Celeb2_flac, when it is not beside CN-Celeb_flac",
        "train": "all that is there, cnceleb1 or cnceleb2",
        "dev_speakers": "training speakers held out to choose the checkpoint",
        "eval_utterances": "most utterances of each of those (0 = all)",
    },
)
