"""Moved to `sb_margins.verification.embed`; goes once nothing imports it."""

from sb_margins.verification.embed import embed_files as extract

__all__ = ["extract"]
