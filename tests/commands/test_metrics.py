"""`sb-margins metrics`: tables, JSON, differences, DET curves."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sb_margins.commands.metrics import main
from sb_margins.errors import UserError


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Scores of a good and of a noisy system on the same trials."""
    folder = tmp_path_factory.mktemp("scores")
    rng = np.random.default_rng(0)
    labels = (np.arange(600) % 3 == 0).astype(int)
    names = [f"s{i % 20}/u{i}" for i in range(600)]
    others = [
        f"s{i % 20 if x else (i + 1) % 20}/v{i}" for i, x in enumerate(labels.tolist())
    ]
    for name, noise in (("good", 0.3), ("bad", 1.5)):
        scores = labels + noise * rng.standard_normal(600)
        rows = zip(labels, names, others, scores, strict=True)
        text = "".join(f"{x} {e} {t} {s}\n" for x, e, t, s in rows)
        (folder / f"{name}.txt").write_text(text)
    return folder


def test_systems_are_compared_and_drawn(files, tmp_path, capsys):
    argv = [str(files / "good.txt"), f"noisy={files / 'bad.txt'}"]
    argv += ["--bootstrap", "100", "--p-target", "0.05", "0.3"]
    assert main([*argv, "--det", str(tmp_path / "det.png")]) == 0
    out = capsys.readouterr().out
    assert "noisy differs from good" in out and "minDCF(0.05)  " in out
    assert "[low, high]: 95%, 100 bootstrap replicates over 20 speakers" in out
    assert (tmp_path / "det.png").stat().st_size > 10_000
    assert main([*argv, "--json", "--confidence", "0.8", "--calibrated"]) == 0
    rows = json.loads(capsys.readouterr().out)["scores"]
    assert set(rows) == {"good", "noisy"} and "act_dcf(p_target=0.3)" in rows["good"]
    low, high = rows["noisy"]["eer interval"]
    assert low < rows["noisy"]["eer"] < high
    assert rows["noisy"]["eer difference to good"]["p_value"] < 0.05


def test_equal_systems_do_not_differ(files, capsys):
    argv = [str(files / "good.txt"), f"again={files / 'good.txt'}", "--bootstrap", "20"]
    assert main(argv) == 0
    assert "again does not differ from good: +0.00 points" in capsys.readouterr().out


def test_files_without_names_or_of_other_trials(files, tmp_path, capsys):
    (tmp_path / "plain.txt").write_text("1 0.75\n0 -0.1\n")
    assert main([str(tmp_path / "plain.txt")]) == 0
    assert "no intervals: the file does not name its trials" in capsys.readouterr().out
    short = tmp_path / "short.txt"
    short.write_text("".join((files / "bad.txt").open().readlines()[:-1]))
    argv = [str(files / "good.txt"), str(short), "--bootstrap", "20"]
    assert main(argv) == 0
    assert "short: not the same trials" in capsys.readouterr().out


def test_inverted_scores_are_told(files, tmp_path, capsys):
    rows = [line.split() for line in (files / "good.txt").open()]
    text = "".join(f"{x} {e} {t} {-float(s)}\n" for x, e, t, s in rows)
    (tmp_path / "distances.txt").write_text(text)
    argv = [str(tmp_path / "distances.txt"), "--bootstrap", "0"]
    assert main(argv) == 0
    (note,) = capsys.readouterr().out.splitlines()[2:]
    assert note.startswith("distances: an EER above 50 %: larger scores must mean more")
    assert main([*argv, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["notes"] == [note]


def test_labels_from_a_list(tmp_path, capsys):
    (tmp_path / "s.txt").write_text("a b 0.75\na c -0.1\n")
    (tmp_path / "t.txt").write_text("1 a b\n0 a c\n")
    argv = [str(tmp_path / "s.txt"), "--trials", str(tmp_path / "t.txt")]
    assert main([*argv, "--bootstrap", "0"]) == 0
    out = capsys.readouterr().out
    assert "0.00 %" in out and "interval" not in out


def test_wrong_settings(files, capsys):
    with pytest.raises(UserError, match="no score files"):
        main([])
    with pytest.raises(UserError, match="or at least 2"):
        main([str(files / "good.txt"), "--bootstrap", "1"])
    with pytest.raises(SystemExit):
        main([str(files / "good.txt"), str(files / "good.txt")])
    assert "'good' is given twice" in capsys.readouterr().err
