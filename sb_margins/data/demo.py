"""The demo corpus: synthetic voices, made on the spot with no download beyond pip.

The voices are synthetic (eSpeak NG): good for trying the whole path and comparing
losses at a small scale, no measure of how a model does on people.
"""

from __future__ import annotations

import csv
import io
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sb_margins.data.corpus import Corpus, Listing
from sb_margins.data.folder import annotated
from sb_margins.data.manifest import Utterance
from sb_margins.data.splitting import make_trials, shuffled
from sb_margins.data.synthetic.espeak import loader
from sb_margins.data.synthetic.sentences import SENTENCES
from sb_margins.data.synthetic.speakers import Speaker, make_sayings, make_speakers
from sb_margins.data.synthetic.worker import BATCH, file_name
from sb_margins.errors import UserError

VERSION = 1
DEV_SHARE, TEST_SHARE = 0.11, 0.18
_MADE = "made.txt"
README = """\
THE VOICES IN THIS FOLDER ARE SYNTHETIC. No person was recorded.

{speakers} voices of eSpeak NG ({language_list}), {utterances} sentences each, in
simulated rooms with simulated microphones and noise; 16 kHz, mono, FLAC.
Made by sb_margins (demo corpus version {version}, seed {seed}). It is there to try
software on. Error rates on it say nothing about error rates on people.

manifest.csv    utt_id, spk_id, path, duration (s), language, accent, variant, gender,
                tract, pitch, pitch_range, rate, text
splits.csv      utt_id, spk_id, split (train, dev, test); no speaker in two splits
trials_*.txt    label utt utt; 1 = same voice
"""


def default_folder(seed: int, options: Mapping[str, Any]) -> Path:
    """Where the corpus goes when no folder is given: the user's cache.

    Arguments
    ---------
    seed : int
    options : mapping
        Neither is used.

    Returns
    -------
    Path

    Example
    -------
    >>> default_folder(1, {}).name
    'demo'
    """
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "sb_margins" / "demo"


def collect(
    folder: Path,
    *,
    seed: int,
    speakers: int = 140,
    utterances: int = 12,
    voice_seed: int = 1986,
) -> Listing:
    """Make the corpus in the folder, unless it is there, and list it.

    Arguments
    ---------
    folder : Path
        Each size and seed gets a folder in it; what an interrupted making left
        is used.
    seed : int
        Not used: trainings with several seeds must hear the same voices.
    speakers : int
        12 or more.
    utterances : int
        Of each; 2 to 20.
    voice_seed : int
        Of the voices, what they say, the splits and the trial lists.

    Returns
    -------
    Listing

    Raises
    ------
    UserError
        Without the [demo] extra, or when the folder holds something else.

    Example
    -------
    >>> import pytest
    >>> _ = pytest.importorskip("espeakng_loader")
    >>> folder = getfixture("tmp_path") / "demo"
    >>> listing = collect(folder, seed=1, speakers=12, utterances=2)
    >>> sorted({entry.split for entry in listing.entries})
    ['dev', 'test', 'train']
    """
    most = min(len(texts) for texts in SENTENCES.values())
    if speakers < 12 or not 2 <= utterances <= most:
        raise UserError(
            f"the demo corpus takes 12 speakers or more and 2 to {most} utterances of "
            f"each, not {speakers} and {utterances}"
        )
    place = folder / f"v{VERSION}-{speakers}x{utterances}-seed{voice_seed}"
    if not (place / _MADE).is_file():
        make(place, voice_seed, speakers, utterances)
    listing = annotated(place)
    listing.notes.append("these voices are synthetic (eSpeak NG), not people")
    return listing


def make(folder: Path, seed: int, speakers: int, utterances: int) -> None:
    """Write audio, tables and trial lists; ``made.txt`` comes last.

    Arguments
    ---------
    folder : Path
    seed, speakers, utterances : int

    Raises
    ------
    UserError
        When the folder holds other files than an interrupted making's.

    Example
    -------
    >>> import pytest
    >>> _ = pytest.importorskip("espeakng_loader")
    >>> (getfixture("tmp_path") / "thesis.doc").touch()
    >>> make(getfixture("tmp_path"), 1, 12, 2)
    Traceback (most recent call last):
    ...
    sb_margins.errors.UserError: ... holds files that are not this demo corpus...
    """
    loader()
    begun = folder / "making.txt"
    if folder.is_dir() and any(folder.iterdir()) and not begun.is_file():
        raise UserError(
            f"{folder} holds files that are not this demo corpus. Give another "
            "--data_folder, or remove it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    begun.write_text("not finished: make it again, and it goes on\n")
    voices = make_speakers(speakers, seed)
    _speak(folder, seed, speakers, utterances)
    _tables(folder, seed, voices, utterances)
    begun.write_text("finished\n")
    begun.replace(folder / _MADE)


def _speak(folder: Path, seed: int, speakers: int, utterances: int) -> None:
    """Every batch in its own process, as many at once as there are cores."""
    from tqdm import tqdm

    done = folder / "batches"
    done.mkdir(exist_ok=True)
    # the package must be importable there as it is here
    path = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path)}

    def batch(number: int) -> None:
        mark = done / str(number)
        if mark.exists():
            return
        words = [str(n) for n in (seed, speakers, utterances, number)]
        command = [sys.executable, "-m", "sb_margins.data.synthetic.worker"]
        run = subprocess.run(
            [*command, str(folder), *words], env=env, capture_output=True, text=True
        )
        if run.returncode != 0:
            last = (run.stderr.strip().splitlines() or [f"status {run.returncode}"])[-1]
            raise UserError(f"the demo corpus could not be made in {folder}: {last}")
        mark.parent.mkdir(exist_ok=True)
        mark.touch()

    batches = range(-(-speakers // BATCH))
    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        tqdm(
            total=len(batches),
            desc="making synthetic voices",
            unit="batch",
            disable=None,
        ) as bar,
    ):
        futures = [pool.submit(batch, number) for number in batches]
        try:
            for future in futures:
                future.result()
                bar.update()
        finally:
            for future in futures:
                future.cancel()
    shutil.rmtree(done, ignore_errors=True)
    for part in folder.rglob("*.part"):
        part.unlink(missing_ok=True)


def _tables(folder: Path, seed: int, voices: list[Speaker], count: int) -> None:
    import soundfile

    low = shuffled((v.name for v in voices if v.gender == "m"), seed, "demo")
    high = shuffled((v.name for v in voices if v.gender == "f"), seed, "demo")
    order = [n for pair in itertools.zip_longest(low, high) for n in pair if n]
    n_dev = max(4, round(DEV_SHARE * len(order)))
    n_test = max(4, round(TEST_SHARE * len(order)))
    split = dict.fromkeys(order, "train")
    split.update(dict.fromkeys(order[:n_dev], "dev"))
    split.update(dict.fromkeys(order[n_dev : n_dev + n_test], "test"))
    settings = "language accent variant gender tract pitch pitch_range rate".split()
    manifest = [["utt_id", "spk_id", "path", "duration", *settings, "text"]]
    splits = [["utt_id", "spk_id", "split"]]
    groups: dict[str, list[Utterance]] = {"dev": [], "test": []}
    for voice in voices:
        for index, saying in enumerate(make_sayings(voice, count, seed)):
            path = file_name(voice, index)
            name = Path(path).stem
            seconds = soundfile.info(folder / path).duration
            told = [str(getattr(voice, key)) for key in settings]
            manifest.append(
                [name, voice.name, path, f"{seconds:.3f}", *told, saying.text]
            )
            splits.append([name, voice.name, split[voice.name]])
            if split[voice.name] != "train":
                meta = {"gender": voice.gender}
                one = Utterance(name, path, seconds, voice.name, 16000, meta)
                groups[split[voice.name]].append(one)
    _write(folder / "manifest.csv", manifest)
    _write(folder / "splits.csv", splits)
    for name, group in groups.items():
        lines = [f"{label} {a} {b}\n" for label, a, b in make_trials(group, seed)]
        (folder / f"trials_{name}.txt").write_text("".join(lines), newline="\n")
    text = README.format(
        speakers=len(voices),
        utterances=count,
        language_list=", ".join(SENTENCES),
        version=VERSION,
        seed=seed,
    )
    (folder / "README.txt").write_text(text, encoding="utf-8", newline="\n")


def _write(path: Path, rows: list[list[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8", newline="\n")


CORPUS = Corpus(
    "demo",
    "synthetic voices, made on the spot in under a minute",
    collect,
    help={
        "speakers": "how many voices",
        "utterances": "sentences of each",
        "voice_seed": "of voices, splits and trial lists",
    },
    default_folder=default_folder,
)
