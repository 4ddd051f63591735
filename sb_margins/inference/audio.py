"""Audio as people have it: any rate, channels and format; what is wrong is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile

from sb_margins.data.audio import resample
from sb_margins.errors import UserError
from sb_margins.inference.containers import container_notes

SHORTEST = 0.2  # seconds that an embedding can be made of at all
SHORT = 1.0  # seconds below which a score means little
LONGEST = 120.0  # seconds that are read; memory grows with the length
RATES = (1000, 768_000)  # Hz
CHANNELS = 64
SILENT, QUIET = 2e-4, 5e-3  # peak, of full scale
BLOCK = 1 << 16


@dataclass
class Recording:
    """A recording, ready for an encoder.

    Arguments
    ---------
    path : Path
        Where it came from.
    wav : numpy.ndarray
        [T] float32 samples at the model's rate, one channel.
    rate : int
        The model's rate in Hz.
    notes : list of str
        What makes it a poor one, in words; empty for a good one.

    Example
    -------
    >>> Recording(Path("a.wav"), np.zeros(8000, np.float32), 16000).seconds
    0.5
    """

    path: Path
    wav: np.ndarray
    rate: int
    notes: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Its length in seconds."""
        return len(self.wav) / self.rate


def _read_mono(path: Path) -> tuple[np.ndarray, int, float, list[str]]:
    """Mixed-down samples, their rate, the loudest channel's peak, and notes."""
    notes = []
    try:
        with soundfile.SoundFile(path) as file:
            rate, channels = file.samplerate, file.channels
            if not RATES[0] <= rate <= RATES[1] or not 1 <= channels <= CHANNELS:
                raise UserError(
                    f"{path}: {rate} Hz and {channels} channels are not credible; "
                    "the file's header is damaged"
                )
            wanted = int(LONGEST * rate)
            promised = file.frames
            parts, got, peak = [], 0, 0.0
            while got < wanted:
                ask = min(BLOCK, wanted - got)
                block = file.read(ask, dtype="float32", always_2d=True)
                if not len(block):
                    break
                if not np.isfinite(block).all():
                    raise UserError(
                        f"{path} holds samples that are not numbers (NaN or "
                        "infinity); write it again from its source"
                    )
                peak = max(peak, float(np.ptp(block, axis=0).max()) / 2)
                parts.append(block.mean(axis=1, dtype=np.float32))
                got += len(block)
    except (soundfile.SoundFileError, OSError, RuntimeError) as error:
        raise UserError(
            f"{path} cannot be read as audio: {error}. Convert it to wav or flac"
        ) from error
    if promised < 1 << 60:
        if promised > wanted:
            notes.append(
                f"is {promised / rate:.0f} s long; the first {LONGEST:.0f} s are used"
            )
        elif got < promised:
            notes.append(f"is damaged: {got} of {promised} samples could be read")
    mono = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    return mono, rate, peak, notes


def _check_level(path: Path, wav: np.ndarray, peak: float) -> tuple[np.ndarray, list]:
    """The samples in a sane range, and notes about their level."""
    notes = []
    centred = wav - wav.mean(dtype=np.float64).astype(np.float32)
    own = float(np.abs(centred).max())
    if peak < SILENT:
        raise UserError(f"{path} is silent")
    if own < 0.02 * peak:
        raise UserError(
            f"{path}: its channels cancel each other; keep one channel of it"
        )
    if own > 2:
        usual = float(np.quantile(np.abs(centred), 0.99))
        if usual < own / 1000:
            raise UserError(
                f"{path} is damaged: single samples reach {own:.3g} times full scale"
            )
        notes.append(f"goes to {own:.3g} times full scale; scaled back")
        return centred / own, notes
    if own < QUIET:
        notes.append("is very quiet")
    magnitude = np.abs(wav)
    top = magnitude >= 0.999 * magnitude.max()
    flat = top[:-2] & top[1:-1] & top[2:]
    share = flat.mean() if len(flat) else 0.0
    if share > 0.001:
        notes.append(f"is clipped ({100 * share:.1f} % of it)")
    return wav, notes


def _sounding_seconds(wav: np.ndarray, rate: int) -> float:
    """How much of it lies within 40 dB of its loudest 25 ms."""
    frame = max(1, rate // 40)
    count = len(wav) // frame
    power = np.square(wav[: count * frame].reshape(count, frame)).mean(axis=1)
    return float((power > 1e-4 * power.max()).sum() * frame / rate)


def read_recording(path: str | Path, rate: int = 16000) -> Recording:
    """Read a file that anybody might have, and say what is wrong with it.

    Any format, sampling rate, sample width and number of channels that soundfile
    reads; channels are averaged. Longer recordings than 120 s are cut there.

    Arguments
    ---------
    path : str or Path
        The file.
    rate : int
        The model's sampling rate in Hz.

    Returns
    -------
    Recording
        Samples, and notes when it is short, quiet, clipped, cut or damaged.

    Raises
    ------
    UserError
        When no honest embedding can be made: no such file, not audio, shorter than
        0.2 s, silent, or holding values that are not numbers.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> soundfile.write(path, 0.5 * np.sin(np.arange(4000)), 8000)
    >>> recording = read_recording(path)
    >>> recording.wav.shape, recording.notes
    ((8000,), ['is only 0.50 s long'])
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no such audio file: {path}")
    mono, own_rate, peak, notes = _read_mono(path)
    seconds = len(mono) / own_rate
    if seconds < SHORTEST:
        raise UserError(
            f"{path} is too short: {seconds:.3f} s; at least {SHORTEST} s are needed, "
            "and a few seconds for a score that means something"
        )
    notes += container_notes(path, None if seconds >= LONGEST else seconds)
    mono, level = _check_level(path, mono, peak)
    notes += level
    if own_rate < 8000:
        notes.append(f"has a bandwidth of {own_rate / 2000:g} kHz only")
    sounding = _sounding_seconds(mono, own_rate)
    if seconds < SHORT:
        notes.append(f"is only {seconds:.2f} s long")
    elif sounding < SHORT / 2:
        notes.append(f"has only {sounding:.2f} s of sound")
    wav = np.ascontiguousarray(resample(mono, own_rate, rate), dtype=np.float32)
    return Recording(path, wav, rate, notes)
