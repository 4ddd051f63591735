"""How often the test of ``compare`` calls equally good systems different.

The rate should be 5 %. First the luck of the speakers alone decides: a difference is a
mean over speakers. Then a run's luck is ``ratio`` times that of the speakers. Last,
EERs of simulated embeddings.

    python benchmarks/significance.py          # a minute of a core
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sb_margins.comparison.statistics import LEVEL, difference
from sb_margins.verification.bootstrap import draws, resample, sign_p_value
from sb_margins.verification.metrics import EER


def of_speakers(speakers: int, rounds: int = 20000) -> float:
    """False alarms of a mean over speakers whose differences are drawn around 0."""
    rng = np.random.default_rng(0)
    weights = np.array(list(draws(speakers, 1000, 1))) / speakers
    values = rng.standard_normal((rounds, speakers)) @ weights.T
    return rate(rounds, lambda k: sign_p_value(values[k]))


def of_runs(
    runs: int, ratio: float, rounds: int = 2000, replicates: int = 400
) -> float:
    """False alarms where a run's luck is ``ratio`` times that of the speakers."""
    rng = np.random.default_rng(0)
    none, nothing = np.zeros(runs), np.zeros((replicates, runs))

    def p_value(k: int) -> float:
        gap = rng.standard_normal() + ratio * rng.standard_normal(runs)
        drawn = gap + rng.standard_normal((replicates, 1))
        return difference(gap, none, drawn, nothing, seed=k).p_value

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


def rate(rounds: int, p_value: Callable[[int], float]) -> float:
    return sum(p_value(k) < LEVEL for k in range(rounds)) / rounds


def main() -> None:
    for speakers in (4, 6, 10, 15, 20, 30, 40, 60):
        print(f"{speakers} speakers: {of_speakers(speakers):.1%}", flush=True)
    for ratio in (0, 0.5, 1, 2, 4, 50):
        rates = [f"{n} runs {of_runs(n, ratio):.1%}" for n in (1, 2, 3, 4, 5, 8)]
        print(f"ratio {ratio}: {', '.join(rates)}", flush=True)
    for speakers in (4, 10, 20):
        rates = [f"{n} runs {of_embeddings(speakers, n):.1%}" for n in (1, 3, 5)]
        print(f"embeddings of {speakers} speakers: {', '.join(rates)}", flush=True)


if __name__ == "__main__":
    main()
