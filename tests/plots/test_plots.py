"""Every plot is written, whole and reproducibly, with what it should show."""

import numpy as np
import pytest

from sb_margins.errors import UserError
from sb_margins.plots import curves, det, histogram, maps, scores, style
from sb_margins.verification.metrics import threshold_at


@pytest.fixture
def drawn(monkeypatch):
    """The figures of what is drawn: (figure, axes) of each."""
    figures = []
    original = style.drawing

    from contextlib import contextmanager

    @contextmanager
    def noted(*args, **kwargs):
        with original(*args, **kwargs) as (figure, grid):
            figures.append((figure, grid))
            yield figure, grid

    for module in (style, curves, det, histogram):
        monkeypatch.setattr(module, "drawing", noted)
    return figures


@pytest.fixture(scope="module")
def scored():
    labels = np.r_[np.ones(400), np.zeros(4000)].astype(int)
    return np.random.default_rng(0).normal(size=4400) + 2.0 * labels, labels


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_det(tmp_path, drawn, scored):
    path = tmp_path / "det.png"
    det.plot_det({"test": scored, "same": scored}, path, title="both", p_target=0.05)
    first = path.read_bytes()
    det.plot_det({"test": scored, "same": scored}, path, title="both", p_target=0.05)
    assert first == path.read_bytes() and first.startswith(b"\x89PNG")
    figure, (axes,) = drawn[0]
    assert axes.get_title() == "both" and "%" in axes.get_xlabel()
    texts = legend(figure)
    assert texts[0].startswith("test: EER ") and "minDCF(0.05)" in texts[0]
    assert "fewer than 30 errors: uncertain" in texts
    thin, firm = (line.get_ydata() for line in axes.lines[:2])
    assert np.isfinite(thin).any() and np.isfinite(firm).any()


def test_det_curve_is_thick_where_it_rests_on_30_errors(scored):
    points = det.OperatingPoints.of(*scored)
    far, frr, firm = det.thinned(points)
    enough = (far * points.nontargets > 29.5) & (frr * points.targets > 29.5)
    assert (firm == enough).all() and firm.any() and not firm.all()


def test_det_of_many_trials_isthinned():
    rng = np.random.default_rng(1)
    labels = rng.random(30_000) < 0.3
    points = det.OperatingPoints.of(rng.normal(size=30_000) + labels, labels)
    far, frr, _ = det.thinned(points)
    assert len(far) < 4 * det.MOST_POINTS < len(points.misses)
    assert (np.diff(far) <= 0).all() and (np.diff(frr) >= 0).all()
    assert (far[0], frr[-1]) == (1, 1)


def test_det_ticks_keep_a_distance():
    ticks = det.tick_rates(0.002, 0.5)
    assert ticks == sorted(ticks) and all(0.002 <= t <= 0.5 for t in ticks)
    gaps = np.diff(det.probit(np.array(ticks)))
    assert len(ticks) > 4 and gaps.min() > 0.06 * np.ptp(
        det.probit(np.array([0.002, 0.5]))
    )


def test_det_needs_a_curve(tmp_path):
    with pytest.raises(UserError, match="at least one curve"):
        det.plot_det({}, tmp_path / "det.png")
    perfect = {"all right": ([1.0, 0.0], [1, 0])}
    det.plot_det(perfect, tmp_path / "det.png")


def test_histogram_shows_thresholds_in_and_outside(tmp_path, drawn, scored):
    thresholds = {"EER": 1.0, "far": 99.0}
    path = tmp_path / "scores.png"
    histogram.plot_histogram(*scored, path, thresholds=thresholds, unit="cosine (raw)")
    figure, (axes,) = drawn[0]
    assert (
        axes.get_xlabel() == "cosine (raw)"
        and "per unit of cosine)" in axes.get_ylabel()
    )
    assert legend(figure)[:2] == ["target (400 trials)", "non-target (4,000 trials)"]
    assert legend(figure)[2:] == ["EER: 1", "far: 99 (outside)"]
    assert len(axes.lines) == 1, "only the threshold inside is drawn"


def test_pictures_of_lists(tmp_path, drawn, scored):
    scores.plot_scores({}, tmp_path, "m")
    assert not any(tmp_path.iterdir())
    lists = {"dev": scored, "test": scored}
    scores.plot_scores(lists, tmp_path, "m", p_target=0.1, unit="cosine")
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {"det.png", "histogram_dev.png", "histogram_test.png"}
    titles = [axes.get_title() for _, (axes,) in drawn]
    assert titles == ["dev: m", "test: m", "Detection error trade-off: m"]
    assert drawn[0][1][0].get_xlabel() == "cosine"
    texts = legend(drawn[0][0])[2:]
    assert [text.partition(":")[0] for text in texts] == ["EER", "minDCF(0.1)"]
    assert scores.marked_thresholds(*scored, 0.1) == {
        "EER": threshold_at(*scored),
        "minDCF(0.1)": threshold_at(*scored, prior=0.1),
    }


def test_densities_have_area_one(tmp_path, drawn, scored):
    histogram.plot_histogram(*scored, tmp_path / "scores.png")
    _, (axes,) = drawn[0]
    for patch in axes.patches:
        heights, edges, _ = patch.get_data()
        assert (heights * np.diff(edges)).sum() == pytest.approx(1)


def test_score_bins_leave_out_outliers_of_each_class():
    edges = histogram.score_bins(np.array([0.8, 1.0]), np.zeros(1000), 2)
    assert edges.round(2).tolist() == [-0.03, 0.5, 1.03]
    assert histogram.score_bins(np.ones(3), np.ones(3), 4)[[0, -1]] == pytest.approx(
        [0.47, 1.53]
    )


def history(*eers):
    rows = [{"epoch": 0, "EER": 0.5}]
    return rows + [
        {"epoch": k, "EER": e, "accuracy": 0.9} for k, e in enumerate(eers, 1)
    ]


def test_training_of_one_run(tmp_path, drawn):
    rows = history(0.3, 0.1, 0.2)
    for row in rows[1:]:
        row |= {"loss": 2.0, "margin": 0.1 * row["epoch"], "target_score": 0.5}
    curves.plot_training(rows, tmp_path / "curve.png", "am")
    figure, grid = drawn[0]
    assert len(grid) == 3 and grid[2].get_xlabel() == "epoch"
    assert [text.get_text() for text in grid[1].texts] == ["best 10.0%"]
    assert grid[1].texts[0].xy == (2, 0.1)
    curves.plot_training(rows[:1], tmp_path / "curve.png")
    assert len(drawn[1][1]) == 2, "no scores, no panel"


EER_CURVE = curves.Curve("EER", "dev EER", factor=100)


def test_learning_has_a_band_over_seeds_and_the_baseline(tmp_path, drawn):
    systems = {"am": [history(0.3), history(0.1)], "ham": [history(0.2)]}
    path, unit = tmp_path / "learning.png", "dev EER (%)"
    curves.plot_learning(systems, path, [EER_CURVE], unit, baseline="am")
    _, grid = drawn[0]
    assert grid[0].lines[0].get_ydata() == pytest.approx([50, 20])
    assert len(grid[0].lines) == 1 and len(grid[1].lines) == 2
    assert grid[1].lines[1].get_ydata() == pytest.approx([50, 20])
    low, high = curves.bands(systems["am"], EER_CURVE)[2:]
    assert low == pytest.approx([50, 10]) and high == pytest.approx([50, 30])
    assert grid[0].get_ylabel() == "dev EER (%)" and grid[0].get_xlabel() == "epoch"
    assert grid[0].get_ylim() == pytest.approx((0, 52.5))


def test_curves_without_a_baseline_have_scales_of_their_own(tmp_path, drawn):
    systems = {"am": [history(0.3)], "ham": [history(0.1)]}
    both = [EER_CURVE, curves.Curve("accuracy", "acc", "red", "--", 10)]
    systems["ham"][0][0]["EER"] = 0.05
    curves.plot_learning(systems, tmp_path / "l.png", both, "share", full=1)
    figure, grid = drawn[0]
    assert [axes.get_ylim()[1] for axes in grid] == pytest.approx([52.5, 10.5])
    assert [line.get_ydata()[-1] for line in grid[1].lines] == pytest.approx([1, 10, 9])
    assert legend(figure) == ["dev EER", "acc", "the margin is full"]


def test_sweeps_have_intervals_and_a_level(tmp_path, drawn):
    line = curves.Sweep([5, 2, 3], [8.0, 9.0, 7.0], [6.0, 8.0, 5.0], [9.0, 11.0, 8.0])
    lists = {"dev": {"ham": line}, "test": {"ham": line}}
    levels = {"dev": {"am": 10.0}}
    curves.plot_sweep(lists, tmp_path / "s.png", "curvature", "EER (%)", levels)
    figure, grid = drawn[0]
    assert [axes.get_title() for axes in grid] == ["dev", "test"]
    bars = grid[0].containers[0]
    assert bars[0].get_xydata().tolist() == [[5, 8], [2, 9], [3, 7]]
    segments = [one[:, 1].tolist() for one in bars[2][0].get_segments()]
    assert segments == [[6, 9], [8, 11], [5, 8]]
    assert grid[0].get_xticks().tolist() == [2, 3, 5] and not overlapping(grid[0].xaxis)
    assert list(grid[0].lines[-1].get_ydata()) == [10, 10]
    assert legend(figure) == ["ham", "am"]


@pytest.mark.parametrize(
    "values, places",
    [
        ([0.9, 0.1, 0.5], [0.9, 0.1, 0.5]),
        ([0.1, 0.99, 0.995], [0, 1, 2]),  # too close for a scale
        (["zero", "drop", True], [0, 1, 2]),
    ],
)
def test_values_of_a_sweep_have_a_scale_or_stand_side_by_side(values, places):
    found, step = curves._places(values)
    assert [found[value] for value in values] == pytest.approx(places)
    assert step == pytest.approx(min(np.diff(sorted(places))))


def test_panels_have_titles_and_outer_labels(tmp_path):
    with style.panels(tmp_path / "p.png", list("abcd")) as (figure, grid):
        style.label_outer(grid, "x", "y")
        assert [axes.get_title() for axes in grid] == list("abcd")
        assert [axes.get_ylabel() for axes in grid] == ["y", "", "", "y"]
        assert [axes.get_xlabel() for axes in grid] == ["", "x", "x", "x"]
        assert sum(axes.get_visible() for axes in figure.axes) == 4
    with style.panels(tmp_path / "p.png", ["word " * 20]) as (_, grid):
        assert "\n" in grid[0].get_title()


def overlapping(axis):
    boxes = [text.get_window_extent() for text in axis.get_ticklabels()]
    return any(a.overlaps(b) for a, b in zip(boxes, boxes[1:], strict=False))


def test_maps_and_radii(tmp_path, drawn):
    places = np.array([[0.1, 0.2], [0.3, 0.1], [0.0, 0.0]])
    flat = maps.Map(places, ["a", "b", ""], 0.1)
    disc = maps.Map(places, ["a", "b", ""], 0.25, 0.5)
    maps.plot_maps({"am": flat, "ham": disc}, tmp_path / "maps.png")
    figure, grid = drawn[0]
    assert grid[0].get_title() == "am\nstress 10 %"
    assert (grid[0].get_xlabel(), grid[1].get_ylabel()) == (
        "angle (rad)",
        "disc coordinate",
    )
    assert [patch.get_radius() for patch in grid[1].patches] == [0.5, 1.0]
    assert "edge of the clipped ball" in legend(figure)
    assert not overlapping(grid[1].xaxis) and not overlapping(grid[1].yaxis)
    one = (np.ones(3), 0.001 * np.array([-14.0, 3.0, 22.0]), 0.123, 0.0001)
    maps.plot_radii({"ham": one}, tmp_path / "radii.png")
    assert "+0.12 (p < 0.001)" in drawn[1][1][0].get_title()
    assert not overlapping(drawn[1][1][0].xaxis)


@pytest.mark.parametrize("name", ["a.svg", "a.pdf"])
def test_vector_files_are_reproducible(tmp_path, name):
    files = []
    for _ in range(2):
        with style.drawing(tmp_path / name, 3, 2) as (_, (axes,)):
            axes.plot([0, 1], [1, 0])
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]


def test_nothing_is_left_when_drawing_fails(tmp_path):
    with (
        pytest.raises(RuntimeError, match="midway"),
        style.drawing(tmp_path / "a.png", 3, 2),
    ):
        raise RuntimeError("midway")
    assert not list(tmp_path.iterdir())


def test_importing_plots_does_not_import_matplotlib():
    import subprocess
    import sys

    code = "import sb_margins.plots.det, sb_margins.plots.maps, sb_margins.plots.curves"
    code += "; import sys; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
