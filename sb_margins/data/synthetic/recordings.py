"""From a dry voice to recordings: timbre, room, microphone, noise and level.

Every random number comes from the generator that is handed in. The constants say
how much recordings of one speaker differ.

As a program, it makes the audio of one batch of speakers: ``python -m
sb_margins.data.synthetic.recordings FOLDER SEED SPEAKERS UTTERANCES BATCH``.
"""

from __future__ import annotations

import math
import os
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import butter, fftconvolve, lfilter, resample_poly, sosfilt

from sb_margins.data.synthetic.espeak import Espeak
from sb_margins.data.synthetic.voices import BATCH, make_sayings, make_speakers

RATE = 16_000
BANDS = (500.0, 1200.0, 2500.0, 4500.0)

ROOM_SHARE = 0.6
ROOM_SECONDS = (0.1, 0.5)
ROOM_RATIO_DB = (0.0, 12.0)
NARROW_SHARE = 0.25
MICROPHONE_DB = 4.0
NOISE_DB = (8.0, 30.0)
LEVEL_DB = (-32.0, -18.0)


def make_batch(folder: Path, seed: int, speakers: int, count: int, batch: int) -> None:
    """Write the audio of the ``batch``-th ten of ``speakers`` speakers.

    Reproducible only in a fresh process: eSpeak's output depends on what it said
    before.
    """
    espeak = Espeak(seed=seed * 1000 + batch)
    for speaker in make_speakers(speakers, seed)[batch * BATCH : (batch + 1) * BATCH]:
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
            path = folder / speaker.file_name(index)
            path.parent.mkdir(parents=True, exist_ok=True)
            # by process: an orphan of a killed run may still be writing this one
            part = path.with_suffix(f".{os.getpid()}.part")
            soundfile.write(part, wav, RATE, "PCM_16", format="FLAC")
            os.replace(part, path)


def record(
    dry: np.ndarray,
    source_rate: float,
    tract: float,
    colour: tuple[float, ...],
    rng: np.random.Generator,
) -> np.ndarray:
    """A recording ([T'] int16 at 16 kHz) of a dry voice ([T] float32).

    All frequencies are multiplied by ``tract``: a shorter vocal tract. ``colour`` is
    the gain in dB around the four ``BANDS``.
    """
    # played as if its rate were source_rate * tract
    ratio = Fraction(RATE / (source_rate * tract)).limit_denominator(441)
    wav = resample_poly(dry.astype(np.float64), ratio.numerator, ratio.denominator)
    for centre, gain in zip(BANDS, colour, strict=True):
        wav = _peak(wav, centre, gain, quality=1.0)
    if rng.random() < ROOM_SHARE:
        wav = _room(wav, rng)
    wav = _microphone(wav, rng)
    wav = _noise(wav, rng)
    level = 10 ** (rng.uniform(*LEVEL_DB) / 20)
    wav *= level / max(1e-6, float(np.sqrt(np.mean(wav**2))))
    peak = float(np.abs(wav).max())
    if peak > 0.99:
        wav *= 0.99 / peak
    return np.round(wav * 32767).astype(np.int16)


def _peak(wav: np.ndarray, centre: float, gain: float, quality: float) -> np.ndarray:
    """A second-order peaking equaliser (R. Bristow-Johnson's cookbook)."""
    a = 10 ** (gain / 40)
    w = 2 * math.pi * centre / RATE
    alpha = math.sin(w) / (2 * quality)
    b = [1 + alpha * a, -2 * math.cos(w), 1 - alpha * a]
    return lfilter(b, [1 + alpha / a, -2 * math.cos(w), 1 - alpha / a], wav)


def _room(wav: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Decaying noise after the direct sound: a diffuse room."""
    seconds = rng.uniform(*ROOM_SECONDS)
    tail = rng.standard_normal(int(seconds * RATE))
    tail *= 10 ** (-3 * np.arange(len(tail)) / len(tail))
    ratio = 10 ** (rng.uniform(*ROOM_RATIO_DB) / 20)
    tail /= ratio * np.sqrt(np.sum(tail**2))
    tail[: RATE // 500] = 0
    tail[0] = 1
    return fftconvolve(wav, tail)[: len(wav)]


def _microphone(wav: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Its colour, or a telephone's narrow band."""
    for centre in (150.0, 800.0, 3000.0, 6000.0):
        wav = _peak(wav, centre, MICROPHONE_DB * rng.standard_normal(), quality=0.8)
    if rng.random() < NARROW_SHARE:
        low, high = rng.uniform(200, 350), rng.uniform(3200, 3900)
        sos = butter(4, [low, high], "bandpass", fs=RATE, output="sos")
        wav = sosfilt(sos, wav)
    return wav


def _noise(wav: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise of a random colour, from hum-like to white."""
    noise = rng.standard_normal(len(wav))
    noise = lfilter([1.0], [1.0, -rng.uniform(0.0, 0.98)], noise)
    ratio = 10 ** (rng.uniform(*NOISE_DB) / 20)
    scale = np.sqrt(np.mean(wav**2) / max(1e-12, float(np.mean(noise**2)))) / ratio
    return wav + scale * noise


if __name__ == "__main__":
    make_batch(Path(sys.argv[1]), *(int(word) for word in sys.argv[2:]))
