"""Sphinx builds the documentation from here: `make docs`. What is generated is in pages.py, which needs no Sphinx."""

import importlib.metadata
import re
import sys
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import pages  # noqa: E402

project = "mpinewton"
author = "mpinewton developers"
project_copyright = "mpinewton developers"
release = version = importlib.metadata.version("mpinewton")

extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc", "sphinx.ext.viewcode"]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["papers/*.png"]
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]  # docstrings name arrays and other plain words; links between pages are tested
default_role = "code"
smartquotes_action = "q"  # `--option` in plain text keeps both dashes
autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
html_theme = "furo"
html_title = "mpinewton"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_math_renderer = "mathml"
man_pages = [("command-line", "mpinewton", "second-order distributed optimisation over MPI", author, 1)]


def fill_in(app, docname, source):
    """Add to a page what is generated."""
    source[0] = pages.fill_in(docname, source[0])


def escape(app, what, name, obj, options, lines):
    """Docstrings are plain text with code in backticks: |w| and a_i are no markup of reStructuredText."""
    for k, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            parts = re.split(r"(``?[^`]+``?)", line)
            parts[::2] = [re.sub(r"([|*\\]|_(?!\w))", r"\\\1", part) for part in parts[::2]]
            lines[k] = "".join(parts)


def inline_math(self, node):
    self.body.append(f'<math xmlns="http://www.w3.org/1998/Math/MathML">{mathml(node)}</math>')
    raise nodes.SkipNode


def display_math(self, node):
    self.body.append(f'<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">{mathml(node)}</math>')
    raise nodes.SkipNode


def mathml(node):
    """The formula as MathML, which browsers show without a script."""
    found = re.sub(r"^\s*<math[^>]*>|</math>\s*$", "", tex2mathml(node.astext()))
    return re.sub("<mo>([‖⟨⟩])</mo>", r'<mo stretchy="false">\1</mo>', found)  # norms as high as letters


def setup(app):
    app.connect("source-read", fill_in)
    app.connect("autodoc-process-docstring", escape, priority=400)  # before numpydoc
    app.add_html_math_renderer("mathml", (inline_math, None), (display_math, None))
