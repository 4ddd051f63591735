"""``sb-margins compare``: train losses side by side, write one report."""

from __future__ import annotations

import shlex
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from sb_margins.commands.options import Folders, Formerly, Words, parse_known
from sb_margins.errors import UserError
from sb_margins.files import locked


@dataclass
class CompareSettings:
    """Train losses side by side and write one report (HTML, Markdown, JSON).

    The same command again continues; finished runs are never trained again. All other
    flags go to the runs, e.g. --data-folder CORPUS --number-of-epochs 20.

    sb-margins compare hparams/train_ecapa.yaml --losses am,aam,ham --seeds 3
    --set ham.curvature=2,3,5 --data-folder CORPUS --output-folder results/compare
    """

    yaml: Annotated[Positional[Path], arg(metavar="FILE")]
    """A training YAML, e.g. hparams/train_ecapa.yaml."""
    losses: Words
    """Names of losses (sb-margins losses)."""
    set: Annotated[
        UseAppendAction[list[str]], arg(metavar="LOSS.SETTING=VALUE,...")
    ] = field(default_factory=list)
    """Values of a setting, each trained; the best on dev is marked."""
    seeds: int = 3
    """Runs of each (on each fold), counting up from the YAML's seed."""
    folds: str = ""
    """Cross-validation: 5 makes every speaker a test speaker of one of five folds, 2/5
    runs the first two of them; empty: the corpus's own split."""
    baseline: str = ""
    """A loss or system that the others are compared with; the first loss if empty."""
    contrasts: Annotated[Words, arg(metavar="SYSTEM:REFERENCE,...")] = field(
        default_factory=list
    )
    """Planned contrasts, e.g. ham:am,real_am:am; all others are exploratory."""
    eval: Folders = field(default_factory=dict)
    """Trial lists of other corpora, e.g. sitw=/data/SITW; added later, they train
    nothing."""
    hard: float = 0.0
    """A share, e.g. 0.1: the hardest trials of each list make further lists."""
    hard_by: str = ""
    """The loss whose run, which is not compared, ranks them; the baseline if empty."""
    hard_same: Words = field(default_factory=list)
    """Only non-targets alike in columns of the manifest, e.g. gender,age."""
    output_folder: Annotated[Path, Formerly("output")] = Path("results/compare")
    """Holds the cells, the prepared corpus and the report."""
    jobs: int = 1
    """Runs at a time."""
    replicates: int = 2000
    """Bootstrap replicates."""
    report_only: bool = False
    """Train nothing, report what is finished."""
    geometry: bool = True
    """Whether to picture the embeddings."""

    def check(self) -> None:
        """Refuse numbers that are too small."""
        if self.jobs < 1:
            raise UserError(f"--jobs {self.jobs}: at least one run at a time")
        if self.replicates < 100:
            raise UserError(
                f"--replicates {self.replicates}: intervals need 100 or more (2000 is "
                "good)"
            )


def main(argv: list[str]) -> int:
    """Train what is missing, write the report: 0, 1 (a run failed), 130."""
    settings, rest = parse_known(CompareSettings, argv, "compare")
    settings.check()
    from sb_margins.comparison.cells import finished_marker
    from sb_margins.comparison.hard import check_columns
    from sb_margins.comparison.plan import corpus, data_hash, make_plan
    from sb_margins.comparison.report import write_report
    from sb_margins.comparison.results import load
    from sb_margins.comparison.run import score_cells, train_cells
    from sb_margins.data.evaluation import other_lists, own_lists
    from sb_margins.training.process import quiet

    quiet()
    plan = make_plan(
        settings.yaml,
        settings.losses,
        settings.seeds,
        settings.output_folder,
        sets=settings.set,
        baseline=settings.baseline,
        folds=settings.folds,
        contrasts=settings.contrasts,
        flags=rest,
        evals=settings.eval,
        hard=settings.hard,
        hard_by=settings.hard_by,
        hard_same=settings.hard_same,
    )
    for cell in plan.references[:1] + plan.cells[: len(plan.variants)]:
        plan.config(cell)  # refuses what cannot be trained, before hours are spent
    failures: list[str] = []
    busy = (
        f"another comparison, or a run of one, is at work in {plan.output}. Wait for "
        "it, or choose another --output-folder"
    )
    with locked(plan.output, busy) as lock:
        for cell in plan.references + plan.cells:
            finished_marker(cell, plan, None)  # before the corpus is prepared anew
        data, others = {}, {}
        for fold in plan.folds:
            prepared = corpus(plan, fold, settings.report_only)
            data[fold] = data_hash(prepared)
            others[fold] = other_lists(plan.evals, plan.output / "eval", prepared)
            if plan.hard:
                lists = {**own_lists(prepared), **others[fold]}
                check_columns(plan.hard, lists.values())
        if not settings.report_only:
            before = signal.signal(signal.SIGTERM, _interrupt)
            try:
                failures = train_cells(plan, data, settings.jobs, lock)
                score_cells(plan, data, others)
            except KeyboardInterrupt:
                print("\nsaved; the same command again continues from here")
                return 130
            finally:
                signal.signal(signal.SIGTERM, before)
        again = [word for word in argv if word.replace("_", "-") != "--report-only"]
        page, summary = write_report(
            load(plan, others),
            shlex.join(["sb-margins", "compare", *again]),
            replicates=settings.replicates,
            geometry=settings.geometry,
        )
    for line in (
        *summary,
        f"wrote {page} and {page.with_suffix('.md')}",
        *failures,
    ):
        print(line)
    return 1 if failures else 0


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt
