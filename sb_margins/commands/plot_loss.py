"""``sb-margins plot-loss``: losses and their gradients as curves."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from sb_margins.commands.options import Words, parse
from sb_margins.errors import UserError


@dataclass
class PlotLossSettings:
    """Draw losses and gradients against the target's cosine.

    sb-margins plot-loss am,real_am,ham --set real_am.satisfied=zero,clamp,drop
    """

    losses: Positional[Words]
    """Names of losses (sb-margins losses)."""
    set: Annotated[
        UseAppendAction[list[str]], arg(metavar="LOSS.SETTING=VALUE,...")
    ] = field(default_factory=list)
    """Values of a setting; each makes a curve."""
    nontargets: Words = field(default_factory=lambda: ["0.3", "0.1x10", "0x100"])
    """Cosines of the other classes, COSINE or COSINExCOUNT."""
    output: Path = Path("loss.png")
    """The plot: .png, .svg or .pdf."""


def main(argv: list[str]) -> int:
    """Draw the curves."""
    settings = parse(PlotLossSettings, argv, "plot-loss")
    from sb_margins.comparison.variants import parse_variants
    from sb_margins.plots.loss_curves import (
        describe_nontargets,
        loss_curve,
        parse_nontargets,
        plot_losses,
    )

    variants = parse_variants(settings.losses, settings.set)
    nontargets, path = parse_nontargets(settings.nontargets), settings.output
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UserError(f"--output {path}: the name should end in .png, .svg or .pdf")
    if not path.parent.is_dir():
        raise UserError(f"--output {path}: no such folder {path.parent}")
    heads = {variant.label: variant.head() for variant in variants}
    curves = {label: loss_curve(head, nontargets) for label, head in heads.items()}
    others = f"other classes: {describe_nontargets(nontargets)}"
    plot_losses(curves, path, nontargets=nontargets, title=f"{others} (dotted)")
    print(f"wrote {path}: {len(curves)} losses, {others}")
    cosine = ("cosine", "adjusted")
    balls = [k for k, head in heads.items() if head.classifier.geometry not in cosine]
    if balls:
        print(
            f"  {'; '.join(balls)}: scored by angle; points at the edge of the ball "
            "(textbook ball: tangent length clip_norm or 1), linear logits with "
            "norms of product 30"
        )
    return 0
