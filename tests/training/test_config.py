"""The YAML and the flags: what is refused, what is understood."""

from pathlib import Path

import pytest
import torch

from sb_margins.errors import UserError
from sb_margins.select import hparams_dir
from sb_margins.training.config import compose, read_config

ECAPA = hparams_dir() / "train_ecapa.yaml"
WHOLE = hparams_dir() / "train.yaml"


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
    for words in (["--loss"], ["--loss", "--lr=1"]):
        with pytest.raises(UserError, match="--loss needs a value"):
            read(*words)
    with pytest.raises(UserError, match="stray"):
        read("stray")


def test_unknown_flags_and_keys_are_told_together(tmp_path):
    with pytest.raises(UserError, match="(?s)--lrr.*'lr'.*--xx"):
        read("--lrr=1", "--xx", "2")
    child = tmp_path / "child.yaml"
    child.write_text(f"base: {ECAPA}\nverification_file: a\nchanels: 32\n")
    with pytest.raises(UserError, match="(?s)verification_file.*chanels"):
        read(path=child)


def test_switches_need_no_value():
    assert read("--skip-bad").settings.skip_bad and not read().settings.skip_bad
    assert read("--skip-bad", "True", "--lr=1").settings.skip_bad
    assert not read("--skip-bad", "--no-skip-bad").settings.skip_bad
    assert read("--no-preload").settings.preload is False


def test_shipped_files_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("train_ecapa.yaml", "hparams/train_ecapa.yaml"):
        assert read_config([name, "--data-folder=x"]).path == ECAPA
    copy = tmp_path / "mine.yaml"
    copy.write_text(ECAPA.read_text())
    assert read(path=copy).plain["loss"] == read().plain["loss"]
    with pytest.raises(UserError, match="no such file"):
        read_config(["elsewhere/train_ecapa.yaml"])


def test_open_placeholder_is_named():
    with pytest.raises(UserError, match="give --data-folder"):
        read_config([str(ECAPA)])


def test_missing_file_and_missing_name(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_config([str(tmp_path / "none.yaml")])
    with pytest.raises(UserError, match="name a training YAML"):
        read_config(["--loss=am"])


def edited(tmp_path: Path, old: str, new: str) -> Path:
    text = WHOLE.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "edited.yaml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("\nnumber_of_epochs:", "\nnumber_of_epoch:", "number_of_epoch"),
        ("\nskip_bad:", "\nskip_bda:", "skip_bda. Did you mean 'skip_bad'"),
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
    child.write_text("base: child.yaml\n")
    with pytest.raises(UserError, match="is based on it again"):
        read(path=child)
    child.write_text("base: nowhere.yaml\n")
    with pytest.raises(UserError, match="nowhere.yaml"):
        read(path=child)


def test_a_loss_block_written_out_replaces_the_selector(tmp_path):
    text = WHOLE.read_text(encoding="utf-8")
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
    with pytest.raises(UserError, match="nothing uses these keys") as refused:
        read(path=path)
    listed = str(refused.value).splitlines()[1:]
    gone = ("margin", "scale", "delta", "curvature", "loss_options")
    assert [line.split(".")[0].strip() for line in listed] == sorted(
        gone
    )  # all of them at once
    lines = path.read_text(encoding="utf-8").split("\n")
    kept = [line for line in lines if line.split(":")[0] not in gone]
    path.write_text("\n".join(kept), encoding="utf-8")
    built = read(path=path).build(out_n_neurons=3, steps_per_epoch=2)
    assert built["head"].loss.margin == 0.15


def text_of(name, **flags):
    words = [str(hparams_dir() / name), "--data_folder=x"]
    return read_config([*words, *(f"--{k}={v}" for k, v in flags.items())])


@pytest.mark.parametrize(
    "encoder, model, size",
    [
        ("ecapa", "ECAPA_TDNN.ECAPA_TDNN", 192),
        ("resnet34", "ResNet.ResNet", 256),
        ("resnet34_tsp", "resnet.ResNetTSP", 256),
        ("xvector", "Xvector.Xvector", 512),
    ],
)
def test_an_encoder_is_one_line_or_one_flag(encoder, model, size):
    by_file, by_flag = (
        text_of(f"train_{encoder}.yaml"),
        text_of("train.yaml", encoder=encoder),
    )
    assert by_file.resolve() == by_flag.resolve()
    assert model in by_flag.resolve() and by_flag.plain["emb_dim"] == size
    assert by_flag.settings.output_folder == f"results/{encoder}_aam/1986"
    assert by_flag.resolve().count("embedding_model: &id") == 1


def test_values_for_an_encoder_stay_with_it():
    assert text_of("demo.yaml").plain["channels"] == 64  # ECAPA's
    resnet = text_of("demo.yaml", encoder="resnet34")
    assert resnet.plain["channels"] == 32 and "attention_channels" not in resnet.plain
    assert resnet.plain["number_of_epochs"] == 6
    assert text_of("demo.yaml", encoder="resnet34", channels=8).plain["channels"] == 8
    with pytest.raises(UserError, match="attention_channels"):
        text_of("demo.yaml", encoder="resnet34", attention_channels=8)


def test_values_of_each_encoder_in_one_yaml(tmp_path):
    base, child = tmp_path / "base.yaml", tmp_path / "child.yaml"
    base.write_text(
        f"base: {WHOLE}\nlr: 0.1\nfor_encoder:\n  ecapa: {{channels: 512, lr: 0.3}}\n"
        "  resnet34_tsp: {channels: 16}\n"
    )
    child.write_text("base: base.yaml\nchannels: 96\nbatch_size: 7\n")

    def values(path, **flags):
        return [text_of(path, **flags).plain[k] for k in ("channels", "lr")]

    assert values(base) == [512, 0.3]
    assert values(base, encoder="resnet34_tsp") == [16, 0.1]
    assert values(base, encoder="xvector") == [256, 0.1]
    assert values(base, channels=5) == [5, 0.3]
    assert values(child) == [96, 0.3]  # written for ECAPA
    assert values(child, encoder="resnet34_tsp") == [16, 0.1]
    assert "for_encoder" not in text_of(child).resolve()
    base.write_text(f"base: {WHOLE}\nfor_encoder: {{ecpaa: {{channels: 5}}}}\n")
    with pytest.raises(UserError, match="no encoder 'ecpaa'.*Did you mean 'ecapa'"):
        values(base)


def test_an_encoder_of_ones_own_is_one_file(tmp_path):
    own = tmp_path / "tiny_net.yaml"
    own.write_text(
        "emb_dim: 7\nn_mels: 12\n"
        "embedding_model: !new:torch.nn.Linear\n"
        "    in_features: !ref <n_mels>\n    out_features: !ref <emb_dim>\n"
    )
    config = text_of("train.yaml", encoder=own)
    built = config.build(out_n_neurons=3, steps_per_epoch=2)
    assert built["embedding_model"].weight.shape == (7, 12)
    assert built["compute_features"].compute_fbanks.n_mels == 12  # its key, its value
    assert config.settings.output_folder == "results/tiny_net_aam/1986"
    child = tmp_path / "child.yaml"
    child.write_text(f"base: {WHOLE}\nencoder: tiny_net.yaml\n")
    assert text_of(child).resolve() == config.resolve()
    with pytest.raises(UserError, match="no encoder 'ecpaa'. Did you mean 'ecapa'"):
        text_of("train.yaml", encoder="ecpaa")
    own.write_text("emb_dim: 7\n")
    with pytest.raises(UserError, match="lacks the key 'embedding_model'"):
        text_of("train.yaml", encoder=own)


def test_a_resolved_yaml_is_complete_by_itself(tmp_path):
    config = text_of("train_ecapa.yaml", channels=8, loss="ham")
    counted = {"out_n_neurons": 3, "steps_per_epoch": 2}
    path = tmp_path / "hyperparams.yaml"
    path.write_text(config.resolve(**counted))
    tree = compose(path)
    assert tree["channels"] == 8 and tree["encoder"] == "ecapa"
    assert tree["embedding_model"]["channels"] == [8, 8, 8, 8, 24]
    assert tree["head"]["out_neurons"] == 3


def test_a_shipped_yaml_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_config(["demo.yaml"]).settings.corpus == "demo"


def test_dashes_and_underscores_are_alike():
    config = read("--batch-size=4", "--ckpt-interval-steps", "3", "--max-grad-norm=2")
    assert config.settings.batch_size == 4
    assert config.run_opts.ckpt_interval_steps == 3
    assert config.run_opts.max_grad_norm == 2


def test_a_child_may_replace_an_object(tmp_path):
    child = tmp_path / "child.yaml"
    child.write_text(
        f"base: {ECAPA}\n"
        "lr_annealing: !new:speechbrain.nnet.schedulers.LinearScheduler\n"
        "    initial_value: !ref <lr>\n    final_value: 0\n    epoch_count: 4\n"
        "corpus_options: {dev_share: 0.2}\n"
    )
    config = read("--corpus_options={test_share: 0.3}", path=child)
    built = config.build(out_n_neurons=3, steps_per_epoch=2)
    assert type(built["lr_annealing"]).__name__ == "LinearScheduler"
    assert config.settings.corpus_options == {"dev_share": 0.2, "test_share": 0.3}
    # What only the replaced object used goes with it, unless this file sets it.
    gone = {"final_lr_share", "warmup_epochs"}
    assert not gone & set(config.plain) and gone < set(read().plain)
    with child.open("a") as file:
        file.write("warmup_epochs: 2\nfinal_lr_share: 0.1\n")
    with pytest.raises(UserError, match="final_lr_share.\n  warmup_epochs"):
        read(path=child)


def test_what_used_a_dropped_key_alone_is_dropped_too(tmp_path):
    base, child = tmp_path / "base.yaml", tmp_path / "child.yaml"
    base.write_text(FEWEST.replace("lr: 0.1", "lr: !ref <lr>") + "rate: 1\n" + LR)
    child.write_text("base: base.yaml\nopt_class: !name:torch.optim.Adam\n")
    assert not {"lr", "rate"} & set(read(path=child).plain)
    assert read(path=base).plain["lr"] == 2
    base.write_text(base.read_text() + "raet: 1\n")  # what nothing ever used
    with pytest.raises(UserError, match="\n  raet."):
        read(path=base)
    with pytest.raises(UserError, match="  raet."):
        read(path=child)


FEWEST = """
emb_dim: 8
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: 12
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
embedding_model: !new:torch.nn.Linear
    in_features: 12
    out_features: !ref <emb_dim>
head: !apply:sb_margins.select.head
    loss: am
    input_size: !ref <emb_dim>
    out_neurons: !ref <out_n_neurons>
opt_class: !name:torch.optim.SGD
    lr: 0.1
"""
LR = "lr: !ref <rate> * 2\n"


def test_few_keys_are_mandatory(tmp_path):
    path = tmp_path / "few.yaml"
    path.write_text(FEWEST)
    config = read("--seed=3", path=path)
    built = config.build(out_n_neurons=3, steps_per_epoch=2)
    assert built["head"].classifier.out_neurons == 3 and len(built["modules"]) == 4
    again = config.build(out_n_neurons=3, steps_per_epoch=2)  # from the seed
    for name in ("embedding_model", "head"):
        first, second = (x[name].state_dict() for x in (built, again))
        assert all(torch.equal(first[key], second[key]) for key in first)
    assert config.settings.seed == 3 and config.settings.output_folder
    path.write_text(FEWEST.replace("opt_class", "optim").replace("head:", "haed:"))
    with pytest.raises(UserError, match="missing: head, opt_class") as refused:
        read(path=path)
    assert "haed" in str(refused.value) and "optim" in str(refused.value)
