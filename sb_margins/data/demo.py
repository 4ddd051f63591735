"""The demo corpus: synthetic voices, made on the spot with no download beyond pip.

The voices are synthetic (eSpeak NG): good for trying the whole path and comparing
losses at a small scale, no measure of how a model does on people.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path

from sb_margins.data.corpus import Corpus, Listing, refuse_other_files
from sb_margins.data.folder import annotated
from sb_margins.data.manifest import Utterance
from sb_margins.data.splitting import make_trials, shuffled
from sb_margins.data.synthetic.espeak import loader
from sb_margins.data.synthetic.voices import (
    BATCH,
    SENTENCES,
    Speaker,
    make_sayings,
    make_speakers,
)
from sb_margins.data.tables import write_table
from sb_margins.data.trials import write_trials
from sb_margins.errors import UserError
from sb_margins.files import write_text
from sb_margins.messages import progress_bar

VERSION = 1
DEV_SHARE, TEST_SHARE = 0.11, 0.18
SETTINGS = "language accent variant gender tract pitch pitch_range rate".split()
README = """\
THE VOICES IN THIS FOLDER ARE SYNTHETIC. No person was recorded.

{speakers} voices of eSpeak NG ({languages}), {utterances} sentences each, in
simulated rooms with simulated microphones and noise; 16 kHz, mono, FLAC.
Made by sb_margins (demo corpus version {version}, seed {seed}). It is there to try
software on. Error rates on it say nothing about error rates on people.

manifest.csv    utt_id, spk_id, path, duration (s), language, accent, variant, gender,
                tract, pitch, pitch_range, rate, text
splits.csv      utt_id, spk_id, split (train, dev, test); no speaker in two splits
trials_*.txt    label utt utt; 1 = same voice
"""


def collect(
    folder: Path,
    *,
    seed: int,
    speakers: int = 140,
    utterances: int = 12,
    voice_seed: int = 1986,
) -> Listing:
    """Make the corpus in the folder, unless it is there, and list it.

    Each size and seed gets a folder in it; other files are refused, they may be a
    user's recordings. ``seed`` is not used: runs with several seeds must hear the same
    voices.
    """
    most = min(len(texts) for texts in SENTENCES.values())
    if speakers < 12 or not 2 <= utterances <= most:
        raise UserError(
            f"the demo corpus takes 12 speakers or more and 2 to {most} utterances of "
            f"each, not {speakers} and {utterances}"
        )
    refuse_other_files(folder, "demo", r"v\d+-\d+x\d+-seed-?\d+")
    place = folder / f"v{VERSION}-{speakers}x{utterances}-seed{voice_seed}"
    if not (place / "made.txt").is_file():
        _make(place, voice_seed, speakers, utterances)
    listing = annotated(place)
    listing.notes.append("these voices are synthetic (eSpeak NG), not people")
    return listing


def _make(folder: Path, seed: int, speakers: int, utterances: int) -> None:
    """Write audio, tables and trial lists; ``made.txt`` comes last.

    What an interrupted run left is used.
    """
    loader()
    begun = folder / "making.txt"
    if not begun.is_file():
        refuse_other_files(folder, "demo", "")
    folder.mkdir(parents=True, exist_ok=True)
    begun.write_text("not finished: make it again, and it goes on\n")
    _speak(folder, seed, speakers, utterances)
    _tables(folder, seed, make_speakers(speakers, seed), utterances)
    readme = README.format(
        speakers=speakers,
        utterances=utterances,
        languages=", ".join(SENTENCES),
        version=VERSION,
        seed=seed,
    )
    write_text(folder / "README.txt", readme)
    begun.write_text("finished\n")
    begun.replace(folder / "made.txt")


def _speak(folder: Path, seed: int, speakers: int, utterances: int) -> None:
    """Every batch in its own process, as many at once as there are cores."""
    done = folder / "batches"
    done.mkdir(exist_ok=True)
    # the package must be importable there as it is here
    path = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path)}

    def make_batch(number: int) -> None:
        mark = done / str(number)
        if mark.exists():
            return
        arguments = [str(n) for n in (seed, speakers, utterances, number)]
        command = [sys.executable, "-m", "sb_margins.data.synthetic.recordings"]
        run = subprocess.run(
            [*command, str(folder), *arguments], env=env, capture_output=True, text=True
        )
        if run.returncode != 0:
            last = (run.stderr.strip().splitlines() or [f"status {run.returncode}"])[-1]
            raise UserError(f"the demo corpus could not be made in {folder}: {last}")
        mark.parent.mkdir(exist_ok=True)
        mark.touch()

    batches = range(-(-speakers // BATCH))
    with ThreadPool(min(8, os.cpu_count() or 1)) as pool:
        made = pool.imap_unordered(make_batch, batches)
        what = "making synthetic voices"
        for _ in progress_bar(made, what, len(batches), unit="batch"):
            pass
    shutil.rmtree(done, ignore_errors=True)
    for part in folder.rglob("*.part"):
        part.unlink(missing_ok=True)


def _tables(folder: Path, seed: int, voices: Sequence[Speaker], count: int) -> None:
    import soundfile

    split_of = _split(voices, seed)
    manifest, splits = [], []
    groups: dict[str, list[Utterance]] = {"train": [], "dev": [], "test": []}
    for voice in voices:
        split = split_of[voice.name]
        settings = [getattr(voice, key) for key in SETTINGS]
        for index, saying in enumerate(make_sayings(voice, count, seed)):
            path = voice.file_name(index)
            name, seconds = Path(path).stem, soundfile.info(folder / path).duration
            row = [name, voice.name, path, f"{seconds:.3f}", *settings, saying.text]
            manifest.append(row)
            splits.append([name, voice.name, split])
            meta = {"gender": voice.gender}
            groups[split].append(
                Utterance(name, path, seconds, voice.name, 16000, meta)
            )
    header = ["utt_id", "spk_id", "path", "duration", *SETTINGS, "text"]
    write_table(folder / "manifest.csv", header, manifest)
    write_table(folder / "splits.csv", ["utt_id", "spk_id", "split"], splits)
    for split in ("dev", "test"):
        trials = make_trials(groups[split], seed)
        write_trials(folder / f"trials_{split}.txt", trials)


def _split(voices: Sequence[Speaker], seed: int) -> dict[str, str]:
    """The split of each voice; dev and test are half low, half high voices."""
    low = shuffled((v.name for v in voices if v.gender == "m"), seed, "demo")
    high = shuffled((v.name for v in voices if v.gender == "f"), seed, "demo")
    order = [n for pair in itertools.zip_longest(low, high) for n in pair if n]
    n_dev = max(4, round(DEV_SHARE * len(order)))
    n_test = max(4, round(TEST_SHARE * len(order)))
    split = dict.fromkeys(order, "train")
    split.update(dict.fromkeys(order[:n_dev], "dev"))
    split.update(dict.fromkeys(order[n_dev : n_dev + n_test], "test"))
    return split


CORPUS = Corpus(
    "demo",
    "synthetic voices, made on the spot in under a minute",
    collect,
    help={
        "speakers": "how many voices",
        "utterances": "sentences of each",
        "voice_seed": "of voices, splits and trial lists",
    },
    writes=True,
)
