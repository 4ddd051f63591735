"""``sb-margins export``: a run becomes a model folder, a model one graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from sb_margins.commands.options import parse
from sb_margins.errors import UserError


@dataclass
class ExportSettings:
    """Make a model folder of a finished training, or one graph of a model.

    A model folder holds weights, thresholds found on the dev trials, and a model
    card; SpeechBrain's SpeakerRecognition.from_hparams loads it too. A graph goes
    from waveform to embedding without SpeechBrain or this package.
    """

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """The output folder of the training; for a graph a model folder or hub name."""
    out: Annotated[Positional[str], arg(metavar="OUT")]
    """The folder to write; for a graph the file (.onnx or .pt2)."""
    onnx: bool = False
    """Write an ONNX graph, for onnxruntime; needs the extra onnx."""
    opset: int = 18
    """Version of ONNX's operators."""
    torch_export: bool = False
    """Write a program of torch.export, for torch alone."""
    device: str = "cpu"
    """For scoring the dev trials."""


def main(argv: list[str]) -> int:
    """Export the best checkpoint of a run, or a model as a graph."""
    settings = parse(ExportSettings, argv, "export")
    if settings.onnx and settings.torch_export:
        raise UserError("give --onnx or --torch-export, not both")
    if settings.onnx or settings.torch_export:
        return _export_graph(settings)
    from sb_margins.inference.results import export_results

    folder = export_results(settings.source, settings.out, device=settings.device)
    print(f"model in {folder} (its README.md is the model card)")
    print(f"try: sb-margins verify-files {settings.out} A.wav B.wav")
    return 0


def _export_graph(settings: ExportSettings) -> int:
    from sb_margins.inference.graph import export_onnx, export_torch
    from sb_margins.inference.verifier import SpeakerVerifier

    model = SpeakerVerifier.from_hparams(settings.source, device="cpu")
    if settings.onnx:
        path = export_onnx(model, settings.out, settings.opset)
    else:
        path = export_torch(model, settings.out)
    print(f"graph in {path}, {path.stat().st_size / 1e6:.1f} MB; checked against torch")
    return 0
