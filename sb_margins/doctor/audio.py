"""Which audio files can be read."""

from __future__ import annotations

import importlib.util

from sb_margins.doctor.finding import Finding
from sb_margins.doctor.packages import SET_UP, try_import

WANTED = ("WAV", "FLAC", "OGG", "MP3")


def findings() -> list[Finding]:
    """The audio backend and its formats.

    Example
    -------
    >>> findings()[0].name
    'soundfile'
    """
    soundfile, why = try_import("soundfile")
    if soundfile is None:
        remedy = "sudo apt install libsndfile1" if why.startswith("OSError") else SET_UP
        return [Finding("bad", "soundfile", why, remedy)]
    detail = f"{soundfile.__version__}, libsndfile {soundfile.__libsndfile_version__}"
    return [
        Finding("good", "soundfile", detail),
        formats(set(soundfile.available_formats())),
        torchcodec(),
    ]


def formats(available: set[str]) -> Finding:
    """What can be read.

    Arguments
    ---------
    available : set of str
        Names as libsndfile has them.

    Example
    -------
    >>> formats({"WAV", "FLAC", "OGG"}).detail
    'wav, flac, ogg; not: mp3, m4a'
    """
    have = [name.lower() for name in WANTED if name in available]
    lack = [name.lower() for name in WANTED if name not in available]
    detail = f"{', '.join(have)}; not: {', '.join([*lack, 'm4a'])}"
    if lack:
        return Finding("note", "reads", detail, "pip install -U soundfile")
    remedy = "m4a (VoxCeleb2): ffmpeg -i a.m4a -ar 16000 a.wav" if have else ""
    return Finding("good", "reads", detail, remedy)


def torchcodec() -> Finding:
    """TorchCodec, which `torchaudio.load` wants and nothing here uses.

    Example
    -------
    >>> torchcodec().mark
    'good'
    """
    if importlib.util.find_spec("torchcodec") is not None:
        return Finding("good", "torchcodec", "installed (not used here)")
    detail = (
        "not installed, not needed (only torchaudio.load in your own code wants it)"
    )
    return Finding("good", "torchcodec", detail)
