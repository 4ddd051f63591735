"""From a finished training to "is this the same person?"."""

from __future__ import annotations

import importlib
from typing import Any

# Imported at first use, so that a command's --help does not wait for SpeechBrain.
_HOMES = {
    "EnrolledSet": "enrolled",
    "Recording": "audio",
    "SpeakerVerifier": "verifier",
    "calibrate_thresholds": "thresholds",
    "export_model": "export",
    "export_results": "results",
    "calibrate_llr": "thresholds",
    "load_encoder_weights": "encoder_weights",
    "similarity_of": "heads",
    "read_recording": "audio",
    "safe_hparams": "safe_yaml",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
