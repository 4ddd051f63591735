"""Makes one batch of speakers, in a process of its own: see ``espeak``.

python -m sb_margins.data.synthetic.worker FOLDER SEED SPEAKERS UTTERANCES BATCH
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import soundfile

from sb_margins.data.synthetic.acoustics import RATE, record
from sb_margins.data.synthetic.espeak import Espeak
from sb_margins.data.synthetic.speakers import Speaker, make_sayings, make_speakers

BATCH = 10


def file_name(speaker: Speaker, index: int) -> str:
    """The posix path of an utterance, relative to the corpus.

    Arguments
    ---------
    speaker : Speaker
    index : int

    Returns
    -------
    str

    Example
    -------
    >>> file_name(make_speakers(12, seed=1)[3], 7)
    'audio/syn-003/syn-003-07.flac'
    """
    return f"audio/{speaker.name}/{speaker.name}-{index:02d}.flac"


def make_batch(folder: Path, seed: int, speakers: int, count: int, batch: int) -> None:
    """Write the audio of ``BATCH`` speakers; only in a fresh process reproducible.

    Arguments
    ---------
    folder : Path
        The corpus.
    seed : int
    speakers : int
        Of the whole corpus.
    count : int
        Utterances of each.
    batch : int
        Which ten speakers.

    Example
    -------
    >>> import pytest
    >>> _ = pytest.importorskip("espeakng_loader")
    >>> make_batch(getfixture("tmp_path"), seed=1, speakers=1, count=1, batch=0)
    >>> len(list(getfixture("tmp_path").rglob("*.flac")))
    1
    """
    espeak = Espeak(seed=seed * 1000 + batch)
    mine = make_speakers(speakers, seed)[batch * BATCH : (batch + 1) * BATCH]
    for speaker in mine:
        for index, saying in enumerate(make_sayings(speaker, count, seed)):
            dry = espeak.say(
                saying.text,
                speaker.voice,
                rate=saying.rate,
                pitch=saying.pitch,
                pitch_range=saying.pitch_range,
            )
            rng = np.random.default_rng([seed, int(speaker.name[4:]), index])
            wav = record(dry, espeak.sample_rate, saying.tract, saying.colour, rng)
            path = folder / file_name(speaker, index)
            path.parent.mkdir(parents=True, exist_ok=True)
            # by process: an orphan of a killed run may still be writing this one
            part = path.with_suffix(f".{os.getpid()}.part")
            soundfile.write(part, wav, RATE, "PCM_16", format="FLAC")
            os.replace(part, path)


if __name__ == "__main__":
    make_batch(Path(sys.argv[1]), *(int(word) for word in sys.argv[2:]))
