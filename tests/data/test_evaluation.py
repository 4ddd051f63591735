"""Trial lists of other corpora, by name."""

import pytest
from corpus_trees import cnceleb, sitw, voxceleb

from sb_margins.data import prepare
from sb_margins.data.evaluation import named_folders, other_lists
from sb_margins.errors import UserError


def test_layouts_are_recognised_and_nothing_to_train_on_is_listed(
    tiny_corpus, tmp_path
):
    folders = {
        "vox1": voxceleb(tmp_path / "vox"),
        "sitw": sitw(tmp_path / "sitw"),
        "cn": cnceleb(tmp_path / "cn"),
        "mine": tiny_corpus,
    }
    lists = other_lists({n: str(f) for n, f in folders.items()}, tmp_path / "eval")
    assert list(lists) == [
        *("vox1_test", "vox1_e", "vox1_h"),
        *("sitw_dev", "sitw_test"),
        *("cn", "mine"),
    ]
    assert all(one.prepared.splits[0] != "train" for one in lists.values())
    assert len(lists["mine"].manifest.speakers) == 8, "all of them"
    assert len(lists["vox1_h"].trials) == 8 and lists["vox1_h"].labels.sum() == 4
    again = other_lists({"vox1": str(folders["vox1"])}, tmp_path / "eval")
    assert again["vox1_e"] == lists["vox1_e"]
    one = lists["vox1_e"].prepared.trials("vox1_e")
    assert list(other_lists({"E": str(one)}, tmp_path / "other")) == ["E"]
    assert not (tmp_path / "other").exists(), "it is prepared"


@pytest.mark.parametrize(
    "folders, message",
    [
        (
            {"test": "data/trials_test.txt"},
            "test is a name that",
        ),
        ({"last_x": "data/trials_test.txt"}, "reserved"),
        ({"x": "nowhere"}, "--eval x: no such folder"),
        ({"x": "data/train.csv"}, "--eval x: .*train.csv is a file"),
        ({"x": "corpus"}, "--eval x: 48 of its files are trained on"),
        ({"x_dev": "data/trials_dev.txt", "x": "data"}, "two lists are called x_dev"),
    ],
)
def test_what_cannot_be_a_list_is_refused(
    tiny_corpus, tmp_path, folders, message, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus").symlink_to(tiny_corpus)
    prepare("folder", "corpus", "data", verbose=False)
    own = prepare("folder", "corpus", "own", verbose=False)
    if message.endswith("trained on"):
        message = message.replace("48", str(len(own.manifest("train"))))
    with pytest.raises(UserError, match=message):
        other_lists(folders, "eval", own)


def test_words():
    assert named_folders(["a=x=y", "b=/a b"]) == {"a": "x=y", "b": "/a b"}
    for words in (["/data"], ["a="], ["a b=x"], ["a/b=x"], ["a=x", "a=y"]):
        with pytest.raises(UserError, match="--eval"):
            named_folders(words)
