"""
Sphinx's settings. The source folder is the repository's root, so that the READMEs of recipes, launch files, benchmarks
and the comparison are pages as they stand: nothing is copied, and a link works here as it does in a checkout.
"""

import re
import sys
from pathlib import Path


ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_ext")]

project = "trl-negalign"
author = "the trl-negalign contributors"
copyright = f"{author}, Apache-2.0"
version = release = re.search(r'__version__ = "(.+)"', (ROOT / "trl_negalign/version.py").read_text())[1]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton", "comparison", "docstrings", "mathml"]
root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "recipes/README.md",
    "recipes/*/README.md",
    "accelerate_configs/README.md",
    "benchmarks/README.md",
    "comparison/*.md",
    "tests/matrix/README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
]
exclude_patterns = [".*", "build", "dist", "runs", "**/__pycache__", "docs/_*"]

myst_enable_extensions = ["dollarmath", "deflist", "colon_fence", "attrs_inline"]
myst_heading_anchors = 3
nitpicky = True

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings name the types
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"trl-negalign {release}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_extra_path = ["_root"]  # index.html at the top leads to the first page
html_show_sphinx = False
html_theme_options = {"top_of_page_buttons": []}
copybutton_exclude = ".linenos, .gp, .go"
