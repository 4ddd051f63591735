"""Speaker-disjoint splits and trial lists, made from a seed.

Everything is drawn by hashes and Python's own generator, whose sequences do not
change between versions: the same seed gives the same lists anywhere.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Iterable, Sequence

from sb_margins.data.manifest import Utterance
from sb_margins.data.trials import Trials
from sb_margins.errors import UserError
from sb_margins.files import hash_text

DIVIDED = ("train", "dev", "test")  # other splits are lists of their own
FEWEST_SPEAKERS = 6
MOST_TARGETS = MOST_NONTARGETS = 10_000
MOST_DEV_SPEAKERS, MOST_TEST_SPEAKERS = 50, 100


def shuffled(names: Iterable[str], seed: int, what: str = "") -> list[str]:
    """Names in an order that depends on the seed, ``what`` and each name alone.

    A new name does not change the order of the others, so that a corpus that grows
    keeps most of its split.
    """
    return sorted(set(names), key=lambda name: hash_text(f"{seed}/{what}/{name}"))


def divide(
    utterances: Sequence[Utterance],
    seed: int,
    dev_share: float = 0.15,
    test_share: float = 0.15,
    eval_utterances: int = 20,
    fold: str = "",
) -> dict[str, list[Utterance]]:
    """A train, dev and test split in which no speaker is in two splits.

    Dev and test take speakers with two utterances or more (others have no target
    trial), at least two speakers each and the given shares, up to 50 and 100. At most
    ``eval_utterances`` of each of them are kept (0 = all).

    With a ``fold`` such as "2/5", test is the second of five folds of all these
    speakers, dev the one after it (the first after the last).
    """
    eligible = _with_two_utterances(utterances)
    if len(eligible) < FEWEST_SPEAKERS:
        raise UserError(
            f"a speaker-disjoint train/dev/test split takes at least {FEWEST_SPEAKERS} "
            f"speakers with two utterances or more; found {len(eligible)} (of "
            f"{len(by_speaker(utterances))} in all). Add speakers, or give "
            "manifest.csv and splits.csv (utt_id,spk_id,split) in the data folder; "
            "without a split 'train', it is for evaluation only"
        )
    if dev_share <= 0 or test_share <= 0 or dev_share + test_share >= 0.9:
        raise UserError(
            f"dev_share {dev_share} and test_share {test_share} must be above 0 and "
            "leave a tenth of the speakers or more for training"
        )
    count = len(eligible)
    n_dev = min(MOST_DEV_SPEAKERS, max(2, round(dev_share * count)))
    n_test = min(MOST_TEST_SPEAKERS, max(2, round(test_share * count)))
    n_test = max(2, min(n_test, count - n_dev - 2))
    order = shuffled(eligible, seed, "split")
    dev, test = order[:n_dev], order[n_dev : n_dev + n_test]
    if fold:
        number, folds = parse_fold(fold)
        if count < 2 * folds:
            raise UserError(
                f"fold {fold}: {folds} folds take at least {2 * folds} speakers with "
                f"two utterances or more; found {count}"
            )
        gender = {u.spk_id: u.meta.get("gender", "") for u in utterances}
        order.sort(key=lambda speaker: gender[speaker])  # dealt evenly
        test, dev = order[number - 1 :: folds], order[number % folds :: folds]
    split_of = {**dict.fromkeys(dev, "dev"), **dict.fromkeys(test, "test")}
    splits: dict[str, list[Utterance]] = {name: [] for name in DIVIDED}
    for u in utterances:
        splits[split_of.get(u.spk_id, "train")].append(u)
    for name in ("dev", "test"):
        splits[name] = fewer(splits[name], eval_utterances, seed)
    return splits


def parse_fold(text: str) -> tuple[int, int]:
    """The number of a fold and how many there are: "2/5" is the second of five."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    number, folds = (int(n) for n in match.groups()) if match else (0, 0)
    if folds < 3 or not 1 <= number <= folds:
        raise UserError(
            f"fold '{text}' is not understood: write 2/5 for the second of five folds. "
            "It takes at least three: test, dev, and one to train on"
        )
    return number, folds


def hold_out(
    train: Sequence[Utterance], seed: int, speakers: int, eval_utterances: int = 20
) -> tuple[list[Utterance], list[Utterance]]:
    """What is left for training, and a dev split of so many training speakers."""
    eligible = _with_two_utterances(train)
    if speakers < 2 or len(eligible) < speakers + 2:
        raise UserError(
            f"cannot hold {speakers} speakers out for dev: it takes at least 2, and 2 "
            f"more to train on; {len(eligible)} training speakers have two utterances"
        )
    held = set(shuffled(eligible, seed, "split")[:speakers])
    dev = [u for u in train if u.spk_id in held]
    return [u for u in train if u.spk_id not in held], fewer(dev, eval_utterances, seed)


def fewer(group: Sequence[Utterance], most: int, seed: int) -> list[Utterance]:
    """At most so many utterances per speaker (0 = all), drawn by the seed."""
    if most <= 0:
        return list(group)
    kept = set()
    for utterances in by_speaker(group).values():
        kept.update(shuffled((u.id for u in utterances), seed, "fewer")[:most])
    return [u for u in group if u.id in kept]


def by_speaker(group: Iterable[Utterance]) -> dict[str, list[Utterance]]:
    """Utterances grouped by speaker, speakers in first-seen order."""
    speakers: dict[str, list[Utterance]] = {}
    for u in group:
        speakers.setdefault(u.spk_id, []).append(u)
    return speakers


def _with_two_utterances(utterances: Iterable[Utterance]) -> list[str]:
    return [s for s, group in by_speaker(utterances).items() if len(group) > 1]


def make_trials(
    group: Sequence[Utterance],
    seed: int,
    targets: int = MOST_TARGETS,
    nontargets: int = MOST_NONTARGETS,
) -> Trials:
    """Target pairs of every speaker and random pairs of different speakers.

    All target pairs when they are few enough; otherwise the same number of each
    speaker, as far as it has them, so that no talkative speaker dominates. When
    the manifest has ``gender``, half of the non-target pairs are same-gender.
    Targets come first.
    """
    speakers = dict(sorted(by_speaker(group).items()))
    rng = random.Random(f"{seed}/trials")
    same = _target_pairs(speakers, targets, rng)
    different = _nontarget_pairs(speakers, nontargets, rng)
    return Trials.from_rows(
        [(1, a, b) for a, b in same] + [(0, a, b) for a, b in different]
    )


def _target_pairs(
    speakers: dict[str, list[Utterance]], most: int, rng: random.Random
) -> list[tuple[str, str]]:
    limit = _limit_per_speaker([math.comb(len(g), 2) for g in speakers.values()], most)
    pairs = []
    for group in speakers.values():
        ids = [u.id for u in group]
        if math.comb(len(ids), 2) <= limit:
            pairs += list(itertools.combinations(ids, 2))
            continue
        drawn: set[tuple[int, int]] = set()
        while len(drawn) < limit:
            a, b = sorted(rng.sample(range(len(ids)), 2))
            drawn.add((a, b))
        pairs += [(ids[a], ids[b]) for a, b in sorted(drawn)]
    return pairs[:most]


def _limit_per_speaker(counts: list[int], most: int) -> int:
    """The largest number of pairs per speaker that keeps the sum within ``most``."""
    left = most
    for position, count in enumerate(sorted(counts)):
        limit = left // (len(counts) - position)
        if count > limit:
            return max(1, limit)
        left -= count
    return max(counts, default=0)


def _nontarget_pairs(
    speakers: dict[str, list[Utterance]], most: int, rng: random.Random
) -> list[tuple[str, str]]:
    names = list(speakers)
    gender = {s: group[0].meta.get("gender", "") for s, group in speakers.items()}
    speaker_pairs = None  # too many to list: drawn one by one
    if len(names) <= 2000:
        speaker_pairs = list(itertools.combinations(names, 2))
    drawn: dict[tuple[str, str], None] = {}  # a set that keeps the order

    def draw(between: list[tuple[str, str]] | None, quota: int) -> None:
        total = sum(len(speakers[a]) * len(speakers[b]) for a, b in between or ())
        if between is not None and total <= 2 * quota:
            every = [
                (x.id, y.id)
                for a, b in between
                for x in speakers[a]
                for y in speakers[b]
            ]
            drawn.update(dict.fromkeys(rng.sample(every, min(quota, total))))
            return
        goal = len(drawn) + quota
        while len(drawn) < goal:
            a, b = rng.choice(between) if between else sorted(rng.sample(names, 2))
            drawn[rng.choice(speakers[a]).id, rng.choice(speakers[b]).id] = None

    known = set(gender.values())
    if speaker_pairs is None or len(known) < 2 or "" in known:
        draw(speaker_pairs, most)
    else:
        draw([(a, b) for a, b in speaker_pairs if gender[a] == gender[b]], most // 2)
        different = [(a, b) for a, b in speaker_pairs if gender[a] != gender[b]]
        draw(different, most - len(drawn))
    return list(drawn)
