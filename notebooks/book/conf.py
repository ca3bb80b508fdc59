"""Settings of the book: the stored notebooks and a few pages, built offline by ``make book`` into build/book."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
os.environ.setdefault("GRSD_PROJECT", str(HERE.parents[1]))
# If jsonschema (of nbformat) finds this package, it builds 38 grammars of addresses: seconds that no page needs.
sys.modules.setdefault("rfc3987_syntax", None)

import pages

import grsd

project = "grsd"
author = "The grsd developers"
version = release = grsd.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax", "sphinx-mathjax-offline"]
root_doc = "book/index"
exclude_patterns = ["**/.ipynb_checkpoints"]

nb_execution_mode = "off"  # outputs are those that are stored
nb_custom_formats = {".ipynb": "pages.notebook"}
nb_render_markdown_format = "myst"  # tables and links in outputs, as in the text
myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3
mathjax3_config = {"options": {"enableMenu": False}}

napoleon_use_ivar = True
autodoc_member_order = "groupwise"
autodoc_preserve_defaults = True
autodoc_typehints = "none"  # shapes and units stand in the docstrings
python_maximum_signature_line_length = 80

html_theme = "furo"
html_title = f"grsd {version}"
html_static_path = ["static"]
html_css_files = ["book.css"]
html_extra_path = ["root"]
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}


def setup(app):
    """Fill the marked places of the book's own pages with what the repository says."""
    app.connect("source-read", lambda _, page, text: text.__setitem__(0, pages.filled(text[0], page)))
    app.connect("autodoc-process-docstring", pages.plain, priority=400)  # before napoleon, at 500
