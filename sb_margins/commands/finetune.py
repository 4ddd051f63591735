"""``sb-margins finetune MODEL --data-folder MINE``: a run that starts from a model."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import ruamel.yaml

from sb_margins.commands.train import train
from sb_margins.comparison.adaptation import (
    before_and_after,
    check_lists,
    print_report,
    write_report,
)
from sb_margins.encoder import constants_to
from sb_margins.errors import UserError
from sb_margins.inference.results import Pretrained, read_model
from sb_margins.inference.safe_yaml import to_yaml
from sb_margins.training.config import TrainingConfig, read_config
from sb_margins.training.evaluate import evaluate, score_lists
from sb_margins.training.process import in_group, leave_group, quiet
from sb_margins.training.run import Trained, lists_of
from sb_margins.training.settings import describe_settings

USAGE = """usage: sb-margins finetune MODEL [FILE] --data-folder MINE [--key value ...]

Adapt a model to your speakers; say on others of them whether that helped.
MODEL is a model folder, a name on the Hugging Face hub, or the results folder of a run
(SpeechBrain's too). Features and encoder are the model's. FILE is a training YAML with
`base: finetune.yaml` (default: that one); every key in it is a flag, as with train:
  --old-speakers FOLDER   the corpus that MODEL was trained on, where it is at hand: its
                          training speakers are trained on too. Also: a run on it
  --number-of-epochs 10   0: only the report, thresholds and calibration
  --lr 0.003              the head's; the encoder has --encoder-rate 0.1 times that,
  --freeze-steps 20       after so many updates without it
  --loss aam              which loss (default: aam, or ham for a model on the ball)
Of the epochs, and of MODEL as it is, the best on the dev speakers is kept. The output
folder is as train's, with before_after.md and before_after.json; the same command again
continues.

Settings of all training:
"""


def main(argv: list[str]) -> int:
    """0 when finished, 130 when interrupted (run again to continue)."""
    if not argv or {"-h", "--help"} & set(argv):
        print(USAGE + describe_settings())
        return 0
    quiet()
    if argv[0].startswith("-"):
        raise UserError("name a model first: sb-margins finetune MODEL --data-folder X")
    model = read_model(argv[0])
    config = adaptation(model, argv[1:])

    def finish(trained: Trained) -> None:
        report(trained, model)

    done = train(config, check_lists, finish)
    code = 130 if done is None else 0
    return leave_group(code) if in_group() else code


def adaptation(model: Pretrained, words: list[str]) -> TrainingConfig:
    """The run that adapts a model: a YAML and flags, features and encoder put in."""
    named = bool(words) and not words[0].startswith("--")
    words = words if named else ["finetune.yaml", *words]
    flags = {w.partition("=")[0].replace("_", "-") for w in words[1:]}
    if "--init-from" in flags:
        raise UserError("leave --init-from out: it is the model that is named first")
    words = [words[0], f"--init-from={model.source}", *words[1:]]
    similarity: dict[str, Any] = model.similarity.settings()
    if similarity["name"] == "poincare" and not named and "--loss" not in flags:
        options = {k: similarity[k] for k in ("metric", "clip_norm") if similarity[k]}
        words[1:1] = ["--loss=ham", f"--curvature={similarity['curvature']:.17g}"]
        words[1:1] = [f"--loss-options={options}"]
    encoder = type(model.encoder.embedding_model).__name__
    parts = {
        "encoder": encoder,
        "emb_dim": model.size,
        "sample_rate": model.encoder.sample_rate,
        "warnings": model.warnings,
        **model.blocks,
    }
    yaml = ruamel.yaml.YAML(typ="rt")
    config = read_config(words, yaml.load(io.StringIO(to_yaml(parts))))
    out = Path(config.settings.output_folder).resolve()
    if Path(model.source).resolve() in (out, out / "model"):
        raise UserError(
            f"--output-folder {config.settings.output_folder} is the model's own "
            "folder; choose another one"
        )
    return config


def report(trained: Trained, model: Pretrained) -> None:
    """Evaluate and export as every run does, then compare with the model before."""
    after = evaluate(trained, show=False)
    lists = lists_of(trained.settings, trained.prepared)
    encoder = model.encoder.to(trained.device)
    constants_to(encoder.compute_features, trained.device)
    before = score_lists(encoder, model.similarity, lists, trained.device)
    found = before_and_after(lists, before, after)
    write_report(found, model.source, trained.folder)
    print_report(found)
    print(f"adapted model in {trained.folder / 'model'}")
