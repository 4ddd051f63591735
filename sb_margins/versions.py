"""The versions that a result was made with."""

from __future__ import annotations

import importlib.metadata
import platform

PACKAGES = ("sb-margins", "speechbrain", "torch", "torchaudio", "numpy", "scipy")


def version(package: str) -> str | None:
    """The installed version of a package; nothing is imported."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Versions of ``python`` and of every installed package of ``PACKAGES``."""
    known = {"python": platform.python_version()}
    known |= {name: found for name in PACKAGES if (found := version(name))}
    return known
