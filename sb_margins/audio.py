"""The one reader of audio: for training, thresholds, verification and use.

`read_recording` gives one verdict on a file: usable (no notes), usable but poor (with
notes), or unusable (a ``UserError`` that says why). `load_audio` reads the same samples
without judging them, for crops in training. `audio_info` reads headers.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile

from sb_margins.errors import UserError
from sb_margins.speech import speech_rule, speech_seconds

SAMPLE_RATE = 16000
LONGEST = 300.0  # seconds that are read of a recording; memory grows with the length
SHORTEST = 0.2  # seconds; below, no embedding can be made
SHORT = 1.0  # seconds; below, a score means little
RATES = (1000, 384_000)  # Hz
CHANNELS = 64
SILENT, QUIET = 2e-4, 5e-3  # peak, of full scale
BLOCK = 1 << 20  # samples decoded at once
UNKNOWN_FRAMES = 1 << 60  # libsndfile reports more than this for an unknown length
UNKNOWN_BYTES = 0x7FFF0000  # from here on, a WAV's size stands for an unknown length
OGG_PAGE = 65_307  # bytes of the longest page
SEEK_BADLY = ("MP3", "OGG")  # after a seek libsndfile warns, or reads too little


@dataclass
class Recording:
    """A recording, ready for an encoder.

    Arguments
    ---------
    path : Path
        The file.
    wav : numpy.ndarray
        [T] float32 samples at ``rate``, one channel.
    rate : int
        Sampling rate in Hz.
    notes : list of str
        What makes it a poor recording, each the end of a sentence about the file;
        empty for a good one.
    speech : float, optional
        Seconds of speech in it, where a `SpeechGate` asked for them.

    Example
    -------
    >>> Recording(Path("a.wav"), np.zeros(8000, np.float32), 16000).seconds
    0.5
    """

    path: Path
    wav: np.ndarray
    rate: int
    notes: list[str] = field(default_factory=list)
    speech: float | None = None

    @property
    def seconds(self) -> float:
        """Its length in seconds."""
        return len(self.wav) / self.rate


class SpeechGate(NamedTuple):
    """How much speech a recording must hold, in seconds, see `sb_margins.speech`.

    Below ``refuse`` it is unusable, below ``warn`` it gets a note. A score of a
    recording without a voice means nothing, and may be high.
    """

    refuse: float = 0.5
    warn: float = 3.0

    def judge(self, path: Path, speech: float) -> list[str]:
        """Notes on so many seconds of speech; a UserError when they are too few."""
        if speech < self.refuse:
            raise UserError(
                f"{path} holds {speech:.2f} s of speech, as {speech_rule()} counts; at "
                f"least {self.refuse:g} s are needed (--least-speech; the extra vad "
                "counts best)"
            )
        return [f"holds only {speech:.1f} s of speech"] if speech < self.warn else []


class AudioInfo(NamedTuple):
    """What a file's header says; ``notes`` as in `Recording` (a truncated file).

    ``peak`` (as `SILENT` is) and ``checksum`` are of what was decoded.
    """

    frames: int
    rate: int
    channels: int
    notes: list[str]
    peak: float | None = None
    checksum: int = 0

    @property
    def seconds(self) -> float:
        """Its length in seconds."""
        return self.frames / self.rate


def read_recording(
    path: str | Path,
    rate: int = SAMPLE_RATE,
    *,
    start: float = 0.0,
    seconds: float | None = None,
    gate: SpeechGate | None = None,
) -> Recording:
    """Read a recording of any format, and say what is wrong with it.

    Any format, sampling rate, sample width and number of channels that soundfile
    reads; channels are averaged. At most 300 s are read.

    Arguments
    ---------
    path : str or Path
        The file.
    rate : int
        Sampling rate of the result in Hz; other rates are resampled.
    start : float
        Where to begin, in seconds.
    seconds : float, optional
        How much to read. Default: to the end, at most 300 s.
    gate : SpeechGate, optional
        How much speech it must hold. Default: that is not looked at.

    Returns
    -------
    Recording
        Samples, and notes when it is short, quiet, clipped, truncated or damaged.

    Raises
    ------
    UserError
        When the file is unusable: not there, not audio, a header out of range,
        shorter than 0.2 s, silent, with samples that are NaN or infinite, or with
        less speech than ``gate`` wants.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> soundfile.write(path, 0.5 * np.sin(np.arange(4000)), 8000)
    >>> recording = read_recording(path)
    >>> recording.wav.shape, recording.notes
    ((8000,), ['is only 0.50 s long'])
    """
    path = Path(path)
    decoded = _decode(path, start, LONGEST if seconds is None else seconds)
    mono, length = decoded.mono, len(decoded.mono) / decoded.rate
    if length < SHORTEST:
        raise UserError(
            f"{path} is too short: {length:.3f} s; at least {SHORTEST} s are needed, "
            "and a few seconds for a score that means something"
        )
    notes = []
    if seconds is None:
        promised = decoded.promised
        if promised is not None and promised / decoded.rate > LONGEST:
            whole = promised / decoded.rate
            notes.append(f"is {whole:.0f} s long; the first {LONGEST:.0f} s are used")
        elif promised is not None and len(mono) < promised:
            notes.append(f"is damaged: {len(mono)} of {promised} samples can be read")
        notes += _container_notes(path)
    mono, level_notes = _judge_level(path, mono, decoded.peak)
    notes += level_notes
    if decoded.rate < 8000:
        notes.append(f"has a bandwidth of {decoded.rate / 2000:g} kHz only")
    if length < SHORT:
        notes.append(f"is only {length:.2f} s long")
    elif gate is None:
        sounding = _sounding_seconds(mono, decoded.rate)
        if sounding < SHORT / 2:
            notes.append(f"has only {sounding:.2f} s of sound")
    wav, speech = resample(mono, decoded.rate, rate), None
    if gate is not None:
        at_16k = wav if rate == SAMPLE_RATE else resample(wav, rate, SAMPLE_RATE)
        speech = speech_seconds(at_16k)
        notes += gate.judge(path, speech)
    return Recording(path, wav, rate, notes, speech)


def load_audio(
    path: str | Path,
    *,
    rate: int = SAMPLE_RATE,
    start: float = 0.0,
    seconds: float | None = None,
) -> np.ndarray:
    """The samples [T] of `read_recording`, neither judged nor cut: for training.

    A UserError when the file cannot be read or holds samples that are NaN or infinite.

    >>> path = getfixture("tmp_path") / "a.wav"
    >>> soundfile.write(path, np.zeros(8000), 8000)
    >>> load_audio(path, start=0.5, seconds=0.25).shape
    (4000,)
    """
    decoded = _decode(Path(path), start, math.inf if seconds is None else seconds)
    if not len(decoded.mono):
        raise UserError(f"{path} holds no samples")
    mono, _ = _into_range(Path(path), decoded.mono)
    return resample(mono, decoded.rate, rate)


def resample(wav: np.ndarray, source: int, target: int = SAMPLE_RATE) -> np.ndarray:
    """[T] samples at ``source`` Hz to float32 samples at ``target`` Hz."""
    if source != target:
        from scipy.signal import resample_poly  # 0.7 s to import

        common = math.gcd(source, target)
        wav = resample_poly(wav, target // common, source // common)
    return np.ascontiguousarray(wav, dtype=np.float32)


def audio_info(path: str | Path, decode: str = "header") -> AudioInfo:
    """Length, rate and channels of a file, with a note when it is truncated.

    ``decode`` is ``header`` (read that only), ``ends`` (decode the first and the last
    tenth of a second too, of MP3 and Ogg everything; finds truncated FLAC) or ``full``
    (only this finds damage in the middle). A UserError when the file is unusable.
    """
    path = Path(path)
    with _opened(path) as file:
        notes = _container_notes(path)
        frames = file.frames
        peak, checksum = 0.0, 0

        def decoded(wanted: float) -> int:
            nonlocal peak, checksum
            count = 0
            for mono, loudest in _blocks(file, path, wanted):
                count += len(mono)
                peak = max(peak, loudest)
                checksum = zlib.crc32(mono.data, checksum)
            return count

        if frames > UNKNOWN_FRAMES:  # counted: the header does not say
            frames = decoded(math.inf)
        elif frames > 0 and decode != "header":
            tenth = max(1, file.samplerate // 10)
            if decode == "full" or file.format in SEEK_BADLY:
                got = decoded(frames)
            else:
                got = decoded(tenth)
                last = max(0, frames - tenth)
                file.seek(last)
                got = frames if got and decoded(frames - last) == frames - last else 0
            if got < frames and not notes:
                seconds = frames / file.samplerate
                notes = [f"is truncated: its {seconds:.2f} s cannot be read to the end"]
        if frames <= 0:
            raise UserError(f"{path} is too short: it holds no samples")
        header = frames, file.samplerate, file.channels, notes
        return AudioInfo(*header, peak if checksum else None, checksum)


class _Decoded(NamedTuple):
    mono: np.ndarray
    rate: int
    peak: float  # half the range of the loudest channel
    promised: int | None  # samples by the header


def _decode(path: Path, start: float, seconds: float) -> _Decoded:
    """Samples averaged over channels, at the file's own rate."""
    with _opened(path) as file:
        rate = file.samplerate
        promised = file.frames if 0 <= file.frames < UNKNOWN_FRAMES else None
        if start:
            at = round(start * rate)
            file.seek(at if promised is None else min(at, promised))
        wanted = math.inf if seconds == math.inf else max(1, round(seconds * rate))
        parts, peaks = [np.zeros(0, np.float32)], [0.0]
        for mono, loudest in _blocks(file, path, wanted):
            parts.append(mono)
            peaks.append(loudest)
    mono = parts[1] if len(parts) == 2 else np.concatenate(parts)
    return _Decoded(mono, rate, max(peaks), promised)


@contextmanager
def _opened(path: Path) -> Iterator[soundfile.SoundFile]:
    """A file whose header is in range; what goes wrong in it becomes a UserError."""
    try:
        if not path.is_file():
            raise UserError(f"no such audio file: {path}")
        if not path.stat().st_size:
            raise UserError(f"{path} cannot be read as audio: it is empty (0 bytes)")
        with soundfile.SoundFile(os.fsencode(path)) as file:
            rate, channels = file.samplerate, file.channels
            if not RATES[0] <= rate <= RATES[1] or not 1 <= channels <= CHANNELS:
                raise UserError(
                    f"{path}: {rate} Hz and {channels} channels are out of range; "
                    "the file's header is damaged"
                )
            if file.frames > UNKNOWN_FRAMES:  # soundfile would seek after each block
                file.seekable = lambda: False
            yield file
    except UserError:
        raise
    except (soundfile.SoundFileError, OSError, TypeError, ValueError) as error:
        if path.suffix.lower() in (".m4a", ".aac"):
            why = "AAC is not supported by libsndfile"
        else:
            why = str(error).rsplit(": ", 1)[-1].strip().rstrip(".")
        raise UserError(
            f"{path} cannot be read as audio: {why}. Convert it to wav or flac"
        ) from error


def _blocks(
    file: soundfile.SoundFile, path: Path, wanted: float
) -> Iterator[tuple[np.ndarray, float]]:
    """At most ``wanted`` samples in all, in blocks: the mean of the channels [T], and
    half the range of the loudest one."""
    most = BLOCK // file.channels
    while wanted > 0:
        block = file.read(int(min(most, wanted)), dtype="float32", always_2d=True)
        if not len(block):
            return
        if not np.isfinite(block).all():
            raise UserError(
                f"{path} holds samples that are NaN or infinity; write it again from "
                "its source"
            )
        wanted -= len(block)
        one = block.shape[1] == 1
        mono = block[:, 0] if one else block.mean(axis=1, dtype=np.float32)
        yield mono, float(np.ptp(block, axis=0).max()) / 2


def _into_range(path: Path, wav: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Samples beyond twice full scale (integers as floats, say) scaled back to 1."""
    largest = float(np.abs(wav).max())
    if largest <= 1:  # nearly always
        return wav, []
    centred = wav - wav.mean(dtype=np.float64).astype(np.float32)
    largest = float(np.abs(centred).max())
    if largest <= 2:
        return wav, []
    if float(np.quantile(np.abs(centred), 0.99)) < largest / 1000:
        raise UserError(
            f"{path} is damaged: single samples reach {largest:.3g} times full scale"
        )
    return centred / largest, [f"goes to {largest:.3g} times full scale; scaled back"]


def _judge_level(
    path: Path, wav: np.ndarray, peak: float
) -> tuple[np.ndarray, list[str]]:
    """The samples in a sane range, and notes about their level."""
    if peak < SILENT:
        raise UserError(f"{path} is silent")
    centred = wav - wav.mean(dtype=np.float64).astype(np.float32)
    largest = float(np.abs(centred).max())
    if largest < 0.02 * peak:
        raise UserError(
            f"{path}: its channels cancel each other; keep one channel of it"
        )
    scaled, notes = _into_range(path, wav)
    if notes:
        return scaled, notes
    if largest < QUIET:
        notes.append("is very quiet")
    magnitude = np.abs(wav)
    top = magnitude >= 0.999 * magnitude.max()
    share = (top[:-2] & top[1:-1] & top[2:]).mean() if len(top) > 2 else 0.0
    if share > 0.001:
        notes.append(f"is clipped ({100 * share:.1f} % of it)")
    return wav, notes


def _sounding_seconds(wav: np.ndarray, rate: int) -> float:
    """How much of it lies within 40 dB of its loudest 25 ms."""
    frame = max(1, rate // 40)
    count = len(wav) // frame
    power = np.square(wav[: count * frame].reshape(count, frame)).mean(axis=1)
    return float((power > 1e-4 * power.max()).sum() * frame / rate)


def _container_notes(path: Path) -> list[str]:
    """What the decoder does not say: a WAV, AIFF or Ogg file that is truncated.

    libsndfile takes a truncated one for a shorter one.
    """
    with path.open("rb") as file:
        head = file.read(12)
        size = path.stat().st_size
        if head[:4] == b"RIFF" and head[8:] == b"WAVE":
            return _riff_notes(file, size)
        if head[:4] == b"FORM" and len(head) == 12:
            promised = int.from_bytes(head[4:8], "big") + 8
            if size < promised:
                return [f"is truncated: {size} of {promised} bytes are there"]
        if head[:4] == b"OggS":
            file.seek(max(0, size - OGG_PAGE))
            if not _ends_an_ogg_stream(file.read()):
                return ["is truncated: its last page is missing"]
    return []


def _riff_notes(file: BinaryIO, size: int) -> list[str]:
    notes = []
    at = 12
    while at + 8 <= size:
        file.seek(at)
        kind, length = struct.unpack("<4sI", file.read(8))
        if kind == b"fmt " and at + 24 <= size:
            form, channels, rate, speed, align, bits = struct.unpack(
                "<HHIIHH", file.read(16)
            )
            plain = form in (1, 3, 0xFFFE)  # PCM, float, extensible
            fits = align == channels * ((bits + 7) // 8) and speed == rate * align
            if plain and not fits:
                notes.append("has a header that contradicts itself: it may be damaged")
        if kind == b"data":
            there = size - at - 8
            if 0 < length < UNKNOWN_BYTES and there < length:
                notes.append(
                    f"is truncated: {there} of {length} bytes of sound are there"
                )
            break
        at += 8 + length + length % 2
    return notes


def _ends_an_ogg_stream(tail: bytes) -> bool:
    """Whether the last page in it is whole and marked as the last of its stream."""
    page = tail[max(0, tail.rfind(b"OggS")) :]
    if page[:4] != b"OggS" or len(page) < 27 or not page[5] & 4:
        return False
    lengths = page[27 : 27 + page[26]]
    return len(lengths) == page[26] and len(page) >= 27 + len(lengths) + sum(lengths)
