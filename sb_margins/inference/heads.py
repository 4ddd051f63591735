"""Moved to `sb_margins.similarity`; this name goes once nothing imports it."""

from sb_margins.similarity import similarity_of

__all__ = ["similarity_of"]
