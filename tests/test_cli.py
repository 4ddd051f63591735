"""The command line: which command, which exit status, nothing heavy for --help."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from sb_margins import __version__, cli
from sb_margins.errors import UserError, nearest
from sb_margins.messages import progress, progress_bar


def test_usage_lists_every_command(capsys):
    assert cli.main([]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in cli.COMMANDS)
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("words", [["-h"], ["--help"], ["help"]])
def test_help_words(words, capsys):
    assert cli.main(words) == 0
    assert "usage: sb-margins" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["-V"], ["--version"]])
def test_version(words, capsys):
    assert cli.main(words) == 0
    assert capsys.readouterr().out == f"sb-margins {__version__}\n"


def test_unknown_command_is_guessed(capsys):
    assert cli.main(["trian"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("sb-margins: error: no command 'trian'. Did you mean 'train'")


@pytest.fixture
def command(monkeypatch):
    """Replace every command by a function."""

    def replace(main):
        class Command:
            pass

        Command.main = staticmethod(main)
        monkeypatch.setattr(cli.importlib, "import_module", lambda name: Command)

    return replace


NOT_UTF8 = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")


@pytest.mark.parametrize(
    "raised, status, words",
    [
        (UserError("no such folder: x"), 2, "sb-margins: error: no such folder: x"),
        (FileNotFoundError(2, "No such file", "a.wav"), 2, "error: a.wav: No such"),
        (OSError(28, "No space left"), 2, "sb-margins: error: No space left"),
        (OSError("odd"), 2, "sb-margins: error: odd"),
        (UserError("a\x1b[31m\udcff.wav"), 2, r"error: a\x1b[31m\udcff.wav"),
        (NOT_UTF8, 2, "sb-margins: error: a text is not UTF-8"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_become_exit_statuses(command, capsys, raised, status, words):
    def main(argv):
        raise raised

    command(main)
    assert cli.main(["train"]) == status
    err = capsys.readouterr().err
    assert words in err and "Traceback" not in err and len(err.splitlines()) == 1
    if status == 2:
        with pytest.raises(type(raised)):
            cli.main(["--debug", "train"])


@pytest.mark.parametrize("result, status", [(None, 0), (0, 0), (1, 1)])
def test_status_of_a_command(command, result, status):
    def main(argv):
        assert argv == ["--flag", "value"]
        return result

    command(main)
    assert cli.main(["doctor", "--flag", "value"]) == status


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(name, capsys):
    module = importlib.import_module(cli.COMMANDS[name][0])
    try:
        status = module.main(["--help"])
    except SystemExit as ended:  # argparse's way
        status = int(ended.code or 0)
    assert status == 0
    assert f"sb-margins {name}" in capsys.readouterr().out


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_unknown_flag_or_missing_words_exit_with_2(name, capsys):
    """Abbreviations are no flags either: --hel is not --help."""
    try:
        status = cli.main([name, "--hel"])
    except SystemExit as ended:
        status = int(ended.code or 0)
    assert status == 2
    assert "Traceback" not in capsys.readouterr().err


def test_import_is_light():
    """`import sb_margins` and --help load no heavy package."""
    code = (
        "import sys, sb_margins.cli as c; c.main(['--help']);"
        "print(sorted({'torch', 'speechbrain', 'matplotlib', 'scipy', 'numpy'}"
        " & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_python_m_and_lines_through_a_pipe():
    """A line reaches a pipe before the command ends."""
    code = (
        "import os, sys, types, sb_margins.cli as c;"
        "m = types.ModuleType('m');"
        "m.main = lambda argv: (print('a line'), os._exit(0));"
        "sys.modules['m'] = m; c.COMMANDS['x'] = ('m', ''); c.main(['x'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "a line\n", done.stderr
    words = [sys.executable, "-m", "sb_margins", "--version"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.stdout == f"sb-margins {__version__}\n"


def test_reader_that_went_away():
    words = (
        f"{sys.executable} -m sb_margins losses | head -n 1; exit ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr


def test_package_lists_its_public_names():
    import sb_margins

    assert {"Head", "HAMSoftmax", "CosineSimilarity"} <= set(dir(sb_margins))
    for name in sb_margins.__all__:
        assert getattr(sb_margins, name) is not None
    assert not hasattr(sb_margins, "NoSuchLoss")


def test_nearest_orders_and_joins():
    assert nearest("haam", ["ham", "aam"]).startswith(" Did you mean '")
    assert nearest("zzz", ["ham"]) == ""


@pytest.mark.parametrize(
    "words", ["--log-file {} losses am", "losses am --log_file={}"]
)
def test_the_log_holds_what_is_printed(words, tmp_path, capsys):
    log = tmp_path / "a.log"
    assert cli.main(words.format(log).split()) == 0
    assert cli.main(["losses", "--log-file", str(log), "amm"]) == 2
    printed = capsys.readouterr()
    text = log.read_text()
    assert text.count("# 2") == 2 and "sb-margins losses" in text
    assert printed.out in text and printed.err in text and "error" in printed.err


def test_a_log_that_cannot_be_written_is_an_error(capsys):
    assert cli.main(["losses", "--log-file", "nowhere/a.log"]) == 2
    assert cli.main(["losses", "--log-file"]) == 2
    assert "nowhere/a.log: No such file" in capsys.readouterr().err


def test_quiet_leaves_out_progress(command, capsys):
    def main(argv):
        progress("reading")
        for _ in progress_bar([1, 2]):
            print("result")

    command(main)
    assert cli.main(["train", "--quiet"]) == 0
    assert capsys.readouterr() == ("result\nresult\n", "")
    assert cli.main(["train"]) == 0
    assert capsys.readouterr().out == "reading\nresult\nresult\n"
