"""From a finished training to "is this the same person?"."""

from __future__ import annotations

import importlib
from typing import Any

# Imported at first use, so that a command's --help does not wait for SpeechBrain.
_HOMES = {
    "EnrolledSet": "inference.enrolled",
    "Recording": "audio",
    "SpeakerVerifier": "inference.verifier",
    "calibrate_llr": "inference.thresholds",
    "calibrate_thresholds": "inference.thresholds",
    "export_model": "inference.export",
    "export_onnx": "inference.graph",
    "export_results": "inference.results",
    "export_torch": "inference.graph",
    "push_model": "inference.hub",
    "load_encoder_weights": "inference.results",
    "read_recording": "audio",
    "safe_hparams": "inference.safe_build",
    "similarity_of": "similarity",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"sb_margins.{_HOMES[name]}"), name)
