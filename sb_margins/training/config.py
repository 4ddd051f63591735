"""A training YAML and its command line: read, checked, resolved.

HyperPyYAML accepts any key, and SpeechBrain's argument parser swallows
abbreviations; both turn a misspelling into hours of the wrong training. Here every
key must be one that something uses.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ruamel.yaml
from hyperpyyaml import load_hyperpyyaml, resolve_references
from speechbrain.utils.run_opts import RunOptions

from sb_margins.errors import UserError, nearest

# Keys that our code reads by name, besides those that the YAML itself refers to.
READ_BY_US = {
    "accumulation",
    "average_checkpoints",
    "batch_size",
    "checkpointer",
    "compute_features",
    "corpus",
    "corpus_options",
    "corpus_seed",
    "crops_per_utterance",
    "data_folder",
    "embedding_model",
    "epoch_counter",
    "freeze_steps",
    "head",
    "init_from",
    "loss_schedules",
    "lr_annealing",
    "mean_var_norm",
    "modules",
    "num_workers",
    "number_of_epochs",
    "opt_class",
    "out_n_neurons",
    "output_folder",
    "preload",
    "sample_rate",
    "save_folder",
    "seed",
    "sentence_len",
    "skip_bad",
    "speeds",
    "steps_per_epoch",
    "train_loggers",
    "wav_augment",
}
REQUIRED = (
    "compute_features",
    "embedding_model",
    "head",
    "lr_annealing",
    "mean_var_norm",
    "modules",
    "opt_class",
)


def run_option_names() -> set[str]:
    """SpeechBrain's own options (``--device``, ``--precision``, ...).

    Example
    -------
    >>> "precision" in run_option_names()
    True
    """
    return set(RunOptions().as_dict())


def _tree(text: str, path: Path) -> dict[str, Any]:
    """The YAML's nodes, without building any object."""
    try:
        tree = ruamel.yaml.YAML(typ="rt").load(text)
    except ruamel.yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path} should be a mapping of keys to values")
    return tree


def _top_level(text: str, path: Path) -> dict[str, Any]:
    """Keys and untagged values (None in place of tagged ones)."""
    values: dict[str, Any] = {}
    for key, value in _tree(text, path).items():
        tag = getattr(getattr(value, "tag", None), "value", None)
        values[str(key)] = None if tag and tag.startswith("!") else _plain(value)
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


@dataclass
class TrainingConfig:
    """One training, as told by a YAML file and flags.

    Arguments
    ---------
    path : Path
        The YAML file that builds things.
    overrides : dict
        What flags, and files based on that one, changed.
    run_opts : RunOptions
        SpeechBrain's run options.
    plain : dict
        Top-level values that are plain (numbers, strings, lists, mappings).
    """

    path: Path
    overrides: dict[str, Any]
    run_opts: Any
    plain: dict[str, Any] = field(default_factory=dict)

    def build(self, **derived: Any) -> dict[str, Any]:
        """Build every object of the YAML.

        Arguments
        ---------
        **derived
            Keys whose values are only known now (class count, steps per epoch).

        Returns
        -------
        dict
            All keys of the YAML, objects built.

        Raises
        ------
        UserError
            When a class is missing or an argument is wrong, saying where.
        """
        try:
            with open(self.path, encoding="utf-8") as stream:
                return load_hyperpyyaml(stream, {**self.overrides, **derived})
        except UserError:
            raise
        except (TypeError, ValueError, KeyError, ImportError) as error:
            text = " ".join(str(part) for part in error.args)
            hint = ""
            if isinstance(error, ImportError):
                hint = " (is the name right, and its package installed?)"
            raise UserError(f"{self.path}: {text}{hint}") from error

    def resolve(self, **derived: Any) -> str:
        """The YAML's text with references replaced by values.

        Arguments
        ---------
        **derived
            As for ``build``.

        Returns
        -------
        str

        Raises
        ------
        UserError
            For a placeholder left open or a reference to nothing.
        """
        try:
            with open(self.path, encoding="utf-8") as stream:
                overrides = {**self.overrides, **derived}
                resolved: io.StringIO = resolve_references(stream, overrides)
        except (ValueError, KeyError, FileNotFoundError) as error:
            text = " ".join(str(part) for part in error.args)
            if "PLACEHOLDER" in text:
                name = text.split("'")[1]
                raise UserError(
                    f"give --{name}: {self.path.name} leaves it open"
                ) from error
            raise UserError(f"{self.path}: {text}") from error
        return resolved.getvalue()


def _split_flags(
    words: list[str], keys: set[str], options: set[str], name: str
) -> tuple[dict[str, Any], list[str]]:
    """Flags that are keys of the YAML (the last one counts), and the other words."""
    yaml = ruamel.yaml.YAML(typ="safe")
    values: dict[str, Any] = {}
    rest: list[str] = []
    left = iter(words)
    for word in left:
        flag, given, text = word.removeprefix("--").partition("=")
        if not word.startswith("--") or flag not in keys:
            if word.startswith("--") and flag not in options:
                raise UserError(
                    f"--{flag} is neither a key of {name} nor a run option of "
                    f"SpeechBrain.{nearest(flag, keys | options)}"
                )
            rest.append(word)
            continue
        value = text if given else next(left, None)
        if value is None:
            raise UserError(f"--{flag} needs a value")
        try:
            values[flag] = yaml.load(value)
        except ruamel.yaml.YAMLError:
            values[flag] = value
        if flag in options:
            rest.append(f"--{flag}={value}")
    return values, rest


def read_config(argv: list[str]) -> TrainingConfig:
    """Read ``FILE [--key value | --key=value ...]`` as ``sb-margins train`` takes it.

    Arguments
    ---------
    argv : list of str
        A YAML file, then flags: its own keys, or SpeechBrain's run options.

    Returns
    -------
    TrainingConfig

    Raises
    ------
    UserError
        No such file, an unknown or abbreviated flag, a key that nothing uses, a
        placeholder left open.

    Example
    -------
    >>> path = getfixture("tmp_path") / "t.yaml"
    >>> _ = path.write_text("seed: 1\\nlr: 0.1\\nopt: !ref <lr>\\nout: !ref x<opt>\\n")
    >>> read_config([str(path), "--lr=0.2"])
    Traceback (most recent call last):
    ...
    sb_margins.errors.UserError: ...nothing uses the key 'out'...
    """
    if not argv or argv[0].startswith("-"):
        raise UserError("name a training YAML first, e.g. hparams/train_ecapa.yaml")
    path = Path(argv[0])
    if not path.is_file():
        raise UserError(f"no such file: {path}. The training YAMLs are in hparams/")
    path, source, overrides = _follow_base(path)
    keys = set(_top_level(source, path))
    options = run_option_names()
    values, rest = _split_flags(argv[1:], keys, options, path.name)
    _, run_opts, unknown = RunOptions.from_command_line_args([argv[0], *rest])
    if unknown.strip():
        raise UserError(f"what is meant by '{unknown.strip()}'? Flags begin with --")
    overrides.update(values)
    _check_keys(source, keys, options, path)
    config = TrainingConfig(path, overrides, run_opts)
    config.plain = _top_level(config.resolve(), path)
    return config


def _follow_base(path: Path) -> tuple[Path, str, dict[str, Any]]:
    """The YAML that builds things, its text, and what files above it change.

    A file with the key ``base`` only changes values of another: demo.yaml is
    train_ecapa.yaml made small.
    """
    source = path.read_text(encoding="utf-8")
    changes = dict(_tree(source, path))
    if "base" not in changes:
        return path, source, {}
    base = path.parent / str(changes.pop("base"))
    if not base.is_file():
        raise UserError(f"{path}: its base {base} does not exist")
    root, text, below = _follow_base(base)
    keys = set(_top_level(text, root))
    for key in changes:
        if key not in keys:
            raise UserError(
                f"{path}: '{key}' is not a key of {root.name}.{nearest(key, keys)}"
            )
    return root, text, {**below, **changes}


def _check_keys(source: str, keys: set[str], options: set[str], path: Path) -> None:
    """Refuse keys that nothing reads: a misspelling is silent otherwise."""
    referred = set(re.findall(r"<\s*([A-Za-z_]\w*)", source))
    known = referred | READ_BY_US | options
    for key in sorted(keys):
        if key not in known and not key.startswith("__"):
            raise UserError(
                f"{path}: nothing uses the key '{key}'.{nearest(key, known - keys)}"
            )
    for key in REQUIRED:
        if key not in keys:
            raise UserError(
                f"{path}: the key '{key}' is missing.{nearest(key, keys)} "
                "Compare with hparams/train_ecapa.yaml"
            )
