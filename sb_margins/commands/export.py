"""``sb-margins export RESULTS_DIR OUT_DIR``: a run becomes a model folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from sb_margins.commands.options import parse


@dataclass
class ExportSettings:
    """Make a model folder of a finished training.

    It holds weights, thresholds found on the dev trials, and a model card;
    SpeechBrain's SpeakerRecognition.from_hparams loads it too.
    """

    results_dir: Annotated[Positional[str], arg(metavar="RESULTS")]
    """The output folder of the training."""
    out_dir: Annotated[Positional[str], arg(metavar="MODEL")]
    """The folder to write."""
    device: str = "cpu"
    """For scoring the dev trials."""


def main(argv: list[str]) -> int:
    """Export the best checkpoint of a run."""
    settings = parse(ExportSettings, argv, "export")
    from sb_margins.inference.results import export_results

    folder = export_results(
        settings.results_dir, settings.out_dir, device=settings.device
    )
    print(f"model in {folder} (its README.md is the model card)")
    print(f"try: sb-margins verify-files {settings.out_dir} A.wav B.wav")
    return 0
