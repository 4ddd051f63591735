"""Sphinx settings: ``make docs`` builds these pages and the API reference."""

import re

import sb_margins

project = "sb_margins"
author = "The sb_margins developers"
version = release = sb_margins.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_theme_options = {
    "description": "Margin and hyperbolic losses for speaker verification",
    "page_width": "1100px",
}
html_show_sourcelink = False

myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3

# Docstrings have SpeechBrain's sections (Arguments, Returns, Example), underlined.
napoleon_google_docstring = False
napoleon_numpy_docstring = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {
    "members": True,
    "undoc-members": False,
    "show-inheritance": True,
}


def escape_enumerators(app, what, name, obj, options, lines):
    """A line that begins with ``s. Default 30.`` is not the nineteenth of a list."""
    lines[:] = [re.sub(r"^( *\w)\. ", r"\1\\. ", line) for line in lines]


def setup(app):
    app.connect("autodoc-process-docstring", escape_enumerators, priority=400)
