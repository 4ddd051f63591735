"""From a dry voice to a recording: timbre, room, microphone, noise and level.

Every random number comes from the generator that is handed in. The constants say
how much recordings of one speaker differ.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from scipy.signal import butter, fftconvolve, lfilter, resample_poly, sosfilt

RATE = 16_000
BANDS = (500.0, 1200.0, 2500.0, 4500.0)

ROOM_SHARE = 0.6
ROOM_SECONDS = (0.1, 0.5)
ROOM_RATIO_DB = (0.0, 12.0)
NARROW_SHARE = 0.25
MICROPHONE_DB = 4.0
NOISE_DB = (8.0, 30.0)
LEVEL_DB = (-32.0, -18.0)


def record(
    dry: np.ndarray,
    source_rate: float,
    tract: float,
    colour: tuple[float, ...],
    rng: np.random.Generator,
) -> np.ndarray:
    """One recording of a dry voice.

    Arguments
    ---------
    dry : numpy.ndarray
        [T] float32 samples from the synthesiser.
    source_rate : float
        Their rate, Hz.
    tract : float
        All frequencies are multiplied by it: a shorter vocal tract.
    colour : tuple of float
        Gain in dB around the four ``BANDS``.
    rng : numpy.random.Generator

    Returns
    -------
    numpy.ndarray
        [T'] int16 at 16 kHz.

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> record(np.ones(22050, np.float32), 22050, 1.0, (0, 0, 0, 0), rng).shape
    (16000,)
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
