"""The versions that a result was made with."""

from __future__ import annotations

import importlib.metadata
import platform

PACKAGES = ("sb-margins", "speechbrain", "torch", "torchaudio", "numpy", "scipy")


def versions() -> dict[str, str]:
    """Package versions of the running interpreter.

    Returns
    -------
    dict of str to str
        ``python`` and every installed package of ``PACKAGES``.

    Example
    -------
    >>> sorted(versions())[0]
    'numpy'
    """
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
