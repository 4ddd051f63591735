"""What the verbs that use a model share: its options, loading it, notes on files."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from sb_margins.errors import UserError, printable

if TYPE_CHECKING:
    from sb_margins.inference.verifier import SpeakerVerifier

DEFAULT_SET = "enrolled.npz"


@dataclass(kw_only=True)
class ModelSettings:
    """The model of a verb, and how it runs."""

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """A model folder, or a name on the Hugging Face hub."""
    device: str | None = None
    """cpu, cuda, ...; default: a GPU if there is one."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the network."""
    trust: bool = False
    """Run whatever the model's YAML names; only for models of people you trust."""

    def load(self) -> SpeakerVerifier:
        """The model."""
        from sb_margins.inference.verifier import SpeakerVerifier

        logging.getLogger("speechbrain").setLevel(logging.ERROR)
        run_opts: dict[str, str] = {"precision": self.precision}
        if self.device:
            run_opts["device"] = self.device
        return SpeakerVerifier.from_hparams(
            self.model, trust=self.trust, run_opts=run_opts
        )


@dataclass(kw_only=True)
class VoiceSettings(ModelSettings):
    """The model of a verb that judges voices, and how much speech it wants."""

    least_speech: float = 0.5
    """Refuse recordings with fewer seconds of speech."""
    warn_speech: float = 3.0
    """Note recordings with fewer seconds of speech."""

    def load(self) -> SpeakerVerifier:
        """The model, with its gate; none where both are 0."""
        from sb_margins.audio import SpeechGate

        if not (self.least_speech >= 0 and self.warn_speech >= 0):
            raise UserError("--least-speech and --warn-speech must be 0 or more")
        model = super().load()
        if self.least_speech or self.warn_speech:
            model.gate = SpeechGate(self.least_speech, self.warn_speech)
        return model


def print_notes(notes: Mapping[str, Sequence[str]]) -> None:
    """Say on standard error what is poor about recordings."""
    for path, lines in notes.items():
        for line in lines:
            print(printable(f"note: {path} {line}"), file=sys.stderr)
