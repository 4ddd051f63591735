"""Splits and trial lists: disjoint, capped, balanced, the same for a seed."""

import random
from collections import Counter

import pytest

from sb_margins.data.manifest import Utterance
from sb_margins.data.splitting import divide, hold_out, make_trials, shuffled
from sb_margins.errors import UserError


def corpus(counts, genders="mf"):
    return [
        Utterance(
            f"s{k}-{n}", "", 1.0, f"s{k}", 16000, {"gender": genders[k % len(genders)]}
        )
        for k, count in enumerate(counts)
        for n in range(count)
    ]


@pytest.mark.parametrize("seed", range(60))
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
    speakers = {name: {u.spk_id for u in group} for name, group in splits.items()}
    assert min(len(s) for s in speakers.values()) >= 2
    assert sum(map(len, speakers.values())) == len(counts)
    assert divide(utterances[::-1], seed)["dev"] != [] and splits == divide(
        utterances, seed, eval_utterances=0
    )


@pytest.mark.parametrize("seed", range(60))
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
    assert trials == make_trials(utterances, seed, targets, nontargets)


def test_nobody_dominates_and_half_are_alike():
    utterances = corpus([60, 5, 5, 5, 40, 5])
    trials = make_trials(utterances, 1, targets=120, nontargets=600)
    gender = {u.id: u.meta["gender"] for u in utterances}
    owner = {u.id: u.spk_id for u in utterances}
    per_speaker = Counter(owner[a] for label, a, _ in trials if label)
    assert per_speaker["s1"] == 10 and max(per_speaker.values()) <= 40
    alike = Counter(gender[a] == gender[b] for label, a, b in trials if not label)
    assert alike[True] == alike[False] == 300


def test_growing_corpus_keeps_its_order():
    names = [f"speaker {k}" for k in range(50)]
    before = shuffled(names, seed=3)
    after = [n for n in shuffled([*names, "new"], seed=3) if n != "new"]
    assert before == after and before != shuffled(names, seed=4)


def test_hold_out_refuses_what_it_cannot_do():
    with pytest.raises(UserError, match="cannot hold 5 speakers"):
        hold_out(corpus([2, 2, 2]), seed=1, speakers=5)
