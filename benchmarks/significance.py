"""How often the test of ``compare`` calls equally good systems different.

The rate should be 5 %. First the luck of the speakers alone decides: a difference is a
mean over speakers. Then a run's luck is ``ratio`` times that of the speakers. Then,
EERs of simulated embeddings. Last, cross-validations of systems with known differences:
how many are found, and how many the report's figures promise.

    python benchmarks/significance.py          # about 20 minutes of a core
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import norm

from sb_margins.comparison.statistics import LEVEL, POWER, Part, analyse, difference
from sb_margins.verification.bootstrap import draws, resample, sign_p_value
from sb_margins.verification.metrics import EER

RATIOS = (0, 0.5, 1, 2, 4, 50)


def of_speakers(speakers: int, rounds: int = 20000) -> float:
    """False alarms of a mean over speakers whose differences are drawn around 0."""
    rng = np.random.default_rng(0)
    weights = np.array(list(draws(speakers, 1000, 1))) / speakers
    values = rng.standard_normal((rounds, speakers)) @ weights.T
    return rate(rounds, lambda k: sign_p_value(values[k]))


def of_runs(
    runs: int, ratio: float, rounds: int = 2000, replicates: int = 400, folds: int = 1
) -> float:
    """False alarms where a run's luck is ``ratio`` times that of a fold's speakers."""
    rng = np.random.default_rng(0)
    fold = np.repeat(np.arange(folds), runs)
    none, nothing = np.zeros(len(fold)), np.zeros((replicates, len(fold)))

    def p_value(k: int) -> float:
        gap = rng.standard_normal(folds)[fold] + ratio * rng.standard_normal(len(fold))
        drawn = gap + rng.standard_normal((replicates, folds))[:, fold]
        return difference(gap, none, drawn, nothing, fold, seed=k).p_value

    return rate(rounds, p_value)


def of_embeddings(speakers: int, runs: int, rounds: int = 100) -> float:
    """False alarms of EERs near 10 %.

    A system suits some speakers better (by about 25 %), and a run others (10 %).
    """
    owner = np.repeat(np.arange(speakers), 4)
    one, two = np.triu_indices(len(owner), 1)
    sides, labels = (owner[one], owner[two]), owner[one] == owner[two]

    def p_value(k: int) -> float:
        rng = np.random.default_rng([k, speakers])
        means = rng.standard_normal((speakers, 24))
        noise = rng.standard_normal((len(owner), 24))
        spread = 0.9 * np.exp(0.25 * rng.standard_normal(speakers))
        scores = []
        for _ in range(2):
            of_system = spread * np.exp(0.25 * rng.standard_normal(speakers))
            for _ in range(runs):
                of_run = of_system * np.exp(0.1 * rng.standard_normal(speakers))
                x = means[owner] + of_run[owner][:, None] * noise
                x /= np.linalg.norm(x, axis=1, keepdims=True)
                scores.append((x @ x.T)[one, two])
        full, drawn = resample(scores, labels, sides, [EER], replicates=100, seed=k)
        full, drawn = full[:, 0], drawn[:, :, 0]
        halves = full[:runs], full[runs:], drawn[:, :runs], drawn[:, runs:]
        return difference(*halves, seed=k).p_value

    return rate(rounds, p_value)


def of_folds(
    changes: dict[str, float],
    folds: int = 5,
    seeds: int = 1,
    speakers: int = 20,
    rounds: int = 100,
    replicates: int = 1000,
) -> dict[str, tuple[float, float]]:
    """Shares of systems found to differ from one with an EER of 10 %, and as promised.

    ``changes`` are their EERs, relative to it. Those of 0 are one family of contrasts,
    the others another, as planned and exploratory ones are; all shares are after Holm's
    correction. "any" is the share of rounds in which any of 0 is found.
    """
    names = [*changes, "any"]
    shares = np.zeros((len(names), 2))
    for k in range(rounds):
        found = one_comparison(k, changes, folds, seeds, speakers, replicates)
        shares += np.array([found[name] for name in names]) / rounds
    return {
        name: (float(a), float(b)) for name, (a, b) in zip(names, shares, strict=True)
    }


def one_comparison(
    k: int,
    changes: dict[str, float],
    folds: int,
    seeds: int,
    speakers: int,
    replicates: int,
) -> dict[str, tuple[float, float]]:
    """Of a round of ``of_folds``: whether each is found, and its promised chance."""
    rng = np.random.default_rng([k, folds, seeds])
    families = [
        [(name, "base") for name, change in changes.items() if bool(change) is real]
        for real in (False, True)
    ]
    all_changes = {"base": 0.0, **changes}
    parts = [simulated(rng, all_changes, seeds, speakers) for _ in range(folds)]
    found = analyse(parts, families, [EER], replicates).differences
    shares = {"any": (0.0, LEVEL if families[0] else 0.0)}
    for family in families:
        level = norm.ppf(1 - LEVEL / 2 / max(1, len(family)))
        for pair in family:
            name, one = pair[0], found[pair]["eer"]
            errors = (level + norm.ppf(POWER)) * abs(changes[name]) / one.visible
            shares[name] = float(one.significant), float(norm.cdf(errors - level))
            if one.significant and not changes[name]:
                shares["any"] = 1.0, LEVEL
    return shares


def simulated(
    rng: np.random.Generator, changes: dict[str, float], seeds: int, speakers: int
) -> Part:
    """Scores of four utterances of each speaker; EERs of 10 % and so much less or more.

    Trials and speakers are hard for all systems, for one, and for a run of one.
    """
    owner = np.repeat(np.arange(speakers), 4)
    one, two = np.triu_indices(len(owner), 1)
    sides = owner[one], owner[two]
    labels = sides[0] == sides[1]

    def luck(of_speakers: float, of_trials: float) -> np.ndarray:
        same, other = of_speakers * rng.standard_normal((2, speakers))
        others = (other[sides[0]] + other[sides[1]]) / 2**0.5
        trials = of_trials * rng.standard_normal(len(labels))
        return np.where(labels, same[sides[0]], others) + trials

    common = luck(0.4, 0.7)
    deviation = (0.4**2 + 0.7**2 + 0.2**2 + 0.2**2 + 0.5**2) ** 0.5
    runs: dict[str, dict[int, np.ndarray]] = {}
    for name, change in changes.items():
        distance = -2 * deviation * norm.ppf(0.1 * (1 + change))
        of_system = common + luck(0.2, 0)
        runs[name] = {
            seed: (distance + 0.05 * rng.standard_normal()) * labels
            + (of_system + luck(0.2, 0.5))
            for seed in range(seeds)
        }
    return Part(runs, labels.astype(np.int8), sides)


def rate(rounds: int, p_value: Callable[[int], float]) -> float:
    return sum(p_value(k) < LEVEL for k in range(rounds)) / rounds


def main() -> None:
    for speakers in (4, 6, 10, 15, 20, 30, 40, 60):
        print(f"{speakers} speakers: {of_speakers(speakers):.1%}", flush=True)
    for ratio in RATIOS:
        rates = [f"{n} runs {of_runs(n, ratio):.1%}" for n in (1, 2, 3, 4, 5, 8)]
        print(f"ratio {ratio}: {', '.join(rates)}", flush=True)
    for speakers in (4, 10, 20):
        rates = [f"{n} runs {of_embeddings(speakers, n):.1%}" for n in (1, 3, 5)]
        print(f"embeddings of {speakers} speakers: {', '.join(rates)}", flush=True)
    for folds, seeds in ((3, 1), (5, 1), (10, 1), (3, 2), (5, 2)):
        rates = [f"ratio {r} {of_runs(seeds, r, folds=folds):.1%}" for r in RATIOS]
        print(f"{folds} folds x {seeds} seeds: {', '.join(rates)}", flush=True)
    changes = {"none": 0.0, "none either": 0.0, "nor here": 0.0}
    changes |= {"-5 %": -0.05, "-15 %": -0.15, "-30 %": -0.3}
    for seeds in (1, 2):
        shares = of_folds(changes, 5, seeds, speakers=40, rounds=100, replicates=500)
        rates = [f"{n} {hit:.1%} (promised {p:.1%})" for n, (hit, p) in shares.items()]
        print(f"5 folds x 40 speakers x {seeds} seeds: {', '.join(rates)}", flush=True)


if __name__ == "__main__":
    main()
