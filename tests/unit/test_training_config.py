"""The YAML and the flags: what is refused, what is understood."""

from pathlib import Path

import pytest

from sb_margins.errors import UserError
from sb_margins.select import hparams_dir
from sb_margins.training.config import read_config

ECAPA = hparams_dir() / "train_ecapa.yaml"


def read(*flags: str, path: Path = ECAPA):
    return read_config([str(path), "--data_folder=x", *flags])


def test_flags_reach_nested_nodes():
    config = read("--loss=ham", "--channels", "32", "--margin=0.3")
    assert config.plain["loss"] == "ham"
    assert config.plain["last_channels"] == 96
    assert "channels: [32, 32, 32, 32, 96]" in config.resolve()
    assert "margin: 0.3" in config.resolve()


@pytest.mark.parametrize(
    "flag, guess",
    [
        ("--margn=3", "margin"),
        ("--prec=bf16", "precision"),
        ("--number_of_epoch=3", "number_of_epochs"),
        ("--Loss=ham", "loss"),
    ],
)
def test_unknown_and_abbreviated_flags(flag, guess):
    with pytest.raises(UserError, match=f"Did you mean .*'{guess}'"):
        read(flag)


def test_the_last_of_equal_flags_counts_and_values_are_yaml():
    config = read("--loss=am", "--loss", "ham", "--speeds=[1.0, 0.9]", "--lr=1e-3")
    assert config.plain["loss"] == "ham" and config.plain["lr"] == 1e-3
    assert config.plain["speeds"] == [1.0, 0.9]
    both = read("--ckpt_interval_minutes=0", "--device", "cpu")
    assert both.plain["ckpt_interval_minutes"] == 0
    assert both.run_opts.ckpt_interval_minutes == 0 and both.run_opts.device == "cpu"
    with pytest.raises(UserError, match="--loss needs a value"):
        read("--loss")
    with pytest.raises(UserError, match="stray"):
        read("stray")


def test_open_placeholder_is_named():
    with pytest.raises(UserError, match="give --data_folder"):
        read_config([str(ECAPA)])


def test_missing_file_and_missing_name(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_config([str(tmp_path / "none.yaml")])
    with pytest.raises(UserError, match="name a training YAML"):
        read_config(["--loss=am"])


def edited(tmp_path: Path, old: str, new: str) -> Path:
    text = ECAPA.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "edited.yaml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("\nnumber_of_epochs:", "\nnumber_of_epoch:", "number_of_epoch"),
        ("\nskip_bad:", "\nskip_bda:", "nothing uses the key 'skip_bda'.*skip_bad"),
        ("\nhead:", "\nhed:", "head"),
        ("loss: aam", "loss: aam\nloss: ham", "valid YAML"),
        ("<emb_dim>", "<emb_dime>", "emb_dime"),
    ],
)
def test_misspelt_keys_in_the_file(tmp_path, old, new, message):
    with pytest.raises(UserError, match=message):
        read(path=edited(tmp_path, old, new))


def test_wrong_class_or_argument_is_told(tmp_path):
    path = edited(tmp_path, "features.Fbank", "features.Fbnak")
    with pytest.raises(UserError, match="Fbnak"):
        read(path=path).build(out_n_neurons=3, steps_per_epoch=2)
    path = edited(tmp_path, "    n_mels: !ref", "    n_mel: !ref")
    with pytest.raises(UserError, match="n_mel"):
        read(path=path).build(out_n_neurons=3, steps_per_epoch=2)


def test_base_is_followed_and_checked(tmp_path):
    child = tmp_path / "child.yaml"
    child.write_text(f"base: {ECAPA}\nchannels: 32\noutput_folder: !ref r_<loss>\n")
    config = read("--loss=h", path=child)
    assert config.plain["output_folder"] == "r_h"
    assert config.plain["last_channels"] == 96
    child.write_text(f"base: {ECAPA}\nchanels: 32\n")
    with pytest.raises(UserError, match="'channels'"):
        read(path=child)
    child.write_text("base: nowhere.yaml\n")
    with pytest.raises(UserError, match="nowhere.yaml"):
        read(path=child)


def test_a_loss_block_written_out_replaces_the_selector(tmp_path):
    text = ECAPA.read_text(encoding="utf-8")
    start = text.index("head: !apply")
    end = text.index("modules:")
    block = """head: !new:sb_margins.Head
    classifier: !new:sb_margins.CosineClassifier
        input_size: !ref <emb_dim>
        out_neurons: !ref <out_n_neurons>
    loss: !new:sb_margins.AMSoftmax
        margin: 0.15

"""
    path = tmp_path / "own.yaml"
    path.write_text(text[:start] + block + text[end:], encoding="utf-8")
    # The selector's settings are then used by nothing, and that is said.
    with pytest.raises(UserError, match="nothing uses the key 'curvature'"):
        read(path=path)
    gone = ("margin", "scale", "delta", "curvature", "loss_options")
    lines = path.read_text(encoding="utf-8").split("\n")
    kept = [line for line in lines if line.split(":")[0] not in gone]
    path.write_text("\n".join(kept), encoding="utf-8")
    built = read(path=path).build(out_n_neurons=3, steps_per_epoch=2)
    assert built["head"].loss.margin == 0.15
