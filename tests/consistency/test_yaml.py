"""Every YAML parses, its keys reach their reader, and its references exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import ruamel.yaml
from speechbrain.utils.run_opts import RunOptions

from sb_margins.training.config import compose

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / "hparams" / "train.yaml"
YAMLS = sorted(
    [*(ROOT / "hparams").rglob("*.yaml"), *(ROOT / "recipes").rglob("*.yaml")]
)
# Run options that a YAML may set on purpose: the Brain takes them from there.
DELIBERATE = {
    "ckpt_interval_minutes",
    "device",
    "find_unused_parameters",
    "grad_accumulation_factor",
    "max_grad_norm",
    "precision",
    "skip_nonfinite_grads",
}


def identify(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def keys(path: Path) -> list[str]:
    tree = ruamel.yaml.YAML(typ="rt").load(path.read_text(encoding="utf-8"))
    return [str(key) for key in tree]


def test_there_are_yamls():
    assert len(YAMLS) > 10


@pytest.mark.parametrize("path", YAMLS, ids=identify)
def test_parses_and_is_documented(path):
    assert keys(path), "no keys (duplicates would have raised)"
    assert path.read_text(encoding="utf-8").lstrip().startswith("#"), "no header"


@pytest.mark.parametrize("path", YAMLS, ids=identify)
def test_no_key_is_swallowed_by_a_run_option(path):
    """SpeechBrain's parser takes --optimizer for --optimizer_step_limit, silently."""
    options = set(RunOptions().as_dict())
    if path.name == "verify.yaml":  # not read by that parser
        options.discard("eval_precision")
    for key in set(keys(path)) - options:
        assert not [option for option in options if option.startswith(key)], key
    assert set(keys(path)) & options <= DELIBERATE


@pytest.mark.parametrize("path", YAMLS, ids=identify)
def test_references_exist(path):
    text = re.sub(r"(^|\s)#.*", "", path.read_text(encoding="utf-8"))
    names = set(re.findall(r"<([A-Za-z_]\w*)", text))
    if path.parent.name == "encoders":  # a part of a training YAML
        known = set(compose(TRAIN, encoder=str(path)))
    else:
        known = set(compose(path))
    assert names <= known
