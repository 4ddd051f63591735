"""``sb-margins losses``: the losses with equation, settings and source."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from sb_margins import select
from sb_margins.commands.options import parse


@dataclass
class LossesSettings:
    """The losses: equation, defaults, source."""

    names: Annotated[Positional[tuple[str, ...]], arg(metavar="NAME ...")] = ()
    """Which losses (default: all)."""
    json: bool = False
    """Print JSON instead."""


def main(argv: list[str]) -> int:
    """Print a paragraph per loss."""
    options = parse(LossesSettings, argv, "losses")
    wanted = options.names or select.names()
    if options.json:
        print(json.dumps({name: select.scalars(name) for name in wanted}))
        return 0
    for name in wanted:
        values, settings = select.scalars(name), select.settings(name)
        defaults = ", ".join(f"{k}={v}" for k, v in settings.items()) or "none"
        print(f"{name:<22}{values.get('about', '')}")
        print(f"{'':<22}{values.get('equation', '')}")
        print(f"{'':<22}settings: {defaults}")
        print(f"{'':<22}source: {values.get('source', '')}\n")
    return 0
