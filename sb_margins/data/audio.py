"""Moved to `sb_margins.audio`; this name goes once nothing imports it."""

from sb_margins.audio import SAMPLE_RATE, load_audio, resample

__all__ = ["SAMPLE_RATE", "load_audio", "resample"]
