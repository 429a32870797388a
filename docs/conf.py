"""Sphinx reads this. `make docs` builds the site, with warnings as errors and without a net."""

import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples"), str(ROOT / "docs" / "_ext")]
warnings.filterwarnings("ignore")  # of other packages, on import

project = "hsa_geometric"
author = "the hsa_geometric developers"
copyright = author
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",
    "myst_parser",
    "pages",  # writes the reference, the gallery and the pages taken from the repository
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints_format = "short"
autosummary_generate = True
autosummary_imported_members = True
napoleon_custom_sections = ["Shapes"]
napoleon_use_ivar = True
python_maximum_signature_line_length = 88
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(?!hsa_geometric\.).*"),  # other packages, and words that are no names
    (r"py:.*", r"hsa_geometric\.(.*\.)?(_.*|[A-Z])"),  # private modules, type variables
]

myst_enable_extensions = ["html_image"]
myst_heading_anchors = 3

html_theme = "pydata_sphinx_theme"
html_title = "hsa_geometric"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_sidebars = {"index": []}
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
}
