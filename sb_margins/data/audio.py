"""Reading speech: any format and rate that soundfile knows, as one 16 kHz channel."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import resample_poly

from sb_margins.errors import UserError

SAMPLE_RATE = 16000


def resample(wav: np.ndarray, source: int, target: int = SAMPLE_RATE) -> np.ndarray:
    """Change the sampling rate with a polyphase filter.

    Arguments
    ---------
    wav : numpy.ndarray
        [T] samples.
    source, target : int
        Rates in Hz.

    Returns
    -------
    numpy.ndarray
        [ceil(T * target / source)] float32 samples.

    Example
    -------
    >>> resample(np.zeros(8000, dtype=np.float32), 8000).shape
    (16000,)
    """
    if source == target:
        return wav.astype(np.float32, copy=False)
    common = math.gcd(source, target)
    out = resample_poly(wav, target // common, source // common)
    return out.astype(np.float32, copy=False)


def load_audio(
    path: str | Path,
    *,
    rate: int = SAMPLE_RATE,
    start: float = 0.0,
    seconds: float | None = None,
) -> np.ndarray:
    """One channel of speech at the wanted rate.

    Arguments
    ---------
    path : str or Path
        A file that soundfile reads (wav, flac, ogg, mp3, ...).
    rate : int
        Wanted sampling rate in Hz; other rates are resampled.
    start : float
        Where to begin, in seconds.
    seconds : float, optional
        How much to read; default: to the end.

    Returns
    -------
    numpy.ndarray
        [T] float32 samples, channels averaged.

    Raises
    ------
    UserError
        When the file cannot be read or holds values that are not finite.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> soundfile.write(path, np.zeros(8000), 8000)
    >>> load_audio(path).shape
    (16000,)
    >>> load_audio(path, start=0.5, seconds=0.25).shape
    (4000,)
    """
    try:
        with soundfile.SoundFile(path) as file:
            own = file.samplerate
            if start:
                file.seek(min(round(start * own), file.frames))
            frames = -1 if seconds is None else max(1, round(seconds * own))
            wav = file.read(frames, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise UserError(f"cannot read audio file {path}: {error}") from error
    if not wav.size:
        raise UserError(f"audio file {path} holds no samples")
    mono = wav[:, 0] if wav.shape[1] == 1 else wav.mean(axis=1)
    if not np.isfinite(mono).all():
        raise UserError(f"audio file {path} holds samples that are not finite")
    return resample(mono, own, rate)
