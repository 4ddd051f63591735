"""HyperPyYAML, read with an allow-list: the same meaning, none of the reach.

This is an interpreter of its own rather than a filter in front of HyperPyYAML: what it
does not know how to do, a file cannot make it do.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ruamel.yaml
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from sb_margins.errors import UserError
from sb_margins.inference.allowed import PRETRAINER, locate, refusal
from sb_margins.inference.arithmetic import evaluate
from sb_margins.inference.budget import MemoryBudget
from sb_margins.inference.yaml_graph import (
    MAX_NODES,
    PLAIN_TAGS,
    STANDARD,
    TUPLE,
    check_graph,
    compose,
)

MAX_NUMBER = 1_000_000  # of a size given to a class
_REFERENCE = re.compile(r"<[^<>]*>")
_MISSING = object()


@dataclass
class LoadPlan:
    """What a YAML's ``Pretrainer`` would load; ours to carry out, or not.

    Arguments
    ---------
    loadables : dict
        Name to the object that takes the weights.
    paths : dict of str to str
        Name to a file, as written in the YAML.

    Example
    -------
    >>> LoadPlan({"embedding_model": None}).paths
    {}
    """

    loadables: dict[str, Any]
    paths: dict[str, str] = field(default_factory=dict)


class _Builder:
    """Builds the values of one checked graph."""

    def __init__(self, root: MappingNode, overrides: Mapping[str, Any]) -> None:
        self.root = root
        self.top = {key.value: value for key, value in root.value}
        self.overrides = overrides
        self.built: dict[int, Any] = {}
        self.open: set[int] = set()
        self.left = MAX_NODES
        self.scalars = ruamel.yaml.YAML(typ="safe", pure=True).constructor

    def build(self, node: Node) -> Any:
        if id(node) in self.built:
            return self.built[id(node)]
        if id(node) in self.open:
            raise UserError("refused: references in the YAML go round in a circle")
        self.left -= 1
        if self.left < 0:
            raise UserError(
                f"refused: the YAML unfolds to more than {MAX_NODES} values"
            )
        self.open.add(id(node))
        try:
            value = self._value(node)
        finally:
            self.open.discard(id(node))
        self.built[id(node)] = value
        return value

    def _value(self, node: Node) -> Any:
        tag = str(node.tag)
        if tag in ("!ref", "!copy"):
            return self._reference(node.value, fresh=tag == "!copy")
        if tag == "!PLACEHOLDER":
            raise UserError("the YAML has a !PLACEHOLDER; override it with a value")
        if tag.startswith("!new:"):
            return self._object(tag[len("!new:") :], node)
        if tag.startswith("!name:"):
            found = locate(tag[len("!name:") :])
            args, kwargs = self._arguments(node)
            return (
                functools.partial(found, *args, **kwargs) if args or kwargs else found
            )
        if isinstance(node, SequenceNode):
            return [self.build(item) for item in node.value]
        if isinstance(node, MappingNode):
            return {self._scalar(key): self.build(item) for key, item in node.value}
        return self._scalar(node)

    def _scalar(self, node: Node) -> Any:
        tag, text = str(node.tag), node.value
        plain = tag == STANDARD + "str" and not getattr(node, "style", None)
        if tag == "!tuple" or (plain and TUPLE.fullmatch(text)):
            return self._tuple(text)
        make = {
            "int": self.scalars.construct_yaml_int,
            "float": self.scalars.construct_yaml_float,
            "bool": self.scalars.construct_yaml_bool,
            "null": self.scalars.construct_yaml_null,
        }.get(tag.removeprefix(STANDARD))
        try:
            return text if make is None else make(node)
        except (ValueError, KeyError) as error:
            raise UserError(f"the YAML value '{text[:50]}' is not a {tag}") from error

    def _tuple(self, text: str) -> tuple:
        items = compose(f"[{text[1:-1]}]")
        check_graph(items)
        simple = isinstance(items, SequenceNode) and all(
            isinstance(item, ScalarNode) and str(item.tag) in PLAIN_TAGS
            for item in items.value
        )
        if not simple:
            raise refusal(f"the tuple {text[:50]}")
        return tuple(self._scalar(item) for item in items.value)

    def _reference(self, text: str, fresh: bool) -> Any:
        if _REFERENCE.fullmatch(text):
            return self._referred(text, fresh)

        def word(match: re.Match) -> str:
            value = self._referred(match[0], fresh=False)
            if value is not None and not isinstance(value, (str, int, float)):
                raise refusal(f"'{match[0]}' inside text (it is not text or a number)")
            return str(value)

        return evaluate(_REFERENCE.sub(word, text[:MAX_NODES]))

    def _referred(self, reference: str, fresh: bool) -> Any:
        path = reference.strip("<>")
        if "." in path:
            raise refusal(f"the attribute reference {reference}")
        first, *rest = (part.strip("]") for part in path.split("["))
        if first in self.overrides and not rest:
            return self.overrides[first]
        node = self.top.get(first, _MISSING)
        for part in rest:
            node = self._below(node, part)
        if not isinstance(node, Node):
            raise UserError(f"the YAML refers to {reference}, which is not there")
        if not fresh:
            return self.build(node)
        # A copy shares nothing that is built inside it.
        kept, self.built = self.built, {}
        try:
            return self.build(node)
        finally:
            self.built = kept

    @staticmethod
    def _below(node: Any, part: str) -> Any:
        if isinstance(node, MappingNode):
            return next((v for k, v in node.value if k.value == part), _MISSING)
        return _MISSING

    def _arguments(self, node: Node) -> tuple[list, dict]:
        if isinstance(node, MappingNode):
            values = {k.value: self.build(v) for k, v in node.value}
            _check_numbers(list(values.values()))
            return [], values
        if isinstance(node, SequenceNode):
            items = [self.build(item) for item in node.value]
            _check_numbers(items)
            return items, {}
        if node.value:
            raise UserError(f"{node.tag} takes arguments as a list or a mapping")
        return [], {}

    def _object(self, name: str, node: Node) -> Any:
        args, kwargs = self._arguments(node)
        if name == PRETRAINER:
            return _plan(args, kwargs)
        found = locate(name)
        try:
            return found(*args, **kwargs)
        except UserError:
            raise
        except Exception as error:  # whatever a class says about its arguments
            raise UserError(f"{name} cannot be built from its YAML: {error}") from error


def _check_numbers(values: list) -> None:
    """Sizes must be credible, however deep in a list they are."""
    for value in values:
        if isinstance(value, (list, tuple)):
            _check_numbers(list(value))
        elif isinstance(value, (int, float)) and abs(value) > MAX_NUMBER:
            raise UserError(f"refused: {value} is not a credible setting of a network")


def _plan(args: list, kwargs: dict) -> LoadPlan:
    extra = set(kwargs) - {"loadables", "paths", "collect_in"}
    if args or extra:
        named = ", ".join(sorted(extra)) or "unnamed arguments"
        raise refusal(f"{named} of the Pretrainer")
    loadables, paths = kwargs.get("loadables") or {}, kwargs.get("paths") or {}
    if not isinstance(loadables, dict) or not isinstance(paths, dict):
        raise UserError("the Pretrainer's loadables and paths must be mappings")
    return LoadPlan(dict(loadables), {str(k): str(v) for k, v in paths.items()})


def safe_hparams(text: str, overrides: Mapping[str, Any] | None = None) -> dict:
    """Build what a model's YAML describes, from allowed classes only.

    References, copies, sums and tuples mean what they mean in HyperPyYAML;
    ``!apply:``, ``!applyref:``, ``!module:``, ``!include:``, attribute references,
    merge keys and Python tags are refused, and so is any class that is not on the
    list of `sb_margins.inference.allowed`. Nothing is built, and nothing is
    imported, before the whole file has been looked at.

    Arguments
    ---------
    text : str
        The YAML.
    overrides : mapping, optional
        Top-level keys to plain values that replace those of the file.

    Returns
    -------
    dict
        As ``load_hyperpyyaml`` would return, the Pretrainer as a `LoadPlan`.

    Raises
    ------
    UserError
        Naming what was refused, or what is wrong.

    Example
    -------
    >>> built = safe_hparams(
    ...     "n: 3\\nnet: !new:torch.nn.Linear [!ref <n>, !ref <n> * 2]"
    ... )
    >>> built["net"]
    Linear(in_features=3, out_features=6, bias=True)
    >>> safe_hparams("x: !new:subprocess.Popen [ls]")
    Traceback (most recent call last):
    ...
    sb_margins.errors.UserError: refused: !new:subprocess.Popen. ...
    """
    overrides = dict(overrides or {})
    root = compose(text)
    if not isinstance(root, MappingNode) or str(root.tag) not in PLAIN_TAGS:
        raise UserError("the YAML is not a mapping of names to values")
    check_graph(root)
    builder = _Builder(root, overrides)
    unknown = set(overrides) - set(builder.top)
    if unknown:
        raise UserError(f"the YAML has no {', '.join(sorted(unknown))} to override")
    values: dict[str, Any] = {}
    try:
        with MemoryBudget():
            for name, node in builder.top.items():
                kept = overrides.get(name, _MISSING)
                values[name] = builder.build(node) if kept is _MISSING else kept
    except RecursionError as error:
        raise UserError("refused: the YAML's references are too deep") from error
    return {name: value for name, value in values.items() if name[:2] != "__"}
