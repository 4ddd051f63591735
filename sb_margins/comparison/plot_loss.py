"""``sb-margins plot-loss``: losses and their gradients, seen instead of read."""

from __future__ import annotations

import argparse
from pathlib import Path

from sb_margins.comparison.variants import parse_variants
from sb_margins.errors import UserError
from sb_margins.plots.loss_curves import (
    MOST_CURVES,
    describe_nontargets,
    loss_curve,
    parse_nontargets,
    plot_losses,
)


def parser() -> argparse.ArgumentParser:
    """The flags of the command.

    Example
    -------
    >>> parser().parse_args(["am"]).output
    'loss.png'
    """
    flags = argparse.ArgumentParser(
        prog="sb-margins plot-loss",
        description="Draw loss and gradient against the target's cosine.",
        epilog="e.g. sb-margins plot-loss am,real_am,ham "
        "--set real_am.satisfied=zero,clamp,drop --set ham.curvature=3",
        allow_abbrev=False,
    )
    flags.add_argument("losses", help="names, separated by commas: sb-margins losses")
    flags.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="LOSS.SETTING=VALUE,...",
        help="values of a setting; each makes a curve",
    )
    flags.add_argument(
        "--nontargets",
        default="0.3,0.1x10,0x100",
        help="cosines of the other classes, COSINE or COSINExCOUNT; "
        "default: %(default)s",
    )
    flags.add_argument("--output", default="loss.png", help="default: %(default)s")
    return flags


def main(argv: list[str]) -> int:
    """Draw the picture.

    Arguments
    ---------
    argv : list of str

    Returns
    -------
    int
        0.
    """
    args = parser().parse_args(argv)
    variants = parse_variants(args.losses, args.set)
    if len(variants) > MOST_CURVES:
        raise UserError(
            f"{len(variants)} curves cannot be told apart in one picture: draw at most "
            f"{MOST_CURVES}"
        )
    nontargets = parse_nontargets(args.nontargets)
    path = Path(args.output)
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UserError(f"--output {path}: the name should end in .png, .svg or .pdf")
    if not path.parent.is_dir():
        raise UserError(f"--output {path}: no such folder {path.parent}")
    curves = {v.label: loss_curve(v.head(), nontargets) for v in variants}
    told = describe_nontargets(nontargets)
    plot_losses(
        curves, path, nontargets=nontargets, title=f"other classes: {told} (dotted)"
    )
    print(f"wrote {path}: {len(curves)} losses, other classes: {told}")
    balls = [v.label for v in variants if v.head().classifier.geometry != "cosine"]
    if balls:
        print(
            f"  {'; '.join(balls)}: scored by angle; points at the edge of the ball "
            "(textbook ball: tangent length clip_norm or 1), linear logits with "
            "norms of product 30"
        )
    return 0
