"""``sb-margins push MODEL OWNER/NAME``: share a model on the Hugging Face hub."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from sb_margins.commands.options import parse


@dataclass
class PushSettings:
    """Put a model folder on the Hugging Face hub, in one commit.

    Sent are hyperparams.yaml, the weights, the card and an ONNX graph; nothing else of
    the folder. Log in first: hf auth login.
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """A model folder."""
    name: Annotated[Positional[str], arg(metavar="OWNER/NAME")]
    """Its name on the hub."""
    public: bool = False
    """Let everybody see it; a new repository is private otherwise."""
    update: bool = False
    """Add a commit to a repository that exists."""
    revision: str | None = None
    """The branch; default: the main one."""


def main(argv: list[str]) -> int:
    """Push a model folder."""
    settings = parse(PushSettings, argv, "push")
    from sb_margins.inference.hub import push_model

    where = push_model(
        settings.model,
        settings.name,
        public=settings.public,
        update=settings.update,
        revision=settings.revision,
    )
    at = "" if settings.revision is None else f"@{settings.revision}"
    print(f"model at {where}")
    print(f"try: sb-margins verify-files {settings.name}{at} A.wav B.wav")
    return 0
