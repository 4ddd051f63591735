"""Every verb's options come from a dataclass."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
from tyro.conf import Positional, arg

from sb_margins.commands.options import (
    Files,
    Formerly,
    Numbers,
    Words,
    parse,
    parse_yaml,
    read_yaml,
)
from sb_margins.errors import UserError


@dataclass
class Example:
    """Do something with a model."""

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """The model folder."""
    files: Annotated[Positional[list[str]], arg(metavar="FILE ...")]
    """Audio files."""
    trials: Files = field(default_factory=dict)
    """Trial lists by name."""
    losses: Words = field(default_factory=lambda: ["am"])
    """Which losses."""
    p_target: Numbers = field(default_factory=lambda: [0.01, 0.05])
    """The priors of minDCF."""
    norm: Literal["none", "as"] = "none"
    """Score normalisation."""
    skip_bad: bool = False
    """Leave unusable files out."""


def test_flags_become_settings():
    words = "m a b --trials O=x H=y --losses am,ham softmax --p-target 0.1 --skip_bad"
    settings = parse(Example, words.split(), "example")
    assert settings.model == "m" and settings.files == ["a", "b"]
    assert settings.trials == {"O": "x", "H": "y"}
    assert settings.losses == ["am", "ham", "softmax"]
    assert settings.p_target == [0.1] and settings.skip_bad


def test_a_repeated_flag_of_names_adds_to_them():
    words = "m a --trials O=x --norm as --trials=H=y --trials E=z"
    settings = parse(Example, words.split(), "example")
    assert settings.trials == {"O": "x", "H": "y", "E": "z"}
    assert settings.files == ["a"] and settings.norm == "as"


def test_defaults_stand_in_the_class_and_in_help(capsys):
    settings = parse(Example, ["m", "a"], "example")
    assert settings.losses == ["am"] and not settings.skip_bad
    with pytest.raises(SystemExit) as done:
        parse(Example, ["--help"], "example")
    assert done.value.code == 0
    printed = capsys.readouterr().out
    assert "sb-margins example" in printed and "Which losses" in printed
    assert "0.01,0.05" in printed


@pytest.mark.parametrize("words", ["m a --lose am", "m a --trials O=", "m a --norm z"])
def test_wrong_flags_exit_with_two(words, capsys):
    with pytest.raises(SystemExit) as done:
        parse(Example, words.split(), "example")
    assert done.value.code == 2
    assert "--" in capsys.readouterr().err


def test_a_yaml_gives_new_defaults_and_unknown_keys_are_told_together(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("norm: as\n")
    assert read_yaml(path, Example) == {"norm": "as"}
    path.write_text("nrom: as\nloses: am\n")
    with pytest.raises(UserError, match="(?s)nrom Did you mean 'norm'.*loses"):
        read_yaml(path, Example)


@dataclass
class Whole:
    """Settings that a YAML can hold all of."""

    lists: Files = field(default_factory=dict)
    """Files by name."""
    p_target: Numbers = field(default_factory=lambda: [0.01])
    """Priors."""
    norm: Literal["none", "as"] = "none"
    """Score normalisation."""
    seed: int = 1
    """Seed."""
    skip_bad: bool = False
    """Leave unusable files out."""
    progress: bool = True
    """Show progress."""


def test_files_are_called_by_their_stem_unless_named(tmp_path):
    odd = tmp_path / "a=b.txt"
    odd.touch()
    words = ["--lists", "O=a/b.txt", "c/d.e.txt", str(odd)]
    settings = parse(Whole, words, "example")
    assert settings.lists == {"O": "a/b.txt", "d.e": "c/d.e.txt", "a=b": str(odd)}


def test_a_name_twice_is_an_error(capsys):
    with pytest.raises(SystemExit):
        parse(Whole, ["--lists", "a=x", "a=y"], "example")
    assert "'a' is given twice" in capsys.readouterr().err


def test_a_yaml_is_checked_like_flags(tmp_path, capsys):
    path = tmp_path / "a.yaml"
    path.write_text(
        "lists: {O: a.txt}\np_target: [0.1, 0.5]\nnorm: as\nseed: 7\n"
        "skip_bad: True\nprogress: False\n"
    )
    settings = parse_yaml(Whole, path, "example")
    assert settings == Whole({"O": "a.txt"}, [0.1, 0.5], "as", 7, True, False)
    again = parse(Whole, ["--no-skip-bad", "--seed", "8"], "example", settings)
    assert again.seed == 8 and not again.skip_bad and again.norm == "as"
    for text, message in (("norm: ass", "ass"), ("seed: many", "many")):
        path.write_text(text)
        with pytest.raises(SystemExit):
            parse_yaml(Whole, path, "example")
        error = capsys.readouterr().err
        assert message in error and "a.yaml" in error


@dataclass
class Optional:
    """Some settings."""

    device: str | None = None
    seconds: float | None = 2.0
    folder: Path | None = Path("here")


def test_optional_settings_look_like_plain_ones(capsys):
    words = ["--device", "cpu", "--seconds", "none", "--folder", "there"]
    assert parse(Optional, words, "x") == Optional("cpu", None, Path("there"))
    assert parse(Optional, [], "x") == Optional()
    with pytest.raises(SystemExit):
        parse(Optional, ["--seconds", "two"], "x")
    with pytest.raises(SystemExit):
        parse(Optional, ["--help"], "x")
    assert "{None}" not in capsys.readouterr().out


@dataclass
class Renamed:
    """Settings of which one had another name."""

    data_folder: Annotated[str, Formerly("data-root")] = "."
    """The recordings."""


@pytest.mark.parametrize(
    "words", ["--data-root x", "--data_root x", "--data-root=x", "--data-folder x"]
)
def test_an_older_flag_is_read_with_a_note(words, capsys):
    assert parse(Renamed, words.split(), "example").data_folder == "x"
    told = "--data-folder" in capsys.readouterr().err
    assert told == ("root" in words)


def test_an_older_key_of_a_yaml_is_read(tmp_path):
    (tmp_path / "a.yaml").write_text("data_root: x\n")
    assert read_yaml(tmp_path / "a.yaml", Renamed) == {"data_folder": "x"}
