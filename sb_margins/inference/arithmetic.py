"""The small sums that HyperPyYAML allows in references, and nothing more."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

from sb_margins.errors import UserError

MAX_TEXT = 1000
_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}


class _NotASum(Exception):
    pass


def _value(node: ast.AST) -> int | float:
    if isinstance(node, ast.Constant):
        if isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
            return node.value
        raise _NotASum
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Pow) and (abs(left) > 1e6 or abs(right) > 16):
            raise UserError(f"refused: a power as large as {left} ** {right}")
        return _OPERATORS[type(node.op)](left, right)
    raise _NotASum


def evaluate(text: str) -> Any:
    """A number when the text is a sum of numbers, else the text.

    Arguments
    ---------
    text : str
        With its references filled in.

    Returns
    -------
    int or float or str

    Raises
    ------
    UserError
        For sums that would take forever, or divide by zero.

    Example
    -------
    >>> evaluate("2 * 6"), evaluate("80"), evaluate("save/model")
    (12, 80, 'save/model')
    """
    if len(text) > MAX_TEXT:
        raise UserError(f"refused: a reference grows beyond {MAX_TEXT} characters")
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except UserError:
        raise
    except (_NotASum, SyntaxError, ValueError, RecursionError, MemoryError):
        return text
    except (ZeroDivisionError, OverflowError) as error:
        raise UserError(f"the YAML's sum '{text}' fails: {error}") from error
