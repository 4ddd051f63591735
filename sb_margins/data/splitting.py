"""Speaker-disjoint splits and trial lists, made from a seed.

Everything is drawn by hashes and Python's own generator, whose sequences do not
change between versions: the same seed gives the same lists anywhere.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence

from sb_margins.data.manifest import Utterance
from sb_margins.errors import UserError

Trial = tuple[int, str, str]

FEWEST_SPEAKERS = 6
MOST_TARGETS = 10_000
MOST_NONTARGETS = 10_000
_LARGEST = {"dev": 50, "test": 100}


def shuffled(names: Iterable[str], seed: int, what: str = "") -> list[str]:
    """Names in an order that depends on the seed and each name alone.

    A new name slips in and the others keep their order, so that a corpus that
    grows keeps most of its split.

    Arguments
    ---------
    names : iterable of str
    seed : int
    what : str
        Makes orders for different purposes differ.

    Returns
    -------
    list of str

    Example
    -------
    >>> sorted(shuffled(["a", "b", "c"], seed=1)) == ["a", "b", "c"]
    True
    """
    return sorted(
        set(names),
        key=lambda n: hashlib.sha256(f"{seed}/{what}/{n}".encode()).digest(),
    )


def divide(
    utterances: Sequence[Utterance],
    seed: int,
    dev_share: float = 0.15,
    test_share: float = 0.15,
    eval_utterances: int = 20,
) -> dict[str, list[Utterance]]:
    """A train, dev and test split in which no speaker is in two splits.

    Dev and test take speakers with two utterances or more (others could not be in
    a target trial), at least two speakers each.

    Arguments
    ---------
    utterances : sequence of Utterance
    seed : int
    dev_share, test_share : float
        Share of the speakers with two utterances or more (at most 50 and 100).
    eval_utterances : int
        Most utterances of a dev or test speaker, drawn at random; 0 = all.

    Returns
    -------
    dict of str to list of Utterance

    Raises
    ------
    UserError
        With fewer than six speakers that have two utterances.

    Example
    -------
    >>> all = [Utterance(f"{s}{i}", "", 1.0, s, 16000) for s in "abcdef" for i in "12"]
    >>> {k: len({u.spk_id for u in v}) for k, v in divide(all, seed=1).items()}
    {'train': 2, 'dev': 2, 'test': 2}
    """
    per_speaker = by_speaker(utterances)
    able = [s for s, group in per_speaker.items() if len(group) > 1]
    if len(able) < FEWEST_SPEAKERS:
        raise UserError(
            f"a speaker-disjoint train/dev/test split takes at least {FEWEST_SPEAKERS} "
            f"speakers with two utterances or more; found {len(able)} (of "
            f"{len(per_speaker)} in all). Add speakers, or give manifest.csv and "
            "splits.csv (utt_id,spk_id,split) in the data folder"
        )
    if dev_share <= 0 or test_share <= 0 or dev_share + test_share >= 0.9:
        raise UserError(
            f"dev_share {dev_share} and test_share {test_share} must be above 0 and "
            "leave a tenth of the speakers or more for training"
        )
    order = shuffled(able, seed, "split")
    n_dev = min(_LARGEST["dev"], max(2, round(dev_share * len(able))))
    n_test = min(_LARGEST["test"], max(2, round(test_share * len(able))))
    n_test = max(2, min(n_test, len(able) - n_dev - 2))
    part = dict.fromkeys(order[:n_dev], "dev")
    part.update(dict.fromkeys(order[n_dev : n_dev + n_test], "test"))
    splits: dict[str, list[Utterance]] = {"train": [], "dev": [], "test": []}
    for u in utterances:
        splits[part.get(u.spk_id, "train")].append(u)
    for name in ("dev", "test"):
        splits[name] = fewer(splits[name], eval_utterances, seed)
    return splits


def hold_out(
    train: Sequence[Utterance], seed: int, speakers: int, eval_utterances: int = 20
) -> tuple[list[Utterance], list[Utterance]]:
    """Take a few speakers out of the training data, for a dev split.

    Arguments
    ---------
    train : sequence of Utterance
    seed : int
    speakers : int
        How many; at least two.
    eval_utterances : int
        Most utterances of each; 0 = all.

    Returns
    -------
    tuple of two lists of Utterance
        What is left for training, and dev.

    Raises
    ------
    UserError
        When too few speakers have two utterances.

    Example
    -------
    >>> all = [Utterance(f"{s}{i}", "", 1.0, s, 16000) for s in "abcd" for i in "12"]
    >>> train, dev = hold_out(all, seed=1, speakers=2)
    >>> len(train), len(dev)
    (4, 4)
    """
    able = [s for s, group in by_speaker(train).items() if len(group) > 1]
    if speakers < 2 or len(able) < speakers + 2:
        raise UserError(
            f"cannot hold {speakers} speakers out for dev: it takes at least 2, and 2 "
            f"more to train on; {len(able)} training speakers have two utterances"
        )
    held = set(shuffled(able, seed, "split")[:speakers])
    dev = [u for u in train if u.spk_id in held]
    return [u for u in train if u.spk_id not in held], fewer(dev, eval_utterances, seed)


def fewer(group: Sequence[Utterance], most: int, seed: int) -> list[Utterance]:
    """At most so many utterances per speaker, drawn by the seed, order kept.

    Arguments
    ---------
    group : sequence of Utterance
    most : int
        0 = all.
    seed : int

    Returns
    -------
    list of Utterance

    Example
    -------
    >>> all = [Utterance(str(i), "", 1.0, "a", 16000) for i in range(9)]
    >>> len(fewer(all, 4, seed=1))
    4
    """
    if most <= 0:
        return list(group)
    kept = set()
    for utterances in by_speaker(group).values():
        kept.update(shuffled((u.id for u in utterances), seed, "fewer")[:most])
    return [u for u in group if u.id in kept]


def by_speaker(group: Iterable[Utterance]) -> dict[str, list[Utterance]]:
    """Utterances grouped by speaker, speakers in first-seen order.

    Arguments
    ---------
    group : iterable of Utterance

    Returns
    -------
    dict of str to list of Utterance

    Example
    -------
    >>> list(by_speaker([Utterance("1", "", 1.0, "a", 16000)]))
    ['a']
    """
    speakers: dict[str, list[Utterance]] = defaultdict(list)
    for u in group:
        speakers[u.spk_id].append(u)
    return dict(speakers)


def make_trials(
    group: Sequence[Utterance],
    seed: int,
    targets: int = MOST_TARGETS,
    nontargets: int = MOST_NONTARGETS,
) -> list[Trial]:
    """Target pairs of every speaker and random pairs of different speakers.

    All target pairs when they are few enough; otherwise the same number of each
    speaker, as far as it has them, so that no talkative speaker dominates. When
    the manifest tells ``gender``, half of the non-target pairs are same-gender.

    Arguments
    ---------
    group : sequence of Utterance
    seed : int
    targets, nontargets : int
        The most of each.

    Returns
    -------
    list of (int, str, str)
        Label (1 = target), enrolment ID, test ID; targets first.

    Example
    -------
    >>> all = [Utterance(f"{s}{i}", "", 1.0, s, 16000) for s in "ab" for i in "12"]
    >>> make_trials(all, seed=1)[:2]
    [(1, 'a1', 'a2'), (1, 'b1', 'b2')]
    """
    speakers = dict(sorted(by_speaker(group).items()))
    rng = random.Random(f"{seed}/trials")
    same = _target_pairs(speakers, targets, rng)
    return [(1, a, b) for a, b in same] + [
        (0, a, b) for a, b in _nontarget_pairs(speakers, nontargets, rng)
    ]


def _target_pairs(
    speakers: dict[str, list[Utterance]], most: int, rng: random.Random
) -> list[tuple[str, str]]:
    share = _level([math.comb(len(group), 2) for group in speakers.values()], most)
    pairs = []
    for group in speakers.values():
        ids = [u.id for u in group]
        possible = math.comb(len(ids), 2)
        if possible <= share:
            pairs += list(itertools.combinations(ids, 2))
            continue
        drawn: dict[tuple[int, int], None] = {}
        while len(drawn) < share:
            a, b = sorted(rng.sample(range(len(ids)), 2))
            drawn[a, b] = None
        pairs += [(ids[a], ids[b]) for a, b in sorted(drawn)]
    return pairs[:most]


def _level(counts: list[int], most: int) -> int:
    """The largest number per speaker that keeps the sum at ``most`` or under."""
    left = most
    for position, count in enumerate(sorted(counts)):
        level = left // (len(counts) - position)
        if count > level:
            return max(1, level)
        left -= count
    return max(counts, default=0)


def _nontarget_pairs(
    speakers: dict[str, list[Utterance]], most: int, rng: random.Random
) -> list[tuple[str, str]]:
    names = list(speakers)
    gender = {s: group[0].meta.get("gender", "") for s, group in speakers.items()}
    pairs = list(itertools.combinations(names, 2)) if len(names) <= 2000 else None
    drawn: dict[tuple[str, str], None] = {}

    def draw(kinds: list[tuple[str, str]] | None, quota: int) -> None:
        total = sum(len(speakers[a]) * len(speakers[b]) for a, b in kinds or ())
        if kinds is not None and total <= 2 * quota:
            every = [
                (x.id, y.id) for a, b in kinds for x in speakers[a] for y in speakers[b]
            ]
            drawn.update(dict.fromkeys(rng.sample(every, min(quota, total))))
            return
        goal = len(drawn) + quota
        while len(drawn) < goal:
            a, b = rng.choice(kinds) if kinds else sorted(rng.sample(names, 2))
            drawn[rng.choice(speakers[a]).id, rng.choice(speakers[b]).id] = None

    known = set(gender.values())
    if pairs is None or len(known) < 2 or "" in known:
        draw(pairs, most)
    else:
        alike = [(a, b) for a, b in pairs if gender[a] == gender[b]]
        draw(alike, most // 2)
        draw([p for p in pairs if gender[p[0]] != gender[p[1]]], most - len(drawn))
    return list(drawn)
