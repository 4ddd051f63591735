"""``sb-margins compare``: train losses side by side, write one report."""

from __future__ import annotations

import shlex
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from sb_margins.commands.options import Formerly, Words, parse_known
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
    from sb_margins.comparison.plan import data_hash, make_plan, shared_config
    from sb_margins.comparison.report import write_report
    from sb_margins.comparison.results import load
    from sb_margins.comparison.run import train_cells
    from sb_margins.training.process import quiet
    from sb_margins.training.run import prepare_corpus

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
    )
    for cell in plan.cells[: len(plan.variants)]:
        plan.config(cell)  # refuses what cannot be trained, before hours are spent
    failures: list[str] = []
    busy = (
        f"another comparison, or a run of one, is at work in {plan.output}. Wait for "
        "it, or choose another --output-folder"
    )
    with locked(plan.output, busy) as lock:
        if not settings.report_only:
            data = {}
            for fold in plan.folds:
                flags, place = plan.flags_of(fold), plan.place(fold)
                config = shared_config(plan.yaml, flags, place)
                data[fold] = data_hash(prepare_corpus(config.settings))
            before = signal.signal(signal.SIGTERM, _interrupt)
            try:
                failures = train_cells(plan, data, settings.jobs, lock)
            except KeyboardInterrupt:
                print("\nsaved; the same command again continues from here")
                return 130
            finally:
                signal.signal(signal.SIGTERM, before)
        again = [word for word in argv if word.replace("_", "-") != "--report-only"]
        page, summary = write_report(
            load(plan),
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
