"""Splits and trial lists: disjoint, capped, balanced, the same for a seed."""

import hashlib
import random
from collections import Counter

import pytest

from sb_margins.data.manifest import Utterance
from sb_margins.data.splitting import divide, fewer, hold_out, make_trials, shuffled
from sb_margins.errors import UserError


def corpus(counts, genders="mf"):
    return [
        Utterance(
            f"s{k}-{n}", "", 1.0, f"s{k}", 16000, {"gender": genders[k % len(genders)]}
        )
        for k, count in enumerate(counts)
        for n in range(count)
    ]


def speakers(group):
    return {u.spk_id for u in group}


def digest(trials):
    text = "".join(f"{label} {a} {b}\n" for label, a, b in trials)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.mark.parametrize("seed", range(25))
def test_split_is_disjoint_and_complete(seed):
    rng = random.Random(seed)
    counts = [rng.randint(1, 9) for _ in range(rng.randint(6, 40))]
    utterances = corpus(counts)
    if sum(count > 1 for count in counts) < 6:
        with pytest.raises(UserError, match="at least 6"):
            divide(utterances, seed)
        return
    splits = divide(utterances, seed, eval_utterances=0)
    assert sorted(u.id for s in splits.values() for u in s) == sorted(
        u.id for u in utterances
    )
    sizes = [len(speakers(group)) for group in splits.values()]
    assert min(sizes) >= 2 and sum(sizes) == len(counts)
    backwards = divide(utterances[::-1], seed, eval_utterances=0)
    assert speakers(backwards["dev"]) == speakers(splits["dev"])
    assert splits == divide(utterances, seed, eval_utterances=0)


@pytest.mark.parametrize(
    ("count", "dev_share", "test_share", "expected"),
    [
        (6, 0.15, 0.15, (2, 2, 2)),
        (20, 0.15, 0.15, (14, 3, 3)),
        (20, 0.3, 0.2, (10, 6, 4)),
        (1000, 0.15, 0.15, (850, 50, 100)),
        (40, 0.01, 0.01, (36, 2, 2)),
        (10, 0.5, 0.39, (2, 5, 3)),  # two speakers are kept for training
        (10, 0.45, 0.44, (2, 4, 4)),
        (7, 0.6, 0.29, (1, 4, 2)),  # but never at the cost of test
    ],
)
def test_share_of_speakers(count, dev_share, test_share, expected):
    splits = divide(corpus([2] * count), 1, dev_share, test_share)
    assert list(splits) == ["train", "dev", "test"]
    assert tuple(len(speakers(group)) for group in splits.values()) == expected


@pytest.mark.parametrize(
    "shares", [(0, 0.15), (0.15, 0), (-0.1, 0.2), (0.2, -0.1), (0.45, 0.45), (0.1, 0.8)]
)
def test_shares_out_of_range(shares):
    with pytest.raises(UserError, match="dev_share .* and test_share .* above 0"):
        divide(corpus([2] * 20), 1, *shares)


def test_six_speakers_with_two_utterances_are_needed():
    with pytest.raises(UserError, match=r"at least 6 speakers.*found 5 \(of 8 in all"):
        divide(corpus([2] * 5 + [1] * 3), 1)
    splits = divide(corpus([2] * 6 + [1] * 30), 1)
    assert len(speakers(splits["train"])) == 32
    assert [len(splits[name]) for name in ("dev", "test")] == [4, 4]


@pytest.mark.parametrize("folds", [3, 5])
def test_every_speaker_with_two_utterances_is_tested_in_one_fold(folds):
    counts = [1, *[2 + k % 3 for k in range(20)], 1, 1]
    utterances = corpus(counts)
    once = {f"s{k}" for k in (0, 21, 22)}
    splits = [divide(utterances, 7, fold=f"{k + 1}/{folds}") for k in range(folds)]
    tested = [speakers(one["test"]) for one in splits]
    assert sorted(s for one in tested for s in one) == sorted(
        speakers(utterances) - once
    )
    for k, one in enumerate(splits):
        assert speakers(one["dev"]) == tested[(k + 1) % folds]
        assert speakers(one["train"]) == (
            speakers(utterances) - tested[k] - tested[(k + 1) % folds]
        )
        assert sum(len(group) for group in one.values()) == len(utterances)
        gender = Counter(u.meta["gender"] for u in one["test"] if u.id.endswith("-0"))
        assert abs(gender["m"] - gender["f"]) <= 1, "as in the corpus"


@pytest.mark.parametrize("fold", ["2", "0/3", "4/3", "1/2", "a/b", "1/3/5", "-1/4"])
def test_invalid_folds_are_refused(fold):
    with pytest.raises(UserError, match="is not understood"):
        divide(corpus([2] * 20), 1, fold=fold)
    with pytest.raises(UserError, match="at least 24 speakers"):
        divide(corpus([2] * 20), 1, fold="1/12")


def test_utterances_of_evaluation_speakers_are_limited():
    splits = divide(corpus([30] * 8), 1)
    assert set(Counter(u.spk_id for u in splits["dev"]).values()) == {20}
    assert set(Counter(u.spk_id for u in splits["test"]).values()) == {20}
    assert set(Counter(u.spk_id for u in splits["train"]).values()) == {30}
    splits = divide(corpus([30] * 8), 1, eval_utterances=7)
    assert set(Counter(u.spk_id for u in splits["dev"]).values()) == {7}
    _, dev = hold_out(corpus([30] * 8), 1, speakers=3)
    assert list(Counter(u.spk_id for u in dev).values()) == [20] * 3
    kept = [u.id for u in fewer(corpus([8, 3]), 4, seed=5)]
    assert kept == "s0-1 s0-2 s0-3 s0-4 s1-0 s1-1 s1-2".split()
    assert len(fewer(corpus([8, 3]), 1, seed=5)) == 2
    assert fewer(corpus([8, 3]), 0, seed=5) == corpus([8, 3])


def test_seeds_give_the_same_splits_in_every_version():
    splits = divide(corpus([1, 2, 3, 25] * 6), 1986)
    assert speakers(splits["dev"]) == {"s14", "s22", "s7"}
    assert speakers(splits["test"]) == {"s21", "s23", "s9"}
    assert [len(group) for group in splits.values()] == [126, 26, 24]
    rows = repr([(name, [u.id for u in group]) for name, group in splits.items()])
    assert hashlib.sha256(rows.encode()).hexdigest()[:16] == "92a936cacb587db3"
    train, dev = hold_out(corpus([1, 2, 30, 25] * 6), 7, speakers=3)
    assert speakers(dev) == {"s1", "s14", "s21"}
    assert (len(train), len(dev)) == (314, 24)
    ids = " ".join(u.id for u in dev)
    assert hashlib.sha256(ids.encode()).hexdigest()[:16] == "8ab6a8b25182b9b9"


FEW = corpus([9, 30, 2, 1], [""])


@pytest.mark.parametrize(
    ("utterances", "arguments", "targets", "nontargets", "expected"),
    [
        (corpus([3, 2, 4]), (1,), 10, 26, "b3126216b8d7d021"),
        (corpus([60, 5, 5, 5, 40, 5]), (1, 120, 600), 120, 600, "ff363aaaca40a6c3"),
        (FEW, (3, 50, 70), 49, 70, "c9b450493367ca6e"),
        (corpus([9, 30, 2, 1], "f"), (3, 50, 70), 49, 70, "c9b450493367ca6e"),
        (corpus([9, 30, 2, 1], ["m", ""]), (3, 50, 70), 49, 70, "c9b450493367ca6e"),
        (corpus([60] * 10), (1986,), 10_000, 10_000, "ad8cee64f6d6d60d"),
        (corpus([2] * 2001), (1, 300, 400), 300, 400, "79a004604871c907"),
        (corpus([3, 3, 3], [""]), (1, 9, 14), 9, 14, "7fcebcd808f0f129"),
        (corpus([3, 3, 3], [""]), (1, 9, 13), 9, 13, "b23b0fbb4777c407"),
        (corpus([4, 4], [""]), (1, 9, 8), 8, 8, "869740f0b023bd7e"),
        (corpus([3, 4, 4], [""]), (1, 11, 5), 11, 5, "8c36c9b90ba42ab6"),
    ],
    ids=[
        "all pairs",
        "limited",
        "no gender",
        "one gender",
        "some genders unknown",
        "default limits",
        "thousands of speakers",
        "drawn from a list of all",
        "drawn one by one",
        "drawn from a list of twice as many",
        "what a speaker does not have goes to the others",
    ],
)
def test_seeds_give_the_same_trials_in_every_version(
    utterances, arguments, targets, nontargets, expected
):
    trials = make_trials(utterances, *arguments)
    labels = [label for label, _, _ in trials]
    assert labels == [1] * targets + [0] * nontargets
    assert digest(trials) == expected


@pytest.mark.parametrize("seed", range(25))
def test_trials_are_right_distinct_and_capped(seed):
    rng = random.Random(seed)
    counts = [rng.randint(1, 12) for _ in range(rng.randint(3, 12))]
    targets, nontargets = rng.randint(1, 80), rng.randint(1, 200)
    utterances = corpus(counts)
    trials = make_trials(utterances, seed, targets, nontargets)
    owner = {u.id: u.spk_id for u in utterances}
    assert len(set(trials)) == len(trials)
    for label, a, b in trials:
        assert a != b and bool(label) == (owner[a] == owner[b])
    possible = sum(n * (n - 1) // 2 for n in counts)
    found = sum(label for label, _, _ in trials)
    assert found <= min(targets, possible)
    if possible <= targets:
        assert found == possible
    every = (sum(counts) ** 2 - sum(n * n for n in counts)) // 2
    assert len(trials) - found <= min(nontargets, every)
    again = make_trials(utterances, seed, targets, nontargets)
    assert list(trials) == list(again)


def test_nobody_dominates_and_half_are_alike():
    utterances = corpus([60, 5, 5, 5, 40, 5])
    trials = make_trials(utterances, 1, targets=120, nontargets=600)
    gender = {u.id: u.meta["gender"] for u in utterances}
    owner = {u.id: u.spk_id for u in utterances}
    per_speaker = Counter(owner[a] for label, a, _ in trials if label)
    # 10 each of the four small ones; what is left of 120, halved, of the large ones
    assert per_speaker == {"s1": 10, "s2": 10, "s3": 10, "s5": 10, "s0": 40, "s4": 40}
    alike = Counter(gender[a] == gender[b] for label, a, b in trials if not label)
    assert alike[True] == alike[False] == 300


def test_default_limits():
    trials = make_trials(corpus([150, 60, 60, 60], [""]), seed=1)
    assert Counter(label for label, _, _ in trials) == {1: 10_000, 0: 10_000}


def test_every_speaker_has_a_target_pair_however_few_are_asked_for():
    trials = make_trials(corpus([3] * 5), 1, targets=4, nontargets=4)
    owners = [a.split("-")[0] for label, a, _ in trials if label]
    assert owners == ["s0", "s1", "s2", "s3"]


def test_growing_corpus_keeps_its_order():
    names = [f"speaker {k}" for k in range(50)]
    before = shuffled(names, seed=3)
    after = [n for n in shuffled([*names, "new"], seed=3) if n != "new"]
    assert before == after and before != shuffled(names, seed=4)
    assert shuffled(names, 3) != shuffled(names, 3, "another purpose")


def test_hold_out_takes_two_and_leaves_two():
    for utterances, speakers_wanted in (
        (corpus([2, 2, 2]), 5),
        (corpus([2, 2, 2, 1]), 2),
        (corpus([2] * 9), 1),
    ):
        with pytest.raises(UserError, match=f"cannot hold {speakers_wanted} speakers"):
            hold_out(utterances, seed=1, speakers=speakers_wanted)
    train, dev = hold_out(corpus([2, 2, 2, 2, 1]), seed=1, speakers=2)
    assert len(speakers(dev)) == 2 and len(speakers(train)) == 3
