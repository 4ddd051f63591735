"""How much speech a recording holds: by silero-vad, or by an energy rule without it.

silero-vad (https://github.com/snakers4/silero-vad, MIT; the extra ``vad``) is a small
network that ships its weights in its wheel and takes a hundredth of real time. The
energy rule counts what stands out of the background. It knows silence, hum and steady
noise from speech, but takes other sounds that come and go (music, knocks, animals) for
speech: install the extra where such files occur.
"""

from __future__ import annotations

import functools
import importlib.util
import threading
from collections.abc import Callable

import numpy as np

RATE = 16000  # of the samples that both rules take
FRAME, HOP = 400, 160  # samples
ABOVE_FLOOR = 6.0  # dB over the quiet frames
BELOW_PEAK = 40.0  # dB under the loudest frame
FLOOR = 5  # percentile of frames that are taken for background
PEAK = 0.3  # that silero-vad gets; quiet recordings would be missed

_one_at_a_time = threading.Lock()  # the detector keeps a state


def speech_rule() -> str:
    """What counts speech: ``silero-vad``, or ``the energy rule`` without it."""
    there = importlib.util.find_spec("silero_vad")
    return "silero-vad" if there else "the energy rule"


def speech_seconds(wav: np.ndarray) -> float:
    """Seconds of speech in samples [T] at 16 kHz, by silero-vad where it is installed.

    Example
    -------
    >>> speech_seconds(np.zeros(RATE, np.float32))
    0.0
    """
    return _by_vad(wav) if speech_rule() == "silero-vad" else by_energy(wav)


def by_energy(wav: np.ndarray) -> float:
    """Seconds (of 10 ms) 6 dB above the background and within 40 dB of the loudest.

    Example
    -------
    >>> noise = np.random.default_rng(0).standard_normal(2 * RATE) / 1000
    >>> by_energy(noise)
    0.0
    >>> noise[:RATE] *= 100
    >>> round(by_energy(noise), 1)
    1.0
    """
    sums = np.concatenate([[0.0], np.cumsum(np.square(wav, dtype=np.float64))])
    starts = np.arange(max(1, 1 + (len(wav) - FRAME) // HOP)) * HOP
    power = (sums[np.minimum(starts + FRAME, len(wav))] - sums[starts]) / FRAME
    level = 10 * np.log10(np.maximum(power, 1e-12))
    floor = max(np.percentile(level, FLOOR) + ABOVE_FLOOR, level.max() - BELOW_PEAK)
    return float((level > floor).sum() * HOP / RATE)


def _by_vad(wav: np.ndarray) -> float:
    import torch

    peak = float(np.abs(wav).max(initial=1e-6))
    scaled = torch.from_numpy((wav * (PEAK / peak)).astype(np.float32))
    with _one_at_a_time, torch.inference_mode():
        parts = _detector()(scaled)
    return sum(part["end"] - part["start"] for part in parts) / RATE


@functools.cache
def _detector() -> Callable:
    import torch

    threads = torch.get_num_threads()
    import silero_vad

    torch.set_num_threads(threads)  # which its import sets to 1
    return functools.partial(
        silero_vad.get_speech_timestamps,
        model=silero_vad.load_silero_vad(),
        sampling_rate=RATE,
    )
