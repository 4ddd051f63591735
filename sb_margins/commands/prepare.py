"""``sb-margins prepare CORPUS``: manifests and trial lists from a corpus."""

from __future__ import annotations

from dataclasses import asdict, dataclass, make_dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from sb_margins.commands.options import Formerly, parse
from sb_margins.data.corpus import Corpus
from sb_margins.data.preparation import (
    COMMON,
    COMMON_HELP,
    CORPORA,
    corpus_named,
    prepare,
)
from sb_margins.errors import UserError


@dataclass(kw_only=True)
class PrepareSettings:
    """What every corpus has; ``settings_of`` adds the corpus's own options."""

    data_folder: Path | None
    """Where the audio is."""
    output_folder: Annotated[Path, Formerly("save-folder")]
    """Where manifests and trial lists go."""
    seed: int = 1986
    """Of splits and trial lists."""
    workers: int = 0
    """Threads that read headers; 0 = two per core."""


def settings_of(layout: Corpus) -> type[PrepareSettings]:
    """``PrepareSettings`` and the options of this corpus."""
    text = {**COMMON_HELP, **layout.help}
    options = [
        (name, Annotated[type(default), arg(help=text.get(name, ""))], default)
        for name, default in {**COMMON, **layout.options}.items()
    ]
    folder: Any = ("data_folder", Annotated[Path, arg(help="Where the audio is.")])
    if layout.writes:
        where = f"Where the audio is or goes; default: {layout.default_folder}."
        folder = ("data_folder", Annotated[Path | None, arg(help=where)], None)
    settings = make_dataclass(
        "PrepareSettings", [folder, *options], bases=(PrepareSettings,), kw_only=True
    )
    settings.__doc__ = f"Write manifests and trial lists. Corpus: {layout.title}."
    return settings


def main(argv: list[str]) -> int:
    """Prepare a corpus; 0 when done."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if argv[0].startswith("-"):
        raise UserError(
            f"the corpus comes first: sb-margins prepare CORPUS ... ({argv[0]} found)"
        )
    layout = corpus_named(argv[0])
    settings = asdict(parse(settings_of(layout), argv[1:], f"prepare {layout.name}"))
    save_folder = settings.pop("output_folder")
    prepared = prepare(layout.name, save_folder=save_folder, **settings)
    print(f"{prepared.folder}: {', '.join(prepared.splits)}")
    return 0


def _usage() -> str:
    lines = [
        "usage: sb-margins prepare CORPUS --data-folder FOLDER --output-folder FOLDER",
        "",
        "Write manifests (<split>.csv) and trial lists (trials_<split>.txt). Corpora:",
        "",
    ]
    lines += [f"  {name:<17} {corpus_named(name).title}" for name in CORPORA]
    lines += ["", "sb-margins prepare CORPUS --help lists a corpus's own options."]
    return "\n".join(lines)
