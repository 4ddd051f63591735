"""Defaults are those that the documentation says."""

import ast
import inspect
import re

import pytest

from sb_margins import classifiers, functional, losses, similarity

DEFAULT = r"Default (-?[\d.]*\d|True|False|``\"\w+\"``)"


def stated():
    """(object, argument, default) of every "Default X" in an Arguments section."""
    found = []
    for module in (classifiers, functional, losses, similarity):
        for name, value in vars(module).items():
            home = getattr(value, "__module__", "")
            if name.startswith("_") or not home.startswith("sb_margins."):
                continue
            text = (inspect.getdoc(value) or "").partition("Arguments\n---------\n")[2]
            text = re.split(r"\n\w+\n---", text)[0]
            for entry in re.split(r"\n(?=\w)", text):
                default = re.search(DEFAULT, entry)
                if default:
                    argument = entry.split(" :")[0]
                    found.append((value, argument, default[1].strip("`")))
    return sorted(found, key=lambda case: (case[0].__name__, case[1]))


@pytest.mark.parametrize("value, argument, default", stated())
def test_defaults(value, argument, default):
    parameter = inspect.signature(value).parameters[argument]
    assert parameter.default == ast.literal_eval(default)


def test_there_are_many():
    assert len(stated()) > 30
