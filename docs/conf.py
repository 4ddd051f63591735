"""Sphinx settings: ``make docs`` builds these pages and the API reference."""

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
