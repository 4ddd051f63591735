"""A training YAML and its command line, put together and checked.

HyperPyYAML accepts any key, and SpeechBrain's argument parser swallows abbreviations;
both turn a misspelling into hours of the wrong training. Here every key must be one
that something uses.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import ruamel.yaml
from hyperpyyaml import load_hyperpyyaml, resolve_references
from speechbrain.utils import seed_everything
from speechbrain.utils.run_opts import RunOptions

from sb_margins.data.evaluation import named_folders
from sb_margins.encoder import ENCODER_MODULES
from sb_margins.errors import UserError, nearest
from sb_margins.select import hparams_dir
from sb_margins.training.process import backend_flags
from sb_margins.training.settings import TrainingSettings

# What the YAML builds, besides the settings.
REQUIRED = (*ENCODER_MODULES, "head", "opt_class")
OPTIONAL = (
    "accumulation",
    "epoch_counter",
    "loss_schedules",
    "lr_annealing",
    "modules",
    "train_loggers",
    "wav_augment",
)
# Settings that only an object of the YAML can put to use, by referring to them.
FOR_OBJECTS = {"margin", "scale", "delta", "curvature", "loss_options"}
FOR_OBJECTS |= {"margin_end_epoch"}
OPTIONS = set(RunOptions().as_dict())
REFERENCE = re.compile(r"<\s*([A-Za-z_]\w*)")
# Settings that are true or false: --skip-bad, --no-skip-bad.
SWITCHES = {
    name
    for name, kind in get_type_hints(TrainingSettings).items()
    if bool in (kind, *get_args(kind))
}
KNOWN = {field.name for field in fields(TrainingSettings)}.union(REQUIRED, OPTIONAL)


@dataclass
class TrainingConfig:
    """One run: a YAML with its base and encoder put in, and what the flags change.

    ``path`` is the YAML that was named, ``text`` all of it as one YAML, ``plain`` the
    values of its top-level keys that are no objects, ``settings`` those that our code
    reads, ``run_opts`` SpeechBrain's run options.
    """

    path: Path
    text: str
    overrides: dict[str, Any]
    run_opts: Any
    plain: dict[str, Any]
    settings: TrainingSettings

    def build(self, **derived: Any) -> dict[str, Any]:
        """Every key of the YAML, objects built from the seed.

        ``derived`` are keys whose values are only known now (class count, steps).
        """
        overrides = {**self.overrides, **derived}
        seed_everything(self.settings.seed, verbose=False)
        with _explained(self.path):
            built = load_hyperpyyaml(
                _stream(self.text, self.path), overrides, overrides_must_match=False
            )
        names = (*ENCODER_MODULES, "head")
        built.setdefault("modules", {name: built[name] for name in names})
        return built

    def resolve(self, **derived: Any) -> str:
        """All of it as one YAML, references replaced by values."""
        return _resolve(self.text, self.path, {**self.overrides, **derived})

    def recorded(self) -> dict[str, Any]:
        """The numbers, texts and plain lists that ``run.json`` keeps."""
        kept = {}
        for key, value in self.plain.items():
            parts = value if isinstance(value, list) else [value]
            simple = not any(isinstance(v, (dict, list)) for v in parts)
            wanted = (simple and key[:2] != "__") or key == "corpus_options"
            if value is not None and wanted:
                kept[key] = value
        return kept


def read_config(
    argv: list[str], model: Mapping[str, Any] | None = None
) -> TrainingConfig:
    """Read ``FILE [--key value | --key=value ...]`` as ``sb-margins train`` takes it.

    FILE is a path, or the name of a shipped YAML. Flags are keys of the YAML, settings,
    or SpeechBrain's run options. ``model`` has the keys of an encoder's YAML, and its
    features: those of a model, which neither FILE nor flags may change.
    """
    if not argv or argv[0].startswith("-"):
        raise UserError("name a training YAML first, e.g. hparams/train_ecapa.yaml")
    path = _find(argv[0], Path())
    if path is None:
        raise UserError(f"no such file: {argv[0]}. The training YAMLs are in hparams/")
    flags, rest = _split_flags(argv[1:])
    if model is not None:
        _refuse_features(flags, "the command line")
    tree = compose(path, flags.pop("encoder", None), model)
    known = KNOWN.union(OPTIONS, tree)
    strange = [f"--{f}.{nearest(f, known)}" for f in flags if f not in known]
    if strange:
        raise UserError(
            f"neither a key of {path.name} nor a run option of SpeechBrain: "
            + "\n  ".join(strange)
        )
    if "distributed_backend" not in flags:
        rest += backend_flags()
    _, run_opts, unknown = RunOptions.from_command_line_args([argv[0], *rest])
    if unknown.strip():
        raise UserError(f"what is meant by '{unknown.strip()}'? Flags begin with --")
    _check_keys(tree, path)
    text = _dump(tree)
    overrides = {k: v for k, v in flags.items() if k in tree or k not in OPTIONS}
    resolved = _load(_resolve(text, path, overrides), path)
    plain = {str(k): None if _tagged(v) else _plain(v) for k, v in resolved.items()}
    settings = TrainingSettings.read(plain)
    if not settings.data_folder:
        raise UserError(f"give --data-folder: {path.name} leaves it open")
    return TrainingConfig(path, text, overrides, run_opts, plain, settings)


def compose(
    path: Path, encoder: str | None = None, model: Mapping[str, Any] | None = None
) -> Any:
    """The tree of a YAML with its base and its encoder put in.

    A YAML with the key ``base`` replaces values of another, by its path. The encoder
    (``encoder:``, or the argument) is a YAML whose keys are inserted after that line;
    they replace keys of the base. Keys that belong to an encoder which was replaced by
    another are dropped; those under ``for_encoder: {NAME: {...}}`` count for that one
    only. A YAML with an ``embedding_model`` of its own is complete. ``model`` takes
    the encoder's place (see `read_config`).
    """
    layers = [(path, _load(path.read_text(encoding="utf-8"), path))]
    while "base" in layers[0][1]:
        above, tree = layers[0]
        named = str(tree.pop("base"))
        base = _find(named, above.parent)
        if base is None:
            raise UserError(f"{above}: its base {named} does not exist")
        if any(base.samefile(other) for other, _ in layers):
            raise UserError(f"{above}: its base {base} is based on it again")
        layers.insert(0, (base, _load(base.read_text(encoding="utf-8"), base)))
    root_path, tree = layers.pop(0)
    if model is not None:
        for layer_path, layer in [(root_path, _changed(tree)), *layers]:
            _refuse_features(layer, str(layer_path))
        encoder = str(model["encoder"])
    if encoder is not None:
        layers.append((Path(), {"encoder": encoder}))
    current = None if "embedding_model" in tree else tree.get("encoder")
    folder, written_for = root_path.parent, []
    for layer_path, layer in layers:
        if "encoder" in layer:
            current, folder = layer["encoder"], layer_path.parent
        written_for.append((current, folder))
    parts: Any = {}
    if current:
        parts = model or _encoder(current, folder)
    used = set(tree) - set(_unused(tree))
    changes: dict[str, Any] = {}
    for (layer_path, layer), (name, near) in zip(layers, written_for, strict=True):
        foreign = _encoder(name, near) if name not in (None, current) else {}
        specific = _for_encoder(layer, current, layer_path)
        changes.update({k: v for k, v in layer.items() if k not in foreign})
        changes.update(specific)
    if current:
        tree["encoder"] = changes["encoder"] = Path(current).stem
        parts = {key: value for key, value in parts.items() if key != "encoder"}
        for key in parts:
            tree.pop(key, None)
        place = list(tree).index("encoder") + 1
        for shift, (key, value) in enumerate(parts.items()):
            tree.insert(place + shift, key, value)
    for key in ("out_n_neurons", "steps_per_epoch"):  # counted; may be referred to
        tree.setdefault(key, None)
    known = KNOWN.union(OPTIONS, tree)
    strange = [f"{key}.{nearest(key, known)}" for key in changes if key not in known]
    if strange:
        raise UserError(
            f"{path}: these are no keys of {root_path.name} or its encoder; correct "
            "them or delete their lines:\n  " + "\n  ".join(strange)
        )
    for key, value in changes.items():
        if isinstance(value, Mapping) and not _tagged(value) and tree.get(key):
            tree[key].update(value)
        else:
            tree[key] = value
    # Settings of the base whose object was replaced go with it.
    while gone := used.intersection(_unused(tree)).difference(changes):
        for key in gone:
            del tree[key]
    return tree


def _refuse_features(keys: Iterable[str], where: str) -> None:
    """Refuse keys of features and encoders where these are a model's."""
    encoders = [_load(p.read_text("utf-8"), p) for p in _shipped_encoders().values()]
    reserved = {*ENCODER_MODULES, "encoder", "n_mels", "sample_rate"}.union(*encoders)
    named = sorted(reserved.intersection(keys))
    if named:
        raise UserError(
            f"features and encoder are the model's: leave {', '.join(named)} out of "
            f"{where}"
        )


def _changed(tree: Mapping[str, Any]) -> list[str]:
    """The keys of a YAML that are not so in ours."""
    path = hparams_dir() / "train.yaml"
    ours = _load(path.read_text(encoding="utf-8"), path)
    return [k for k in tree if _dump({k: tree[k]}) != _dump({k: ours.get(k)})]


def _find(name: str, folder: Path) -> Path | None:
    """A YAML by its path, or one of ours by its name, with or without ``hparams/``."""
    ours = hparams_dir() / Path(name).name
    shipped = Path(name).parent in (Path(), Path("hparams"))
    for path in (folder / name, *[ours] * shipped):
        if path.is_file():
            return path
    return None


def _shipped_encoders() -> dict[str, Path]:
    return {p.stem: p for p in (hparams_dir() / "encoders").glob("*.yaml")}


def _for_encoder(layer: Any, encoder: str | None, path: Path) -> Mapping[str, Any]:
    """Take ``for_encoder`` out of a layer; what it says for this encoder."""
    by_name = layer.pop("for_encoder", {})
    chosen = Path(encoder).stem if encoder else ""
    known = {*_shipped_encoders(), chosen}
    for name in by_name:
        if name not in known:
            raise UserError(
                f"{path}: no encoder '{name}' (for_encoder).{nearest(name, known)}"
            )
    return by_name.get(chosen) or {}


def _encoder(name: str, folder: Path) -> Any:
    """The keys of an encoder's YAML: one of ours by name, another by its path."""
    ours = _shipped_encoders()
    file = ours.get(str(name))
    if file is None:
        file = next((p for p in (folder / name, Path(name)) if p.is_file()), None)
    if file is None:
        raise UserError(
            f"no encoder '{name}'.{nearest(str(name), ours)} There are: "
            f"{', '.join(sorted(ours))}; or give the path of a YAML like theirs"
        )
    parts = _load(file.read_text(encoding="utf-8"), file)
    for key in ("embedding_model", "emb_dim"):
        if key not in parts:
            raise UserError(f"the encoder {file} lacks the key '{key}'")
    return parts


def _split_flags(words: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Flags with their values (the last one counts), and SpeechBrain's run options.

    A run option that has a value may be a key of the YAML too, so it is in both.
    """
    yaml = ruamel.yaml.YAML(typ="safe")
    values: dict[str, Any] = {}
    rest: list[str] = []
    remaining = list(words)
    while remaining:
        word = remaining.pop(0)
        flag, equals, text = word.removeprefix("--").partition("=")
        flag = flag.replace("-", "_")
        if not word.startswith("--"):
            rest.append(word)
            continue
        followed = bool(remaining) and not remaining[0].startswith("--")
        switch = flag.removeprefix("no_")
        if not equals and switch in SWITCHES and not (followed and switch == flag):
            values[switch] = switch == flag
            continue
        if not equals and flag in OPTIONS and not followed:
            rest.append(f"--{flag}")  # such as --noprogressbar
            continue
        if not equals and not followed:
            raise UserError(f"--{flag} needs a value")
        if flag == "eval":  # any number of words and times; empty: none
            named = [text] if equals else []
            while not equals and remaining and not remaining[0].startswith("--"):
                named.append(remaining.pop(0))
            before = values.get(flag) or {}
            values[flag] = {**before, **named_folders(named)} if named != [""] else None
            continue
        value = text if equals else remaining.pop(0)
        try:
            values[flag] = yaml.load(value)
        except ruamel.yaml.YAMLError:
            values[flag] = value
        if flag in OPTIONS:
            rest.append(f"--{flag}={value}")
    return values, rest


def _in_use(tree: Mapping[str, Any]) -> set[str]:
    """The keys that something reads or the YAML refers to."""
    return (KNOWN - FOR_OBJECTS).union(OPTIONS, REFERENCE.findall(_dump(tree)))


def _unused(tree: Mapping[str, Any]) -> list[str]:
    return sorted(k for k in set(tree) - _in_use(tree) if not k.startswith("__"))


def _check_keys(tree: Mapping[str, Any], path: Path) -> None:
    """Refuse keys that nothing reads: a misspelling is silent otherwise."""
    unused, names = _unused(tree), _in_use(tree).difference(tree)
    missing = [key for key in REQUIRED if key not in tree]
    problems = []
    if unused:
        problems.append("nothing uses these keys; correct them or delete their lines:")
        problems += [f"  {key}.{nearest(key, names)}" for key in unused]
    if missing:
        problems.append(
            f"missing: {', '.join(missing)} (compare with hparams/train.yaml; "
            "'encoder: ecapa' brings an embedding_model)"
        )
    if problems:
        raise UserError(f"{path}: " + "\n".join(problems))


def _load(text: str, path: Path) -> Any:
    """The nodes of a YAML; no object is built."""
    try:
        tree = ruamel.yaml.YAML(typ="rt").load(text)
    except ruamel.yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path} should be a mapping of keys to values")
    return tree


def _dump(tree: Any) -> str:
    yaml = ruamel.yaml.YAML(typ="rt")
    yaml.width = 4096
    stream = io.StringIO()
    yaml.dump(tree, stream)
    return stream.getvalue()


def _stream(text: str, path: Path) -> io.StringIO:
    """A YAML's text; HyperPyYAML looks for ``!include:`` beside its ``name``."""
    stream = io.StringIO(text)
    stream.name = str(path)  # type: ignore[attr-defined]
    return stream


def _resolve(text: str, path: Path, overrides: Mapping[str, Any]) -> str:
    with _explained(path):
        return resolve_references(_stream(text, path), dict(overrides)).getvalue()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn HyperPyYAML's errors into a UserError that names the file."""
    try:
        yield
    except UserError:
        raise
    except (TypeError, ValueError, KeyError, ImportError, FileNotFoundError) as error:
        text = " ".join(str(part) for part in error.args)
        if "PLACEHOLDER" in text:
            name = text.split("'")[1]
            name = name.replace("_", "-")
            raise UserError(f"give --{name}: {path.name} leaves it open") from error
        if isinstance(error, ImportError):
            text += " (is the name right, and its package installed?)"
        raise UserError(f"{path}: {text}") from error


def _tagged(value: Any) -> bool:
    tag = getattr(getattr(value, "tag", None), "value", None)
    return str(tag or "").startswith("!")


def _plain(value: Any) -> Any:
    """A node without ruamel's own types."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value
