"""The picture of a training: loss, accuracy, dev EER and geometry over epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"
# What the training crops look like to the classifier: legend, colour, line.
SCORES = {
    "target_score": ("to the own prototype", BLUE, "-"),
    "hardest_score": ("to the nearest other prototype", ORANGE, "--"),
}


def plot_training(
    rows: Sequence[Mapping[str, float]], path: str | Path, title: str = ""
) -> None:
    """Draw the training curves to a PNG.

    Arguments
    ---------
    rows : sequence of mappings
        One per epoch: ``epoch`` and any of ``loss``, ``accuracy``, ``EER``,
        ``margin``, ``target_score``, ``hardest_score`` (epoch 0 is the untrained
        network).
    path : str or Path
        The PNG file.
    title : str
        Heading.

    Example
    -------
    >>> path = getfixture("tmp_path") / "curve.png"
    >>> plot_training([{"epoch": 0, "EER": 0.4}, {"epoch": 1, "loss": 2.0}], path)
    >>> path.is_file()
    True
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    def column(name: str, first: int = 0) -> tuple[list[float], list[float]]:
        have = [r for r in rows if name in r and r["epoch"] >= first]
        return [r["epoch"] for r in have], [r[name] for r in have]

    scores = [name for name in SCORES if column(name)[0]]
    count = 3 if scores else 2
    fig, every = plt.subplots(
        1, count, figsize=(4.5 * count, 3.6), layout="constrained"
    )
    left, right = every[:2]
    left.plot(*column("loss"), color=BLUE, marker="o", ms=3)
    left.set(xlabel="epoch", ylabel="training loss (nats)")
    left.yaxis.label.set_color(BLUE)
    margins = column("margin", first=1)
    if margins[0] and max(margins[1]) > 0:
        side = left.twinx()
        side.plot(*margins, color=GREY, ls=":")
        side.set(ylabel="margin", ylim=(0, None))
        side.yaxis.label.set_color(GREY)
    left.set_ylim(bottom=0)

    right.plot(*column("EER"), color=ORANGE, marker="o", ms=3, label="dev EER")
    right.plot(
        *column("accuracy"),
        color=BLUE,
        marker="s",
        ms=3,
        ls="--",
        label="training accuracy",
    )
    epochs, eers = column("EER")
    if eers:
        best = min(range(len(eers)), key=eers.__getitem__)
        right.annotate(
            f"best {eers[best]:.1%}",
            (epochs[best], eers[best]),
            (0, 9),
            textcoords="offset points",
            ha="center",
            color=ORANGE,
            fontsize=8,
        )
    right.set(xlabel="epoch", ylabel="share of trials / of crops", ylim=(0, 1))
    right.yaxis.set_major_formatter(PercentFormatter(1.0))
    right.legend(frameon=False, fontsize=8)
    for name in scores:
        label, colour, dash = SCORES[name]
        every[2].plot(*column(name), dash, color=colour, marker="o", ms=3, label=label)
    if scores:
        every[2].set(xlabel="epoch", ylabel="cosine, or minus distance on a ball")
        every[2].legend(frameon=False, fontsize=8)
    for axes in every:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
    fig.suptitle(title, fontsize=10)
    fig.savefig(path, dpi=130)
    plt.close(fig)
