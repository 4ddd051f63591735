"""The one reader of foreign YAML: HyperPyYAML's meaning, with references followed and
nothing imported or run.

Only what the wanted keys reach is looked at. The result is plain values and `Call`
objects ("make this class with these arguments"), which `safe_build` turns into modules
and `to_yaml` writes back. A tag or expression that is not handled here has no meaning.
"""

from __future__ import annotations

import ast
import copy
import io
import operator
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ruamel.yaml
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from sb_margins import files
from sb_margins.errors import UserError

MAX_BYTES = 256 * 1024
MAX_DEPTH = 40
MAX_VALUES = 50_000  # counted as if every reference and alias were written out
MAX_TEXT = 1000  # characters of a tuple, or of a value that references are put into

# Every torch.nn.Module subclass defined in these modules may be built. Their classes
# were read: none opens a file, socket or process, imports by name or evaluates text.
MODULES = frozenset(
    f"speechbrain.{name}"
    for name in (
        "lobes.features",
        "lobes.models.CRDNN",
        "lobes.models.ContextNet",
        "lobes.models.ECAPA_TDNN",
        "lobes.models.ResNet",
        "lobes.models.Xvector",
        "nnet.CNN",
        "nnet.RNN",
        "nnet.activations",
        "nnet.attention",
        "nnet.containers",
        "nnet.dropout",
        "nnet.embedding",
        "nnet.linear",
        "nnet.losses",
        "nnet.normalization",
        "nnet.pooling",
        "processing.features",
    )
) | {f"sb_margins.{name}" for name in ("classifiers", "resnet", "similarity")}
PRETRAINER = "speechbrain.utils.parameter_transfer.Pretrainer"
HEAD = "sb_margins.select.head"  # of our own training YAMLs; reads only our own files
SINGLE = {
    f"new:{PRETRAINER}",
    f"apply:{HEAD}",
    "new:speechbrain.dataio.encoder.CategoricalEncoder",
    "new:speechbrain.dataio.preprocess.AudioNormalizer",
}

_STANDARD = "tag:yaml.org,2002:"
_PLAIN = {
    _STANDARD + kind for kind in ("str", "int", "float", "bool", "null", "seq", "map")
}
_REFERENCE = re.compile(r"<[^<>]*>")
_TUPLE = re.compile(r"\(.*\)", re.DOTALL)
_OPERATORS: dict[type, Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}


@dataclass(eq=False)
class Call:
    """``!kind:name`` with its arguments; one object for each place in the file."""

    kind: str
    name: str
    args: list[Any] = field(default_factory=list)
    kwargs: dict[str, Any] = field(default_factory=dict)


class Refused(UserError):
    """Something that a safe load does not do, with the way out."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(
            f"refused: {what}. A model folder could run any program through its YAML, "
            "so only known network classes are built. If you trust whoever made this "
            "model, load it with trust=True (--trust)"
        )


def is_allowed(kind: str, name: str) -> bool:
    """Whether ``!kind:name`` may be built; nothing is imported.

    Example
    -------
    >>> is_allowed("new", "torch.nn.Linear"), is_allowed("new", "os.system")
    (True, False)
    """
    module, _, last = name.rpartition(".")
    if f"{kind}:{name}" in SINGLE:
        return True
    known = module in MODULES or module == "torch.nn"
    return kind in ("new", "name") and known and last.isidentifier() and last[0] != "_"


def _compose(text: str) -> Node:
    if len(text) > MAX_BYTES:
        raise UserError(f"refused: the YAML is longer than {MAX_BYTES // 1024} KiB")
    try:
        node = ruamel.yaml.YAML(typ="safe", pure=True).compose(text)
    except ruamel.yaml.error.YAMLError as error:
        raise UserError(f"the YAML cannot be read: {error}") from error
    except (RecursionError, ValueError, AssertionError, IndexError) as error:
        raise UserError("refused: the YAML is nested too deeply or broken") from error
    if node is None:
        raise UserError("the YAML is empty; get it again")
    return node


def _pairs(node: MappingNode) -> dict[Node, Node]:
    """Keys and values of a mapping whose keys are plain text, each there once."""
    seen = set()
    for key, _ in node.value:
        if str(key.tag) == _STANDARD + "merge":
            raise Refused("a merge key '<<'")
        if not isinstance(key, ScalarNode) or str(key.tag) not in _PLAIN:
            raise Refused(f"a key that is not plain text: {key.tag}")
        if key.value in seen:
            raise UserError(f"the key '{key.value}' is there twice, in the YAML")
        seen.add(key.value)
    return dict(node.value)


def _calculate(node: ast.AST) -> Any:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _calculate(node.left), _calculate(node.right)
        if isinstance(node.op, ast.Pow) and (abs(left) > 1e6 or abs(right) > 16):
            raise UserError(f"refused: a power as large as {left} ** {right}")
        return _OPERATORS[type(node.op)](left, right)
    raise SyntaxError("not arithmetic")


def _short(text: str) -> str:
    if len(text) > MAX_TEXT:
        raise UserError(f"refused: a reference or tuple of over {MAX_TEXT} characters")
    return text


def evaluate(text: str) -> Any:
    """A number when the text is arithmetic, else the text.

    >>> evaluate("2 * 6"), evaluate("80"), evaluate("save/model")
    (12, 80, 'save/model')
    """
    try:
        return _calculate(ast.parse(_short(text).strip(), mode="eval").body)
    except UserError:
        raise
    except (ZeroDivisionError, OverflowError) as error:
        raise UserError(f"the YAML's arithmetic '{text}' fails: {error}") from error
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return text


class _Reader:
    """Reads nodes to values, following references and counting as it goes."""

    def __init__(self, text: str, overrides: Mapping[str, Any]) -> None:
        root = _compose(text)
        if not isinstance(root, MappingNode) or str(root.tag) not in _PLAIN:
            raise UserError("the YAML is not a mapping of names to values")
        self.top = {key.value: node for key, node in _pairs(root).items()}
        unknown = sorted(set(overrides) - set(self.top))
        if unknown:
            raise UserError(f"the YAML has no {', '.join(unknown)} to override")
        self.overrides = overrides
        self.done: dict[int, tuple[Any, int]] = {}  # by node: its value, its size
        self.active: set[int] = set()
        self.count = 0
        self.scalars = ruamel.yaml.YAML(typ="safe", pure=True).constructor

    def key(self, name: str) -> Any:
        """The value of a top-level key."""
        if name in self.overrides:
            return self.overrides[name]
        return self.read(self.top[name])

    def read(self, node: Node) -> Any:
        """The value of a node."""
        value, size = self.done.get(id(node), (None, 1))
        self.count += size
        if self.count > MAX_VALUES:
            raise UserError(
                f"refused: the YAML unfolds to more than {MAX_VALUES} values through "
                "its references and aliases"
            )
        if id(node) in self.done:
            return value
        if id(node) in self.active:
            raise UserError("refused: references in the YAML form a circle")
        if len(self.active) > MAX_DEPTH:
            raise UserError(f"refused: the YAML is nested deeper than {MAX_DEPTH}")
        before = self.count - 1
        self.active.add(id(node))
        value = self._value(node)
        self.active.discard(id(node))
        self.done[id(node)] = value, self.count - before
        return value

    def _value(self, node: Node) -> Any:
        tag = str(node.tag)
        if tag in ("!ref", "!copy", "!tuple"):
            if not isinstance(node, ScalarNode):
                raise Refused(f"{tag} on something that is not text")
            if tag == "!tuple":
                return self._tuple(node.value)
            value = self._reference(node.value)
            return copy.deepcopy(value) if tag == "!copy" else value
        if tag == "!PLACEHOLDER":
            raise UserError("the YAML has a !PLACEHOLDER; override it with a value")
        if tag not in _PLAIN:
            return self._call(tag, node)
        if isinstance(node, SequenceNode):
            return [self.read(item) for item in node.value]
        if isinstance(node, MappingNode):
            return {self._scalar(k): self.read(v) for k, v in _pairs(node).items()}
        return self._scalar(node)

    def _call(self, tag: str, node: Node) -> Call:
        kind, _, name = tag.removeprefix("!").partition(":")
        if not tag.startswith("!") or not is_allowed(kind, name):
            raise Refused(tag.replace(_STANDARD, "!!"))
        call = Call(kind, name)
        if isinstance(node, MappingNode):
            call.kwargs = {k.value: self.read(v) for k, v in _pairs(node).items()}
        elif isinstance(node, SequenceNode):
            call.args = [self.read(item) for item in node.value]
        elif node.value:
            raise UserError(f"{tag} takes arguments as a list or a mapping")
        return call

    def _scalar(self, node: Any) -> Any:
        kind, text = str(node.tag).removeprefix(_STANDARD), node.value
        if kind == "str" and not node.style and _TUPLE.fullmatch(text):
            return self._tuple(text)
        if kind == "str":
            return text
        try:
            return getattr(self.scalars, f"construct_yaml_{kind}")(node)
        except (ValueError, KeyError) as error:
            raise UserError(f"the YAML value '{text[:50]}' is not a {kind}") from error

    def _tuple(self, text: str) -> tuple:
        items = _compose(f"[{_short(text)[1:-1]}]")
        if not isinstance(items, SequenceNode) or not all(
            isinstance(item, ScalarNode)
            and str(item.tag) in _PLAIN
            and not _TUPLE.fullmatch(item.value)
            for item in items.value
        ):
            raise Refused(f"the tuple {text[:50]}")
        return tuple(self._scalar(item) for item in items.value)

    def _reference(self, text: str) -> Any:
        if _REFERENCE.fullmatch(text):
            return self._referred(text)

        def word(match: re.Match) -> str:
            value = self._referred(match[0])
            if value is not None and not isinstance(value, (str, int, float)):
                raise Refused(f"'{match[0]}' inside text (it is not text or a number)")
            return _short(str(value))

        return evaluate(_REFERENCE.sub(word, text[:MAX_BYTES]))

    def _referred(self, reference: str) -> Any:
        path = reference.strip("<>")
        if "." in path:
            raise Refused(f"the attribute reference {reference}")
        first, *rest = (part.strip("]") for part in path.split("["))
        if first in self.overrides and not rest:
            return self.overrides[first]
        node: Any = self.top.get(first)
        for part in rest:
            pairs = _pairs(node) if isinstance(node, MappingNode) else {}
            node = next((v for k, v in pairs.items() if k.value == part), None)
        if node is None:
            raise UserError(f"the YAML refers to {reference}, which is not there")
        return self.read(node)


def read_hparams(
    text: str,
    names: Iterable[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The wanted top-level keys that are there, and those that they refer to; all keys
    when ``names`` is None."""
    overrides = dict(overrides or {})
    reader = _Reader(text, overrides)
    names = list(reader.top if names is None else names)
    try:
        values = {name: reader.key(name) for name in names if name in reader.top}
    except RecursionError as error:
        raise UserError("refused: the YAML's references are too deep") from error
    for name, node in reader.top.items():
        if id(node) in reader.done:
            values.setdefault(name, reader.done[id(node)][0])
    return {name: values[name] for name in reader.top if name in values}


def read_text(path: Path) -> str:
    """The text of a YAML file of acceptable length."""
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"refused: {path} is longer than {MAX_BYTES // 1024} KiB")
    return files.read_text(path)


def _represent(dumper: Any, value: Any) -> Node:
    if isinstance(value, tuple):
        text = ", ".join(str(item) for item in value)
        return dumper.represent_scalar("!tuple", f"({text})")
    if isinstance(value, str):
        style = "'" if _TUPLE.fullmatch(value) else None
        return dumper.represent_scalar(_STANDARD + "str", value, style=style)
    kind = "seq" if isinstance(value, list) else "map"
    tag, content = _STANDARD + kind, value
    if isinstance(value, Call):
        tag, content = f"!{value.kind}:{value.name}", value.kwargs or value.args
        if not content:
            return dumper.represent_scalar(tag, "")
    if isinstance(content, list):
        return dumper.represent_sequence(tag, content, flow_style=True)
    return dumper.represent_mapping(tag, content, flow_style=False)


class _Representer(ruamel.yaml.representer.SafeRepresenter):
    def ignore_aliases(self, data: Any) -> bool:
        return True


for _kind in (tuple, str, list, dict, Call):
    _Representer.add_representer(_kind, _represent)


def to_yaml(values: Mapping[str, Any]) -> str:
    """YAML text of values and calls, without references.

    Example
    -------
    >>> print(to_yaml({"x": [1, 2], "net": Call("new", "a.B", [], {"n": 4})}), end="")
    x: [1, 2]
    net: !new:a.B
      n: 4
    """
    yaml: Any = ruamel.yaml.YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.width = 88
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    yaml.allow_unicode = True
    out = io.StringIO()
    yaml.dump(dict(values), out)
    return out.getvalue()
