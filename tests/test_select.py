"""Heads by name."""

import shutil

import pytest
import torch

from sb_margins import cli, select
from sb_margins.errors import UserError

NAMES = select.names()


def test_every_yaml_is_there():
    expected = {"softmax", "norm_softmax", "am", "aam", "real_am", "as", "h", "ham"}
    assert expected | {"joint", "real_am_poincare", "as_poincare"} <= set(NAMES)
    baselines = {"metric", "angular_prototypical", "ge2e", "centre"}
    assert baselines | {"sphereface2", "multi_label_as"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_builds_and_learns_a_step(name):
    head = select.head(name, input_size=8, out_neurons=5)
    x = torch.randn(6, 1, 8, requires_grad=True)
    loss = head(x, torch.tensor([0, 4, 2] * 2)[:, None])
    loss.backward()
    assert torch.isfinite(loss) and head.correct.dtype == torch.bool
    for weight in head.parameters():
        assert weight.shape in ((5, 8), (5,), ())
        assert weight.grad is not None


@pytest.mark.parametrize("name", NAMES)
def test_settings_reach_the_head(name):
    found = select.settings(name)
    for key in ("margin", "scale", "delta"):
        if key in found:
            head = select.head(name, 8, 5, **{key: 0.37})
            assert getattr(head.loss, key) == 0.37
    if "curvature" in found:
        head = select.head(name, 8, 5, curvature=2.5)
        assert "curvature=2.5" in repr(head)
    if "sub_centers" in found:
        head = select.head(name, 8, 5, sub_centers=2)
        assert head.classifier.weight.shape == (10, 8)


def test_textbook_ball_by_settings():
    head = select.head("ham", 8, 5, curvature=0.5, metric="curvature", learnable=True)
    head(torch.randn(4, 8), torch.arange(4)).backward()
    assert head.classifier.log_curvature.grad.abs() > 0


def test_unknown_names_are_told_with_the_nearest():
    with pytest.raises(UserError, match="no loss 'aamm'. Did you mean 'aam'"):
        select.head("aamm", 8, 5)
    with pytest.raises(UserError, match="'softmax' has no setting 'margin'"):
        select.head("softmax", 8, 5, margin=0.2)
    with pytest.raises(UserError, match="Did you mean 'satisfied'"):
        select.head("real_am", 8, 5, satisfid="drop")
    with pytest.raises(UserError, match="margin=0.2, scale=30.0"):
        select.head("ham", 8, 5, delta=0.1)


@pytest.mark.parametrize("name", NAMES)
def test_keys_are_no_prefix_of_a_run_option(name):
    """SpeechBrain's parser would swallow such an override without a word."""
    core = pytest.importorskip("speechbrain.core")
    import dataclasses

    options = [field.name for field in dataclasses.fields(core.RunOptions)]
    for key in select.scalars(name):
        assert not [o for o in options if o.startswith(key)], key


@pytest.mark.parametrize("name", NAMES)
def test_usable_from_another_yaml(name, tmp_path):
    """As `!apply:` of the selector, and included as classifier and compute_cost."""
    from hyperpyyaml import load_hyperpyyaml

    text = f"""
loss: {name}
emb_dim: 8
out_n_neurons: 5
margin: null
head: !apply:sb_margins.select.head
    loss: !ref <loss>
    input_size: !ref <emb_dim>
    out_neurons: !ref <out_n_neurons>
    margin: !ref <margin>
parts: !include:{name}.yaml
    input_size: !ref <emb_dim>
    out_neurons: !ref <out_n_neurons>
classifier: !ref <parts[classifier]>
compute_cost: !ref <parts[compute_cost]>
"""
    shutil.copy(select.hparams_dir() / f"losses/{name}.yaml", tmp_path)
    path = tmp_path / "train.yaml"
    path.write_text(text)
    with open(path) as stream:
        made = load_hyperpyyaml(stream)
    x, labels = torch.randn(4, 1, 8), torch.tensor([[1], [1], [3], [3]])
    assert made["head"](x, labels).dim() == 0
    if name in ("angular_prototypical", "ge2e"):
        with pytest.raises(UserError, match="no scores without labels"):
            made["head"](x)
        return
    assert made["head"](x).shape[-1] == (8 if name == "metric" else 5)
    loss = made["compute_cost"](made["classifier"](x), labels, torch.ones(4))
    assert loss.dim() == 0 and torch.isfinite(loss)


def test_the_list(capsys):
    assert cli.main(["losses"]) == 0
    shown = capsys.readouterr().out
    for name in NAMES:
        assert name in shown
    assert "settings: margin=0.2, scale=30.0" in shown and "arXiv 2601.19709" in shown
    assert cli.main(["losses", "hamm"]) == 2
    assert "Did you mean 'ham'" in capsys.readouterr().err


def test_hparams_as_package_data(tmp_path, monkeypatch):
    package = tmp_path / "site" / "sb_margins"
    (package / "hparams" / "losses").mkdir(parents=True)
    monkeypatch.setattr(select, "__file__", str(package / "select.py"))
    assert select.hparams_dir() == package / "hparams"
    (package / "hparams" / "losses").rmdir()
    with pytest.raises(UserError, match="no hparams folder"):
        select.hparams_dir()
