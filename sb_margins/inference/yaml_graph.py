"""Read YAML to a graph of nodes, nothing built, and refuse what is not plain."""

from __future__ import annotations

import re
from collections.abc import Iterator

import ruamel.yaml
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from sb_margins.errors import UserError
from sb_margins.inference.allowed import PRETRAINER, is_allowed, refusal

MAX_BYTES = 256 * 1024
MAX_DEPTH = 40
MAX_NODES = 50_000  # counted as if every alias were written out

STANDARD = "tag:yaml.org,2002:"
PLAIN_TAGS = frozenset(
    STANDARD + kind for kind in ("str", "int", "float", "bool", "null", "seq", "map")
)
REFERENCE_TAGS = frozenset({"!ref", "!copy"})
TUPLE = re.compile(r"\(.*\)", re.DOTALL)


def compose(text: str) -> Node:
    """The node graph of a YAML text.

    Arguments
    ---------
    text : str
        One document.

    Returns
    -------
    ruamel.yaml.nodes.Node
        Aliases are shared nodes.

    Raises
    ------
    UserError
        When it is not YAML, too long, or nested too deeply.

    Example
    -------
    >>> compose("a: 1").tag
    'tag:yaml.org,2002:map'
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise UserError(f"refused: the YAML is longer than {MAX_BYTES // 1024} KiB")
    try:
        node = ruamel.yaml.YAML(typ="safe", pure=True).compose(text)
    except ruamel.yaml.error.YAMLError as error:
        raise UserError(f"the YAML cannot be read: {error}") from error
    except (RecursionError, ValueError, AssertionError, IndexError) as error:
        raise UserError("refused: the YAML is nested too deeply or broken") from error
    if node is None:
        raise UserError("the YAML is empty; get the model again")
    return node


def children(node: Node) -> Iterator[Node]:
    """The nodes right below a node.

    Arguments
    ---------
    node : ruamel.yaml.nodes.Node
        Any node.

    Yields
    ------
    ruamel.yaml.nodes.Node
        Items of a sequence; keys and values of a mapping.

    Example
    -------
    >>> [child.value for child in children(compose("a: 1"))]
    ['a', '1']
    """
    if isinstance(node, SequenceNode):
        yield from node.value
    elif isinstance(node, MappingNode):
        for pair in node.value:
            yield from pair


def _check_tag(node: Node) -> None:
    tag = str(node.tag)
    if tag in PLAIN_TAGS or tag == "!PLACEHOLDER":
        return
    if tag in REFERENCE_TAGS or tag == "!tuple":
        if not isinstance(node, ScalarNode):
            raise refusal(f"{tag} on something that is not text")
        return
    kind, _, name = tag.partition(":")
    if kind in ("!new", "!name") and (
        is_allowed(name) or (kind == "!new" and name == PRETRAINER)
    ):
        return
    if kind == "!include":
        raise refusal(f"{tag} (a model folder's YAML is one file)")
    if tag == STANDARD + "merge":
        raise refusal("a merge key '<<'")
    raise refusal(tag.replace(STANDARD, "!!"))


def _check_keys(node: MappingNode) -> None:
    seen = set()
    for key, _ in node.value:
        if not isinstance(key, ScalarNode) or str(key.tag) not in PLAIN_TAGS:
            raise refusal(f"a key that is not plain text, in line {_line(key)}")
        if key.value in seen:
            raise UserError(f"the key '{key.value}' is there twice, in the YAML")
        seen.add(key.value)


def _line(node: Node) -> int:
    return node.start_mark.line + 1 if node.start_mark else 0


def check_graph(root: Node) -> None:
    """Refuse a graph that holds anything but plain values and allowed classes.

    Every node is looked at, referenced or not, before anything is built.

    Arguments
    ---------
    root : ruamel.yaml.nodes.Node
        From `compose`.

    Raises
    ------
    UserError
        Naming the first thing that is not allowed.

    Example
    -------
    >>> check_graph(compose("x: !apply:os.system [ls]"))
    Traceback (most recent call last):
    ...
    sb_margins.errors.UserError: refused: !apply:os.system. ...
    """
    sizes: dict[int, int] = {}  # nodes below each node, aliases written out
    open_nodes: set[int] = set()

    def size(node: Node, depth: int) -> int:
        if id(node) in open_nodes:
            raise UserError("refused: the YAML contains itself through an alias")
        if id(node) in sizes:
            return sizes[id(node)]
        if depth > MAX_DEPTH:
            raise UserError(f"refused: the YAML is nested deeper than {MAX_DEPTH}")
        _check_tag(node)
        if isinstance(node, MappingNode):
            _check_keys(node)
        open_nodes.add(id(node))
        total = 1 + sum(size(child, depth + 1) for child in children(node))
        open_nodes.discard(id(node))
        if total > MAX_NODES:
            raise UserError(
                f"refused: the YAML unfolds to more than {MAX_NODES} values "
                "through its aliases"
            )
        sizes[id(node)] = total
        return total

    size(root, 0)
