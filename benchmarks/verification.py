"""Metrics, scoring and normalisation against SpeechBrain's; a dress rehearsal.

    python benchmarks/verification.py            # all; writes results/verification_*.md
    python benchmarks/verification.py metrics    # one section, as JSON

Sections run one after the other in processes of their own, so that peak memory is
theirs; what is compared is compared inside of one process. SpeechBrain's loops are run
at sizes they can finish and extrapolated from there (said in the table). Times are
processor seconds of one thread unless wall time is said.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sb_margins.data.trials import Trials
from sb_margins.verification.embeddings import Embeddings
from sb_margins.verification.normalisation import Normaliser
from sb_margins.verification.points import OperatingPoints
from sb_margins.verification.scoring import score_trials
from sb_margins.versions import versions

HERE = Path(__file__).resolve().parent
# VoxCeleb1: utterances, speakers and trials of the cleaned lists.
UTTERANCES, SPEAKERS, VIDEOS = 145_160, 1251, 18
E_TRIALS, H_TRIALS, H_SPEAKERS = 579_818, 550_894, 1190
COHORT, TOP = 6000, 400


def seconds(function: Callable[[], Any], repeats: int = 3) -> float:
    """Least processor time of some runs."""
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        function()
        best = min(best, time.process_time() - start)
    return best


def peak_mib(function: Callable[[], Any]) -> float:
    """Most memory allocated at a time by Python and numpy."""
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


def toy(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose EER is about 6.7 %, half of them targets."""
    rng = np.random.default_rng(seed)
    labels = rng.random(count) < 0.5
    return (rng.standard_normal(count) + 3 * labels).astype(np.float32), labels


def three_figures(scores: np.ndarray, labels: np.ndarray) -> tuple[float, ...]:
    """EER and minDCF at two priors from one sort."""
    points = OperatingPoints.of(scores, labels)
    return points.eer(), points.min_dcf(0.01), points.min_dcf(0.05)


def metrics() -> dict[str, Any]:
    """EER + minDCF at two priors, both libraries at small sizes."""
    from speechbrain.utils.metric_stats import EER, minDCF

    rows = []
    for count in (1000, 4000, 37_720, 580_000, 10_000_000):
        scores, labels = toy(count)

        def ours(scores: np.ndarray = scores, labels: np.ndarray = labels) -> Any:
            return three_figures(scores, labels)

        row: dict[str, Any] = {
            "trials": count,
            "ours_s": seconds(ours, 5 if count < 10**6 else 3),
            "ours_mib": peak_mib(ours),
        }
        if count <= 4000:
            target = torch.from_numpy(scores[labels])
            other = torch.from_numpy(scores[~labels])
            found: list[float] = []

            def theirs(
                target: Any = target, other: Any = other, found: list[float] = found
            ) -> None:
                found[:] = [EER(target, other)[0]]
                for p_target in (0.01, 0.05):
                    cost = minDCF(target, other, p_target=p_target)[0]
                    found.append(cost / min(p_target, 1 - p_target))

            row["speechbrain_s"] = seconds(theirs, 1)
            gap = np.abs(np.array(found) - np.array(ours())).max()
            row["difference"] = float(gap)
        rows.append(row)
    return {"rows": rows}


def world(rng: np.random.Generator) -> tuple[Embeddings, Trials]:
    """Random embeddings and VoxCeleb1-E's number of trials over them."""
    matrix = rng.standard_normal((UTTERANCES, 192)).astype(np.float32)
    ids = [f"u{i}" for i in range(UTTERANCES)]
    pairs = rng.integers(0, UTTERANCES, (E_TRIALS, 2)).tolist()
    trials = Trials([ids[a] for a, _ in pairs], [ids[b] for _, b in pairs])
    return Embeddings(ids, matrix), trials


def recipe_loop(
    embeddings: Embeddings, trials: Trials, cohort: np.ndarray | None
) -> np.ndarray:
    """The trial loop of SpeechBrain's speaker_verification_cosine.py."""
    similarity = torch.nn.CosineSimilarity(dim=-1, eps=1e-6)
    row = {name: i for i, name in enumerate(embeddings.ids)}
    matrix = torch.from_numpy(embeddings.matrix)
    impostors = None if cohort is None else torch.from_numpy(cohort)
    scores = []
    for enrol_name, test_name in zip(trials.enrol, trials.test, strict=True):
        enrol = matrix[row[enrol_name]][None]
        test = matrix[row[test_name]][None]
        sides = []
        if impostors is not None:
            for side in (enrol, test):
                many = side.repeat(impostors.shape[0], 1)
                against = similarity(many, impostors)
                against = torch.topk(against, k=TOP, dim=0)[0]
                sides.append((torch.mean(against), torch.std(against)))
        score = similarity(enrol, test)[0]
        if sides:
            (mean_e, std_e), (mean_t, std_t) = sides
            score = 0.5 * ((score - mean_e) / std_e + (score - mean_t) / std_t)
        scores.append(float(score))
    return np.array(scores)


def scoring() -> dict[str, Any]:
    """Cosine scoring of VoxCeleb1-E's size."""
    embeddings, trials = world(np.random.default_rng(0))
    few = trials.subset(np.arange(len(trials)) < 5000)
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ours = seconds(lambda: score_trials(embeddings, trials))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loop = seconds(lambda: recipe_loop(embeddings, few, None), 1) / len(few)
    gap = np.abs(recipe_loop(embeddings, few, None) - score_trials(embeddings, few))
    return {
        "ours_s": ours,
        "ours_mib": (peak - start) / 1024,
        "loop_s": loop * len(trials),
        "difference": float(gap.max()),
    }


def normalisation() -> dict[str, Any]:
    """AS-norm on the same, against the recipe's loop."""
    rng = np.random.default_rng(0)
    embeddings, trials = world(rng)
    cohort = rng.standard_normal((COHORT, 192)).astype(np.float32)
    few = trials.subset(np.arange(len(trials)) < 100)
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found: dict[str, np.ndarray] = {}

    def ours() -> None:
        normaliser = Normaliser("as", cohort, TOP)
        found["all"] = score_trials(embeddings, trials, normaliser=normaliser)

    took = seconds(ours, 2)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loop = seconds(lambda: recipe_loop(embeddings, few, cohort), 1) / len(few)
    gap = np.abs(recipe_loop(embeddings, few, cohort) - found["all"][: len(few)])
    return {
        "ours_s": took,
        "ours_mib": (peak - start) / 1024,
        "process_mib": peak / 1024,
        "loop_s": loop * len(trials),
        "difference": float(gap.max()),
    }


def voxceleb_like(folder: Path) -> None:
    """Embeddings and lists of VoxCeleb1's E and H sizes, in their real format."""
    rng = np.random.default_rng(1)
    size = 192
    share = rng.gamma(6, size=SPEAKERS)
    counts = np.maximum(20, share / share.sum() * UTTERANCES).astype(int)
    counts[0] += UTTERANCES - counts.sum()
    speaker = np.repeat(np.arange(SPEAKERS), counts)
    video = np.concatenate([np.sort(rng.integers(0, VIDEOS, c)) for c in counts])
    # Nationality and gender: H's non-targets share both.
    group = rng.integers(0, 24, SPEAKERS)
    means = 0.55 * rng.standard_normal((24, size))[group]
    means = means + rng.standard_normal((SPEAKERS, size))
    sessions = 0.9 * rng.standard_normal((SPEAKERS, VIDEOS, size))
    matrix = rng.standard_normal((UTTERANCES, size), dtype=np.float32) * 1.7
    matrix += (means[speaker] + sessions[speaker, video]).astype(np.float32)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_09"))
    names = rng.choice(letters, (SPEAKERS, VIDEOS, 11))
    ids = [
        f"id{10001 + s}/{''.join(names[s, v])}/{n:05d}.wav"
        for n, (s, v) in enumerate(zip(speaker, video, strict=True))
    ]
    Embeddings(ids, matrix).save(folder / "voxceleb1.npz")
    outside = (
        rng.standard_normal((COHORT, size))
        + 0.55 * rng.standard_normal((24, size))[rng.integers(0, 24, COHORT)]
    )
    names_out = [f"id{i:05d}/x/00001.wav" for i in range(COHORT)]
    Embeddings(names_out, outside.astype(np.float32)).save(folder / "cohort.npz")
    start = np.concatenate([[0], np.cumsum(counts)[:-1]])
    for name, trials, last in (
        ("list_test_all2.txt", E_TRIALS, SPEAKERS),
        ("list_test_hard2.txt", H_TRIALS, H_SPEAKERS),
    ):
        usable = np.flatnonzero(speaker < last)
        first = np.resize(rng.permutation(usable), trials)
        same = rng.integers(0, counts[speaker[first]]) + start[speaker[first]]
        other = rng.choice(usable, trials)
        if "hard" in name:
            for g in range(24):
                at = np.flatnonzero(group[speaker[first]] == g)
                pool = usable[group[speaker[usable]] == g]
                other[at] = rng.choice(pool, at.size)
        clash = np.flatnonzero(speaker[other] == speaker[first])
        other[clash] = (other[clash] + UTTERANCES // 2) % start[last - 1]
        label = (np.arange(trials) % 2 == 0) & (same != first)
        label &= speaker[other] != speaker[first]
        label |= speaker[other] == speaker[first]
        second = np.where(label & (speaker[other] != speaker[first]), same, other)
        rows = zip(label.astype(int), first, second, strict=True)
        text = "".join(f"{x} {ids[a]} {ids[b]}\n" for x, a, b in rows)
        (folder / name).write_text(text)


def rehearsal() -> dict[str, Any]:
    """`sb-margins verify` from embeddings to plots at full size, twice."""
    runs = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        # In a process of its own: a child's peak memory counts its parent's too.
        subprocess.run([sys.executable, __file__, "--make", str(folder)], check=True)
        for name, extra in (
            ("cosine", []),
            ("AS-norm", ["--norm", "as", "--cohort", str(folder / "cohort.npz")]),
        ):
            command = [sys.executable, "-m", "sb_margins.cli", "verify"]
            command += ["--embeddings", str(folder / "voxceleb1.npz"), "--trials"]
            command += [f"E={folder / 'list_test_all2.txt'}"]
            command += [f"H={folder / 'list_test_hard2.txt'}"]
            command += ["--output-folder", str(folder / name), *extra]
            runs[name] = watched(command)
            keep = os.environ.get("KEEP_PLOTS")
            for picture in sorted((folder / name).glob("*.png")) if keep else []:
                target = Path(str(keep)) / f"{name}_{picture.name}"
                target.write_bytes(picture.read_bytes())
    return runs


def watched(command: list[str]) -> dict[str, Any]:
    """Wall time, processor time and peak memory of one command."""
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as printed:
        process = subprocess.Popen(command, stdout=printed, cwd=HERE.parent)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - start
        printed.seek(0)
        table = printed.read()
    if status:
        raise SystemExit(f"failed: {' '.join(command)}\n{table}")
    return {
        "wall_s": wall,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "mib": usage.ru_maxrss / 1024,
        "table": "\n".join(
            line.rstrip() for line in table.splitlines() if "written" not in line
        ),
    }


SECTIONS = {f.__name__: f for f in (metrics, scoring, normalisation, rehearsal)}


def page(found: dict[str, Any]) -> str:
    """The Markdown with all figures."""
    cpu = platform.processor() or "unknown"
    info = Path("/proc/cpuinfo")
    if info.is_file():
        models = [
            x for x in info.read_text().splitlines() if x.startswith("model name")
        ]
        cpu = models[0].split(":")[1].strip() if models else cpu
    told = ", ".join(f"{k} {v}" for k, v in versions().items())
    lines = [
        "# Verification at VoxCeleb scale: time and memory",
        "",
        f"Written by `benchmarks/verification.py` on {datetime.date.today()}; {cpu}, "
        f"one thread, {os.cpu_count()} cores shared with other work; {told}.",
        "Times are processor seconds (other work stretches wall time, and slows the "
        "caches for both sides). Read the ratios first.",
        "",
        "## EER and minDCF at two priors",
        "",
        "| trials | ours | peak memory | SpeechBrain | ratio | largest difference |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    rows = found["metrics"]["rows"]
    # SpeechBrain's cost grows with the square of the trials.
    base = next(r for r in rows[::-1] if "speechbrain_s" in r)
    for row in rows:
        if "speechbrain_s" in row:
            theirs, gap = row["speechbrain_s"], f"{row['difference']:.0e}"
            shown = f"{theirs:.2f} s"
        else:
            theirs = base["speechbrain_s"] * (row["trials"] / base["trials"]) ** 2
            shown, gap = f"({theirs:,.0f} s, extrapolated)", "-"
        lines.append(
            f"| {row['trials']:,} | {row['ours_s']:.4f} s | {row['ours_mib']:.1f} MiB "
            f"| {shown} | {theirs / row['ours_s']:,.0f} | {gap} |"
        )
    lines += [
        "",
        "SpeechBrain's minDCF holds trials x thresholds booleans and floats: it cannot "
        "run at 37,720 trials on a small machine nor at 580,000 on any.",
        "",
        f"## Scoring {E_TRIALS:,} trials over {UTTERANCES:,} utterances (D = 192)",
        "",
        "| task | ours | memory on top | SpeechBrain's loop (extrapolated) | ratio | "
        "largest difference |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    tasks = {
        "scoring": "cosine",
        "normalisation": f"AS-norm, cohort {COHORT:,}, top {TOP}",
    }
    for name, label in tasks.items():
        row = found[name]
        lines.append(
            f"| {label} | {row['ours_s']:.2f} s | {row['ours_mib']:.0f} MiB | "
            f"{row['loop_s']:,.0f} s | {row['loop_s'] / row['ours_s']:,.0f} | "
            f"{row['difference']:.0e} |"
        )
    lines += [
        "",
        "The whole process of the AS-norm run, embeddings and lists included, peaked "
        f"at {found['normalisation']['process_mib']:.0f} MiB.",
        "",
        "## Dress rehearsal: VoxCeleb1-E and H in one command",
        "",
        "Generated embeddings (no speech; the error rates mean nothing), lists in the "
        f"real format: E {E_TRIALS:,} trials, H {H_TRIALS:,}, {UTTERANCES:,} "
        "utterances; reading lists and embeddings, scoring, EER, minDCF, min Cllr, "
        "1,000 bootstrap replicates over speakers for each list, score files, DET and "
        "histograms.",
        "",
        "| run | wall time | processor time | peak memory |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, row in found["rehearsal"].items():
        lines.append(
            f"| {name} | {row['wall_s']:.0f} s | {row['cpu_s']:.0f} s | "
            f"{row['mib']:.0f} MiB |"
        )
    for row in found["rehearsal"].values():
        lines += ["", "```", row["table"], "```"]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run one section in this process, or all in processes of their own."""
    tool = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    tool.add_argument("section", nargs="?", choices=SECTIONS)
    tool.add_argument("--out", default=HERE / "results" / "verification_cpu.md")
    tool.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    args = tool.parse_args()
    if args.make:
        voxceleb_like(args.make)
        return
    if args.section:
        torch.set_num_threads(1)
        print(json.dumps(SECTIONS[args.section]()))
        return
    found = {}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name in SECTIONS:
        print(f"{name} ...", file=sys.stderr)
        command = [sys.executable, __file__, name]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, check=False
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        found[name] = json.loads(done.stdout.splitlines()[-1])
    Path(args.out).write_text(page(found), encoding="utf-8")
    print(page(found))


if __name__ == "__main__":
    main()
