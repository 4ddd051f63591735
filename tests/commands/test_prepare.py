"""``sb-margins prepare``."""

import json

import pytest

from sb_margins.cli import main


def test_command(tiny_corpus, tmp_path, capsys):
    places = ["--data-folder", str(tiny_corpus), "--output-folder", str(tmp_path / "d")]
    assert main(["prepare", "folder", *places, "--skip-bad", "--min_seconds", "1"]) == 0
    assert "train, dev, test" in capsys.readouterr().out
    options = json.loads((tmp_path / "d" / "prepare.json").read_text())["options"]
    assert options["skip_bad"] is True and options["min_seconds"] == 1.0
    assert options["eval_utterances"] == 20
    old = ["--data_folder", str(tiny_corpus), "--save_folder", str(tmp_path / "d")]
    assert main(["prepare", "folder", *old, "--eval-utterances=3", "--seed", "7"]) == 0
    info = json.loads((tmp_path / "d" / "prepare.json").read_text())
    assert (info["seed"], info["counts"]["dev"]["utterances"]) == (7, 6)


def test_wrong_commands(tmp_path, capsys):
    places = ["--data-folder", str(tmp_path / "x"), "--output-folder", str(tmp_path)]
    assert main(["prepare", "foldr", *places]) == 2
    assert "Did you mean 'folder'" in capsys.readouterr().err
    assert main(["prepare", "--data-folder", "x"]) == 2
    assert "the corpus comes first" in capsys.readouterr().err
    assert main(["prepare", "folder", *places]) == 2
    assert "no such folder" in capsys.readouterr().err
    for flags in ([*places, "--skip", "true"], places[2:], [*places, "--lists=O"]):
        with pytest.raises(SystemExit) as ended:
            main(["prepare", "folder", *flags])
        assert ended.value.code == 2
    assert not list(tmp_path.iterdir())


def test_help(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for words in (["prepare"], ["prepare", "--help"]):
        assert main(words) == 0
        assert "cnceleb" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["prepare", "demo", "--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert "--voice-seed" in text and "synthetic" in text and "--output-folder" in text
