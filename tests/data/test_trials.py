"""Trial lists of every corpus, enrolment of several utterances."""

from __future__ import annotations

import numpy as np
import pytest

from sb_margins.data.manifest import Utterance
from sb_margins.data.trials import (
    Trials,
    read_models,
    read_trials,
    usable_trials,
    write_trials,
)
from sb_margins.errors import UserError

LISTS = {
    "veri_test2.txt": (
        "1 id10270/5r0dWxy17C8/00001.wav id10270/8jEAjG6SegY/00008.wav\n"
        "0 id10270/5r0dWxy17C8/00001.wav id10300/ize_eiCFEg0/00003.wav\n"
    ),
    "trials.lst": (  # CN-Celeb
        "id00800-enroll test/id00800-singing-01-001.wav 1\n"
        "id00800-enroll test/id00801-speech-01-002.wav 0\n"
    ),
    "core-core.lst": "12345 audio/abcde.flac tgt\n12345 audio/fghij.flac imp\n",  # SITW
    "kaldi_trials": "spk1 utt-1 target\nspk1 utt-2 nontarget\n",
    "crlf.txt": "\ufeff1\ta\tb\r\n\r\n0\ta\tc\r\n",
    "pairs.csv": 'Enroll,test,target\n"a b.wav",c.wav,1\n"a b.wav",d.wav,0\n',
}


@pytest.mark.parametrize("name", LISTS)
def test_forms_are_recognised(tmp_path, name):
    (tmp_path / name).write_text(LISTS[name], encoding="utf-8", newline="")
    trials = read_trials(tmp_path / name)
    assert trials.labels.tolist() == [1, 0]
    assert len(trials) == 2
    assert trials.enrol[0] == trials.enrol[1]
    assert trials.test[0] != trials.test[1]
    assert not {"1", "0", "tgt", "target"} & {*trials.enrol, *trials.test}


def test_lists_without_labels(tmp_path):
    (tmp_path / "a.txt").write_text("a b\nc d\n")
    assert read_trials(tmp_path / "a.txt").labels is None
    (tmp_path / "a.csv").write_text("enrol,test\na,b\n")
    trials = read_trials(tmp_path / "a.csv")
    assert trials.labels is None and trials.test == ["b"]


def test_names_that_look_like_labels(tmp_path):
    """Speakers called 1 and 7: only the last column always holds a label."""
    (tmp_path / "a.txt").write_text("1 u1 target\n7 u2 nontarget\n")
    assert read_trials(tmp_path / "a.txt").enrol == ["1", "7"]
    (tmp_path / "b.txt").write_text("1 u1 1\n0 u2 0\n")
    with pytest.raises(UserError, match="cannot tell which column"):
        read_trials(tmp_path / "b.txt")


@pytest.mark.parametrize(
    "text, told",
    [
        ("", "has no trials"),
        ("1 a b\n1 a\n", "line 2"),
        ("1 a b c\n", "line 1"),
        ("1 a b\n0 a d\n\n2 a c\n", "line 4: '2' is not a label"),
        ("1 a b\n2 a c\n", "line 2: '2' is not a label"),
        ("a b c\n", "cannot tell"),
    ],
)
def test_broken_lists_are_told(tmp_path, text, told):
    path = tmp_path / "list.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=told):
        read_trials(path)
    with pytest.raises(UserError, match="no trial list"):
        read_trials(tmp_path / "nowhere.txt")


def test_broken_csv_is_told(tmp_path):
    path = tmp_path / "list.csv"
    for header in ("label,one,two", "label,enrol,two", "label,one,test"):
        path.write_text(f"{header}\n1,a,b\n")
        with pytest.raises(UserError, match="columns enrol and test"):
            read_trials(path)
    path.write_text("label,enrol,test\n1,a\n")
    with pytest.raises(UserError, match="line 2: 2 fields"):
        read_trials(path)


def test_contradicting_trials_are_refused_with_their_lines(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("1 a b\n\n0 a c\n0 a b\n1 c b\n0 c b\n")
    with pytest.raises(UserError, match=r"lines 1 and 4: 'a b' is both.*1 more"):
        read_trials(path)
    path.write_text("1 a b\n0 a b\n")
    with pytest.raises(UserError, match="'a b' is both target and non-target$"):
        read_trials(path)
    path.write_text("1 a b\n1 a b\n0 b a\n")  # the same twice; the other direction
    assert len(read_trials(path)) == 3


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "latin-1"])
def test_encodings_are_recognised_or_refused(tmp_path, encoding):
    path = tmp_path / "list.txt"
    path.write_text("1 zoë/a zoë/b\n", encoding=encoding)
    if encoding in ("utf-8-sig", "utf-16"):
        assert read_trials(path).enrol == ["zoë/a"]
    else:
        with pytest.raises(UserError, match="list.txt is not .*UTF-(8|16)"):
            read_trials(path)


def test_labels_can_be_demanded(tmp_path):
    (tmp_path / "a.txt").write_text("a b\n")
    with pytest.raises(UserError, match="no labels"):
        read_trials(tmp_path / "a.txt", labelled=True)
    with pytest.raises(UserError, match="no labels"):
        list(read_trials(tmp_path / "a.txt"))


def test_trials_under_other_names_and_as_rows():
    trials = Trials.from_rows([(1, "a", "b"), (0, "a", "c")])
    assert list(trials.renamed(str.upper)) == [(1, "A", "B"), (0, "A", "C")]
    names, enrol, test = trials.numbered
    assert names == ["a", "b", "c"]
    assert enrol.tolist() == [0, 0] and test.tolist() == [1, 2]
    names, enrol, test = Trials([], []).numbered
    assert names == [] and len(enrol) == len(test) == 0


def test_enrolment_of_several_utterances(tmp_path):
    (tmp_path / "trials").write_text("m1 t1 target\nm2 t1 nontarget\n")
    (tmp_path / "spk2utt").write_text("m1 a b\nm2 c\nm1 d a\nm3 e\n")
    trials = read_trials(tmp_path / "trials", enrolment=tmp_path / "spk2utt")
    assert trials.models["m1"] == ("a", "b", "d")
    assert trials.utterances == ["a", "b", "c", "d", "t1"]  # e is not needed
    with pytest.raises(UserError, match="3 of 5 .* not in the corpus: b, d, t1"):
        trials.check({"a", "c"}, "the corpus")
    fewer = trials.without({"b", "c"})
    assert fewer.enrol == ["m1"] and fewer.models["m1"] == ("a", "d")
    assert trials.without({"t1"}).enrol == []
    (tmp_path / "bad").write_text("m1\n")
    with pytest.raises(UserError, match="line 1"):
        read_models(tmp_path / "bad")


def test_many_missing_utterances_are_counted():
    trials = Trials([f"a{i}" for i in range(50)], ["b"] * 50)
    with pytest.raises(UserError, match=r"50 of 51 .*\(and 30 more\)"):
        trials.check({"b"})


def test_round_trips(tmp_path):
    trials = Trials(["a", "b"], ["c", "d"], np.array([1, 0], np.int8))
    write_trials(tmp_path / "t.txt", trials)
    again = read_trials(tmp_path / "t.txt")
    assert (again.enrol, again.test) == (trials.enrol, trials.test)
    assert list(again) == list(trials)
    write_trials(tmp_path / "t.txt", Trials(["a"], ["b"]))
    assert (tmp_path / "t.txt").read_text() == "a b\n"


def spoken(*names):
    """Utterances of a manifest; the first letter is the speaker."""
    return {n: Utterance(n, n, 1.0, n[0], 16000) for n in names}


def test_usable_trials():
    known = spoken("a1", "a2", "b1")
    rows = [(1, "a1", "a2"), (0, "a1", "b1"), (0, "a1", "c1"), (1, "c1", "a1")]
    trials = Trials.from_rows(rows)
    assert list(usable_trials(trials, "dev", known, {"c1": "too short"})) == rows[:2]
    with pytest.raises(UserError, match=r"'dev' name 1 utterances .* its 3: c1\."):
        usable_trials(trials, "dev", known)


def test_usable_trials_agree_with_the_speakers_and_have_both_kinds():
    known = spoken("a1", "a2", "b1")
    wrong = Trials.from_rows([(1, "a1", "a2"), (1, "a1", "b1"), (0, "a1", "b1")])
    with pytest.raises(UserError, match="1 trials .* '1 a1 b1', but these are a and b"):
        usable_trials(wrong, "dev", known)
    assert len(usable_trials(wrong, "dev", known, official=True)) == 3
    for label, missing in ((1, "non-target"), (0, r"target \(same speaker\)")):
        one = Trials.from_rows([(label, "a1", "a2" if label else "b1")])
        with pytest.raises(UserError, match=f"no {missing} pair"):
            usable_trials(one, "dev", known)


def test_target_trials_join_names():
    rows = [(1, "c", "b"), (1, "b", "a"), (0, "a", "d"), (1, "f", "e"), (0, "e", "c")]
    names, group = Trials.from_rows(rows).groups()
    assert names == ["a", "b", "c", "d", "e", "f"]
    assert group.tolist() == [0, 0, 0, 1, 2, 2]
    with pytest.raises(UserError, match="without labels"):
        Trials(["a"], ["b"]).groups()
