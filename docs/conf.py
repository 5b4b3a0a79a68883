"""Sphinx settings. The site is built by `histobook site`, which puts the executed chapters beside these pages."""

import os

from helpers import __version__

project = "histobook"
author = "The histobook authors"
copyright = "2026, The histobook authors"
release = version = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "numpydoc",
    "myst_nb",
    "sphinx_design",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
templates_path = ["_templates"]
nitpicky = False
default_role = "literal"  # `name` in a docstring is code

# chapters are executed by papermill, never by Sphinx
nb_execution_mode = "off"
nb_output_stderr = "remove"
nb_merge_streams = True
nb_number_source_lines = False
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["mystnb.unknown_mime_type"]

autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_typehints = "none"  # the docstring says type, shape and unit
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

html_theme = "pydata_sphinx_theme"
html_title = "histobook"
html_static_path = ["_static"]
html_css_files = ["histobook.css"]
html_logo = "_static/logo.svg"
html_favicon = "_static/logo.svg"
html_show_sourcelink = False
html_copy_source = False
html_context = {"default_mode": "light"}
html_sidebars = {"index": [], "gallery": [], "scoreboard": []}
html_theme_options = {
    "logo": {"text": "histobook", "alt_text": "histobook, home"},
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "header_links_before_dropdown": 7,
    "show_prev_next": True,
    "secondary_sidebar_items": {"**": ["page-toc"], "index": [], "gallery": [], "scoreboard": []},
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
    "announcement": os.environ.get("HISTOBOOK_SITE_NOTE", ""),
    "pygments_light_style": "friendly",
    "pygments_dark_style": "github-dark",
    "back_to_top_button": False,
}
