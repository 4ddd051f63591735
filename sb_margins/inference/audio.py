"""Moved to `sb_margins.audio`; this name goes once nothing imports it."""

from sb_margins.audio import LONGEST, Recording, read_recording

__all__ = ["LONGEST", "Recording", "read_recording"]
