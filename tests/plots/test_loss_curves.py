"""sb-margins plot-loss: curves against hand computation, refusals."""

import math

import numpy as np
import pytest

from sb_margins import select
from sb_margins.cli import main as cli
from sb_margins.comparison.variants import parse_variants
from sb_margins.errors import UserError
from sb_margins.plots.loss_curves import (
    MOST_CURVES,
    Curve,
    line_style,
    loss_curve,
    plot_losses,
)

OTHERS = {0.3: 1, 0.0: 20}


def test_norm_softmax_is_the_formula():
    curve = loss_curve(select.head("norm_softmax", 2, 2), OTHERS, points=41)
    rest = math.exp(30 * 0.3) + 20
    expected = np.log1p(rest * np.exp(-30 * curve.cosine))
    assert np.allclose(curve.loss, expected, rtol=1e-9, atol=1e-12)
    share = rest / (rest + np.exp(30 * curve.cosine))
    assert np.allclose(curve.slope, 30 * share, rtol=1e-9, atol=1e-12)


OF_A_BATCH = ["angular_prototypical", "centre", "ge2e", "metric"]


@pytest.mark.parametrize("name", OF_A_BATCH)
def test_losses_without_a_curve_say_so(name):
    with pytest.raises(UserError, match="there is no curve to draw"):
        loss_curve(select.head(name, 2, 2), OTHERS)


@pytest.mark.parametrize("name", sorted(set(select.names()) - set(OF_A_BATCH)))
def test_every_loss_can_be_drawn_and_its_slope_is_its_derivative(name):
    curve = loss_curve(select.head(name, 2, 2), OTHERS, points=4001)
    assert np.isfinite(curve.loss).all() and np.isfinite(curve.slope).all()
    numeric = -np.gradient(curve.loss, curve.cosine)
    # Away from the ends and from where a class stops counting.
    smooth = np.abs(np.diff(numeric, prepend=numeric[0], append=numeric[-1]))
    smooth = np.maximum(smooth[1:], smooth[:-1]) < 0.3
    smooth &= np.abs(curve.cosine) < 0.95
    if name != "as" and not name.startswith("as_"):  # which are kept is a constant
        near = np.isclose(curve.slope, numeric, rtol=0.02, atol=0.05)
        assert near[smooth].mean() > 0.99


def test_three_forms_of_real_am_differ_as_told():
    forms = parse_variants(["real_am"], ["real_am.satisfied=zero,clamp,drop"])
    zero, clamp, drop = (loss_curve(v.head(), {0.0: 10}, 201) for v in forms)
    assert drop.loss[-1] == 0 and drop.slope[-1] == 0
    assert clamp.loss[-1] == pytest.approx(math.log(11))
    assert 0 < zero.loss[-1] < 1e-8


def test_twelve_curves_look_different():
    looks = [line_style(n, MOST_CURVES) for n in range(MOST_CURVES)]
    assert len({(look["color"], str(look["ls"])) for look in looks}) == MOST_CURVES
    widths = [look["lw"] for look in looks]
    assert widths == sorted(widths, reverse=True) and widths[-1] > 1


def test_command_draws(tmp_path, capsys):
    out = tmp_path / "loss.png"
    words = ["am,ham,softmax,joint", "--set", "ham.curvature=2,3", f"--output={out}"]
    assert cli(["plot-loss", *words]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "5 losses" in capsys.readouterr().out
    first = out.read_bytes()
    assert cli(["plot-loss", *words]) == 0
    assert out.read_bytes() == first


@pytest.mark.parametrize(
    "words, message",
    [
        (["hamm"], "Did you mean 'ham'"),
        (["am,am"], "named twice: am"),
        ([","], "There are:"),
        (["am", "--set", "am.marginn=1"], "Did you mean 'margin'"),
        (["am", "--set", "ham.margin=1"], "not among the losses"),
        (["am", "--set", "am.margin"], "LOSS.SETTING=VALUE"),
        (["am", "--set", "am.margin=much"], "is a number"),
        (["am", "--set", "am.margin=1,1"], "twice"),
        (["ham", "--set", "ham.curvature=0.5"], "curvature"),
        (["am", "--set", "am.scale=0"], "scale"),
        (["am", "--nontargets", "1.5"], "between -1 and 1"),
        (["am", "--nontargets", "0xmany"], "COSINExCOUNT"),
        (["am", "--output", "picture.jpeg"], ".png"),
        (["am", "--output", "/nowhere/at/all/loss.png"], "no such folder"),
        (["am", "--set", f"am.scale={','.join(map(str, range(8, 21)))}"], "told apart"),
    ],
)
def test_refusals(words, message, capsys):
    assert cli(["plot-loss", *words]) == 2
    assert message in capsys.readouterr().err


def test_no_curve_is_refused(tmp_path):
    with pytest.raises(ValueError, match="curves"):
        plot_losses({}, tmp_path / "x.png", nontargets={})
    x = np.linspace(-1, 1, 5)
    flat = {"zero": Curve(x, 0 * x, 0 * x)}
    plot_losses(flat, tmp_path / "x.png", nontargets={0.0: 1})
