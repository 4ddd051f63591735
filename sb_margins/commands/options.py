"""The one way to declare options: a dataclass, its fields are the flags.

A verb's settings are a dataclass whose defaults and field texts are written once;
``parse`` makes flags, positionals and ``--help`` from it (through tyro), and takes a
YAML file of the same keys as new defaults.

The same word means the same in every verb: ``--data-folder`` (recordings),
``--output-folder`` (a folder of results) or ``--output`` (one file), ``--model``
or the first word (a model folder or hub name), ``--set`` (a loss's setting),
``--json`` (print JSON), ``--device``, ``--precision``, ``--seed``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import tyro
import yaml
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
)

from sb_margins.data.evaluation import named_folders
from sb_margins.errors import UserError, nearest

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Formerly:
    """Older spelling of a field, ``Annotated[str, Formerly("out")]``: still read."""

    name: str


def _named_files(words: list[str]) -> dict[str, str]:
    """``NAME=FILE``; a bare ``FILE`` is called by its own name, without suffix."""
    files: dict[str, str] = {}
    for word in words:
        name, _, file = word.partition("=")
        if "=" not in word or Path(word).is_file():
            name, file = Path(word).stem, word
        if not (name and file):
            raise ValueError(f"expected NAME=FILE, found '{word}'")
        if name in files:
            raise ValueError(f"'{name}' is given twice")
        files[name] = file
    return files


def _split(words: list[str]) -> list[str]:
    return [part for word in words for part in word.split(",") if part]


def _several(
    metavar: str, read: Callable[[list[str]], Any], write: Callable[[Any], list[str]]
) -> PrimitiveConstructorSpec:
    """A field of any number of words, with its reading and its default's text."""
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=metavar,
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, (list, dict)),
        str_from_instance=lambda value: write(value) if value else [],
    )


def _written(files: Mapping[str, str]) -> list[str]:
    return [f"{name}={file}" for name, file in files.items()]


#: A field of ``NAME=FILE`` or ``FILE`` words.
Files = Annotated[dict[str, str], _several("[NAME=]FILE ...", _named_files, _written)]

#: A field of ``NAME=FOLDER`` words, see `sb_margins.data.evaluation`.
Folders = Annotated[
    dict[str, str], _several("NAME=FOLDER ...", named_folders, _written)
]

#: A field of words separated by commas or blanks.
Words = Annotated[
    list[str], _several("A,B,...", _split, lambda words: [",".join(words)])
]

#: A field of numbers separated by commas or blanks.
Numbers = Annotated[
    list[float],
    _several(
        "X,Y,...",
        lambda words: [float(word) for word in _split(words)],
        lambda numbers: [",".join(f"{number:g}" for number in numbers)],
    ),
]


_REGISTRY = ConstructorRegistry()


@_REGISTRY.primitive_rule
def _optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """``X | None`` is shown and read as an X; the word ``none`` stands for None."""
    kinds = set(get_args(info.type))
    kind = next(iter(kinds - {type(None)}), None)
    if kind not in (str, int, float, Path) or kinds != {kind, type(None)}:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=kind.__name__.upper(),
        instance_from_str=lambda w: None if w[0] in ("none", "None") else kind(w[0]),
        is_instance=lambda x: x is None or isinstance(x, kind),
        str_from_instance=lambda x: ["none" if x is None else str(x)],
    )


def read_yaml(path: str | Path, settings: type) -> dict[str, Any]:
    """The keys of a YAML file, each the name of a field of ``settings``."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read the settings {path}: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} should be a mapping of keys to values")
    known = [field.name for field in fields(settings)]
    older = _older_names(settings)
    values = {older.get(str(key), str(key)): value for key, value in values.items()}
    unknown = [key for key in values if key not in known]
    if unknown:
        hints = "".join(f"\n  {key}{nearest(key, known)}" for key in unknown)
        raise UserError(f"{path}: unknown keys; delete or correct them:{hints}")
    return values


def _older_names(settings: type) -> dict[str, str]:
    """The field of each ``Formerly``, with underscores."""
    return {
        extra.name.replace("-", "_"): field
        for field, hint in get_type_hints(settings, include_extras=True).items()
        for extra in getattr(hint, "__metadata__", ())
        if isinstance(extra, Formerly)
    }


def _current_spelling(settings: type, argv: Sequence[str]) -> list[str]:
    """The words with older flags replaced by the current ones, each with a note."""
    older = _older_names(settings)
    words = []
    for word in argv:
        flag, equals, value = word.partition("=")
        name = flag[2:].replace("-", "_") if flag.startswith("--") else ""
        if name in older:
            new = "--" + older[name].replace("_", "-")
            print(f"note: {flag} is called {new} now", file=sys.stderr)
            word = new + equals + value
        words.append(word)
    return words


def _gathered(settings: type, argv: Sequence[str]) -> list[str]:
    """The words with those of a repeated ``NAME=...`` flag put behind its first one."""
    hints = get_type_hints(settings)
    flags: dict[str, list[str]] = {}
    words: list[str] = []
    here = words
    for word in argv:
        flag, equals, value = word.partition("=")
        if word.startswith("--"):
            name, here = flag[2:].replace("-", "_"), words
            if hints.get(name) == dict[str, str]:
                mine = flags.setdefault(flag, [])
                mine += [value] * bool(equals)
                here = words if equals else mine
                continue
        here.append(word)
    return words + [word for flag in flags for word in (flag, *flags[flag])]


def parse_yaml(settings: type[Settings], path: str | Path, verb: str) -> Settings:
    """Settings from a YAML file, checked like flags; empty keys keep their default."""
    words: list[str] = []
    for key, value in read_yaml(path, settings).items():
        if isinstance(value, bool):
            words.append(f"--{key}" if value else f"--no-{key}")
        elif isinstance(value, Mapping):
            words += [f"--{key}", *(f"{name}={item}" for name, item in value.items())]
        elif value is not None:
            items = value if isinstance(value, list) else [value]
            words += [f"--{key}", *map(str, items)]
    return parse(settings, words, f"{verb} {path}")


def parse(
    settings: type[Settings],
    argv: Sequence[str],
    verb: str,
    defaults: Settings | None = None,
) -> Settings:
    """Read the words after ``sb-margins VERB`` into ``settings``.

    Dashes and underscores in flags are alike. ``--help`` prints and exits; wrong
    flags print what is meant and exit with 2. ``defaults`` replaces the defaults of
    the class (settings from a YAML, see ``read_yaml``).
    """
    return _cli(settings, argv, verb, {} if defaults is None else {"default": defaults})


def parse_known(
    settings: type[Settings], argv: Sequence[str], verb: str
) -> tuple[Settings, list[str]]:
    """``parse`` that also returns the flags it does not know, in their order."""
    return _cli(settings, argv, verb, {"return_unknown_args": True})


def _cli(settings: type, argv: Sequence[str], verb: str, keywords: dict) -> Any:
    sys.stdout.flush()
    return tyro.cli(
        settings,
        args=_gathered(settings, _current_spelling(settings, argv)),
        prog=f"sb-margins {verb}",
        registry=_REGISTRY,
        **keywords,
    )
