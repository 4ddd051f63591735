"""Take the encoder's `!new:` blocks out of a training YAML, constructor arguments and
all, so that a model folder can be written for any encoder that SpeechBrain has."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import Any

import ruamel.yaml
from hyperpyyaml import resolve_references
from ruamel.yaml.comments import CommentedMap, CommentedSeq, TaggedScalar

from sb_margins.errors import UserError

ENCODER = ("compute_features", "mean_var_norm", "embedding_model")

# What a plain SpeechBrain installation can build.
STOCK = ("speechbrain.", "torch.nn.")


def _tag(node: Any) -> str | None:
    tag = getattr(node, "tag", None)
    return getattr(tag, "value", None)


def _check_tag(key: str, tag: str | None) -> None:
    if tag is None or tag == "!tuple" or tag.startswith("tag:yaml.org"):
        return
    kind, _, name = tag.partition(":")
    if kind not in ("!new", "!name"):
        raise UserError(
            f"{key}: a model folder cannot hold the tag {tag}; "
            "describe the encoder with !new: blocks"
        )
    if not name.startswith(STOCK):
        raise UserError(
            f"{key}: {name} is not a class of SpeechBrain or torch.nn, so plain "
            "SpeechBrain could not load the exported model"
        )


def _clean(key: str, node: Any) -> Any:
    """The node without comments, anchors and aliases, its tags checked."""
    tag = _tag(node)
    _check_tag(key, tag)
    if isinstance(node, Mapping):
        copy: Any = CommentedMap((k, _clean(key, v)) for k, v in node.items())
    elif isinstance(node, list):
        copy = CommentedSeq(_clean(key, v) for v in node)
        copy.fa.set_flow_style()
    elif isinstance(node, TaggedScalar):
        return TaggedScalar(node.value, style=node.style, tag=tag)
    elif isinstance(node, bool) or node is None:
        return node
    else:
        # ruamel's own int, float and str subclasses carry anchors and formatting.
        for kind in (int, float, str):
            if isinstance(node, kind):
                return kind(node)
        return node
    if tag is not None and not tag.startswith("tag:yaml.org"):
        copy.yaml_set_ctag(ruamel.yaml.Tag(suffix=tag))
    return copy


def _dump(tree: Any) -> str:
    out = io.StringIO()
    yaml = ruamel.yaml.YAML()
    yaml.width = 88
    yaml.dump(tree, out)
    return out.getvalue()


def resolved(settings: str) -> CommentedMap:
    """A training YAML with its references resolved and nothing built.

    Arguments
    ---------
    settings : str
        HyperPyYAML text, such as the ``hyperparams.yaml`` of a results folder.

    Returns
    -------
    ruamel.yaml.comments.CommentedMap
        The tree; tags are kept on its nodes.

    Raises
    ------
    UserError
        When it is not a YAML mapping.

    Example
    -------
    >>> resolved("n: 4\\nm: !ref <n> * 2")["m"]
    8
    """
    try:
        tree = ruamel.yaml.YAML().load(resolve_references(settings).getvalue())
    except (ruamel.yaml.error.YAMLError, ValueError, KeyError) as error:
        raise UserError(f"the training YAML cannot be read: {error}") from error
    if not isinstance(tree, CommentedMap):
        raise UserError("the training YAML is not a mapping of names to values")
    return tree


def encoder_blocks(settings: str, names: Iterable[str] = ENCODER) -> str:
    """The YAML text of some `!new:` blocks, on their own.

    Arguments
    ---------
    settings : str
        Training YAML text (HyperPyYAML).
    names : iterable of str
        Top-level keys of the blocks.

    Returns
    -------
    str
        YAML text with just these keys; no references, anchors or comments.

    Raises
    ------
    UserError
        When a block is missing, or holds classes that are not stock.

    Example
    -------
    >>> print(
    ...     encoder_blocks(
    ...         '''
    ... n_mels: 8
    ... norm: !new:torch.nn.LayerNorm
    ...     normalized_shape: !ref <n_mels>
    ... ''',
    ...         ["norm"],
    ...     ),
    ...     end="",
    ... )
    norm: !new:torch.nn.LayerNorm
      normalized_shape: 8
    """
    tree = resolved(settings)
    blocks = CommentedMap()
    for name in names:
        node = tree.get(name)
        if not (_tag(node) or "").startswith("!new:"):
            raise UserError(
                f"the training YAML has no block '{name}: !new:...'; "
                "it is needed to describe the encoder"
            )
        blocks[name] = _clean(name, node)
    return _dump(blocks)


def scalar_yaml(tree: Mapping[str, Any]) -> str:
    """Plain values as YAML text.

    Arguments
    ---------
    tree : mapping
        Names to numbers, text, lists and mappings of these.

    Returns
    -------
    str
        YAML text.

    Example
    -------
    >>> print(scalar_yaml({"threshold": 0.5, "rates": [8000, 16000]}), end="")
    threshold: 0.5
    rates: [8000, 16000]
    """
    return _dump(_clean("values", tree)) if tree else ""
