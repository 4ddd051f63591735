"""eSpeak NG through ctypes: text to samples in one voice.

The library is a C singleton whose output depends on what it said before, so a
process that wants reproducible audio starts it, seeds it, and says the same things
in the same order. The demo corpus therefore makes each batch in its own process.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from sb_margins.errors import UserError

_SYNCHRONOUS, _UTF8 = 2, 1
_RATE, _PITCH, _RANGE = 1, 3, 4
_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


def loader() -> Any:
    """The ``espeakng_loader`` package, or an error that says how to get it."""
    try:
        import espeakng_loader
    except ImportError as error:
        raise UserError(
            "the demo corpus is spoken by eSpeak NG, which is not installed. "
            'Get it with: pip install "sb-margins[demo]"'
        ) from error
    return espeakng_loader


class Espeak:
    """The one eSpeak NG of this process; ``seed`` is of its breath and flutter noise.

    >>> import pytest
    >>> _ = pytest.importorskip("espeakng_loader")
    >>> Espeak().say("Good morning.", "en-us+f3").dtype
    dtype('float32')
    """

    def __init__(self, seed: int = 0) -> None:
        package = loader()
        try:
            self._lib = ctypes.CDLL(package.get_library_path())
        except OSError as error:
            raise UserError(
                f"eSpeak NG cannot be loaded on this machine ({error}). Use recordings "
                "instead: --data-folder FOLDER of speaker/.../audio"
            ) from error
        data = str(package.get_data_path()).encode()
        self.sample_rate = int(self._lib.espeak_Initialize(_SYNCHRONOUS, 0, data, 0))
        if self.sample_rate <= 0:
            raise UserError(
                "eSpeak NG does not start: its data are damaged. Repair with: "
                "pip install --force-reinstall espeakng-loader"
            )
        self._pieces: list[bytes] = []
        # kept as an attribute: the C side holds no reference of its own
        self._callback = _CALLBACK(self._take)
        self._lib.espeak_SetSynthCallback(self._callback)
        self._lib.espeak_ng_SetRandSeed(ctypes.c_long(seed))

    def _take(self, samples: Any, count: int, _events: Any) -> int:
        if count > 0:
            self._pieces.append(ctypes.string_at(samples, 2 * count))
        return 0

    def say(
        self,
        text: str,
        voice: str = "en-us",
        *,
        rate: int = 175,
        pitch: int = 50,
        pitch_range: int = 50,
    ) -> np.ndarray:
        """One sentence as [T] float32 samples at ``sample_rate`` (22050 Hz).

        ``voice`` is ``language+variant``, as ``en-us+f3``; ``rate`` in words per
        minute, 80 to 450; ``pitch`` 0 to 99; ``pitch_range`` 0 (monotone) to 99; 50
        is the voice's own.
        """
        if self._lib.espeak_SetVoiceByName(voice.encode()) != 0:
            raise UserError(f"eSpeak NG has no voice '{voice}'")
        for name, value in ((_RATE, rate), (_PITCH, pitch), (_RANGE, pitch_range)):
            self._lib.espeak_SetParameter(name, int(value), 0)
        self._pieces.clear()
        data = text.encode() + b"\0"
        self._lib.espeak_Synth(data, len(data), 0, 0, 0, _UTF8, None, None)
        self._lib.espeak_Synchronize()
        samples = np.frombuffer(b"".join(self._pieces), np.int16)
        return samples.astype(np.float32) / 32768
