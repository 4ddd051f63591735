"""Score files of several toolkits, recognised or refused."""

from __future__ import annotations

import numpy as np
import pytest

from sb_margins.data.trials import Trials, read_trials
from sb_margins.errors import UserError
from sb_margins.verification.score_file import read_scores, write_scores


def test_round_trip(tmp_path):
    trials = Trials(["a", "b"], ["c", "d"], np.array([1, 0], np.int8))
    scores = np.array([1 / 3, -1e-7], np.float32)
    write_scores(tmp_path / "s.txt", trials, scores)
    found, values = read_scores(tmp_path / "s.txt")
    assert values.astype(np.float32).tolist() == scores.tolist()
    assert found.labels.tolist() == [1, 0] and found.test == ["c", "d"]
    write_scores(tmp_path / "s.txt", Trials(["a"], ["b"]), np.array([0.25]))
    assert (tmp_path / "s.txt").read_text() == "a b 0.25\n"


SCORES = {
    "speechbrain": "a b 1 0.75\na c 0 -0.1\n",
    "wespeaker": "a b 0.75 target\na c -0.1 nontarget\n",
    "ours": "1 a b 0.75\n0 a c -0.1\n",
    "csv with header": "enrol,test,label,score\na,b,1,0.75\na,c,0,-0.1\n",
    "label score": "1 0.75\n0 -0.1\n",
    "score label": "0.75 1\n-0.1 0\n",
}


@pytest.mark.parametrize("name", SCORES)
def test_score_files(tmp_path, name):
    path = tmp_path / "scores.txt"
    path.write_text(SCORES[name])
    trials, scores = read_scores(path)
    assert trials.labels.tolist() == [1, 0]
    assert scores.tolist() == [0.75, -0.1]


def test_hard_decisions_are_scores_when_labels_are_words(tmp_path):
    path = tmp_path / "scores.txt"
    path.write_text("target 1\nnontarget 0\n")
    trials, scores = read_scores(path)
    assert trials.labels.tolist() == [1, 0] and scores.tolist() == [1.0, 0.0]


def test_three_columns_take_their_labels_from_the_list(tmp_path):
    path, key = tmp_path / "scores.txt", tmp_path / "trials.txt"
    path.write_text("a c -0.1\na b 0.75\nx y 9\n")
    key.write_text("1 a b\n0 a c\n")
    trials, scores = read_scores(path, read_trials(key))
    assert scores.tolist() == [0.75, -0.1]
    with pytest.raises(UserError, match="--trials"):
        read_scores(path)
    key.write_text("1 a b\n0 a d\n")
    with pytest.raises(UserError, match="lacks 1 of the list's 2 trials"):
        read_scores(path, read_trials(key))


@pytest.mark.parametrize(
    "text, told",
    [
        ("1 a b 0.5\n0 a c nan\n", "line 2: the score is nan"),
        ("a b 0 0.5\n\na b 1 -inf\n", "line 3: the score is -inf"),
        ("a b 0 0.5\na c 1 0.5\na b 1 0.2\n", "lines 1 and 3: 'a b' is both"),
        ("1 x\n0 0.5\n", "cannot tell the columns"),
        ("", "no scores"),
        ("a b 1 0.5\na b 0\n", "line 2"),
        ("a b c d\n", "no scores"),
        ("a b 0.5 0.7\n", "cannot tell the columns"),
        ("a 0.5 b\n", "cannot tell the columns"),
    ],
)
def test_broken_score_files_are_told(tmp_path, text, told):
    path = tmp_path / "scores.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=told):
        read_scores(path)


@pytest.mark.parametrize(
    "text, told",
    [
        ("a b 0.75\na c -0.1\na b 0.7\n", "lines 1 and 3: 'a b' has two scores"),
        ("a b 1 0.75\na c 1 -0.1\n", "line 2: the label of 'a c' is not that"),
        ("1 0.75\n0 -0.1\n", "names no trials"),
    ],
)
def test_contradictions_with_the_list_are_refused(tmp_path, text, told):
    path, key = tmp_path / "scores.txt", tmp_path / "trials.txt"
    path.write_text(text)
    key.write_text("1 a b\n0 a c\n")
    with pytest.raises(UserError, match=told):
        read_scores(path, read_trials(key))
    key.write_text("a b\n")
    path.write_text("a b 0.5\n")
    with pytest.raises(UserError, match="has no labels"):
        read_scores(path, read_trials(key))


def test_messages_show_a_part_of_long_lines_and_count(tmp_path):
    path, key = tmp_path / "scores.txt", tmp_path / "trials.txt"
    path.write_text("a b 1 0.5\n" + "x" * 100 + "\n")
    with pytest.raises(UserError, match="found 'x{80}', expected"):
        read_scores(path)
    path.write_text("a b 1 nan\na c 0 inf\nb c 1 0.5\n")
    with pytest.raises(UserError, match=r"line 1: .* \(so are 2 of 3 NaN"):
        read_scores(path)
    path.write_text("a b 1 0.5\na c 1 0.1\na d 1 0.2\n")
    key.write_text("1 a b\n0 a c\n0 a d\n")
    with pytest.raises(UserError, match=r"line 2: .* \(so are 2 labels\)"):
        read_scores(path, read_trials(key))
    path.write_text("a b 0.5\na c 0.1\n")
    key.write_text("1 a b\n0 a e\n0 a f\n")
    with pytest.raises(UserError, match="lacks 2 of the list's 3 trials, .*: a e"):
        read_scores(path, read_trials(key))


def test_headers_blank_lines_and_repeated_trials_are_passed_over(tmp_path):
    path, key = tmp_path / "scores.txt", tmp_path / "trials.txt"
    path.write_text("\nenrol test score\n\na c -0.1\na b 0.75\na c -0.1\n")
    key.write_text("1 a b\n0 a c\n1 a b\n")
    trials, scores = read_scores(path, read_trials(key))
    assert scores.tolist() == [0.75, -0.1, 0.75] and len(trials) == 3
    # 1 and 0 are labels, and the other column has the scores.
    path.write_text("1 1\n0 0.5\n1 0\n")
    trials, scores = read_scores(path)
    assert trials.labels.tolist() == [1, 0, 1] and scores.tolist() == [1, 0.5, 0]
    path.write_text("1 1\n0 0\n")
    with pytest.raises(UserError, match="cannot tell the columns of '1 1'"):
        read_scores(path)


def test_as_many_scores_as_trials_are_written(tmp_path):
    trials = Trials(["a", "b"], ["c", "d"], np.array([1, 0]))
    with pytest.raises(ValueError, match="zip"):
        write_scores(tmp_path / "s.txt", trials, np.zeros(1))
    trials.labels = trials.labels[:1]
    with pytest.raises(ValueError, match="zip"):
        write_scores(tmp_path / "s.txt", trials, np.zeros(2))
