"""Sphinx's settings of evonb's site. docs/build.py writes the pages that these apply to, and runs Sphinx."""

import json
import os
import sys
from pathlib import Path

here = Path(__file__).parent
sys.path.insert(0, str(here))
_known = json.loads(Path(os.environ["EVONB_DOCS_KNOWN"]).read_text(encoding="utf-8"))

project = "evonb"
author = "the evonb authors"
copyright = "2026 onwards, the evonb authors"
version = release = _known["version"]
language = "en"

extensions = ["myst_nb", "sphinx.ext.viewcode", "sphinx_copybutton", "sphinx_design", "maker.sphinx_parts"]
exclude_patterns = ["**/.ipynb_checkpoints"]
evonb_modules = _known["modules"]  # page -> the module that it tells of
evonb_pages = _known["pages"]  # a notebook's name -> its page

# Notebooks arrive executed.
nb_execution_mode = "off"
nb_code_prompt_show = "Source"
nb_code_prompt_hide = "Source"
nb_merge_streams = True
nb_ipywidgets_js = {}
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_dmath_allow_space = False
myst_dmath_double_inline = True
myst_dmath_allow_digits = False
myst_heading_anchors = 4

# Names.
add_module_names = False
python_display_short_literal_types = True
toc_object_entries_show_parents = "hide"
viewcode_follow_imported_members = False
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!evonb\.).*")]

# The look.
html_theme = "pydata_sphinx_theme"
html_title = "evonb"
(figure_script,) = (here.parent / "evonb").rglob("static/figure.js")
html_static_path = [str(here / "static"), str(figure_script)]
templates_path = [str(here / "templates")]
html_css_files = ["site.css"]
html_js_files = ["figure.js", "site.js"]  # figure.js: how every figure of evonb is drawn
html_show_sourcelink = False
html_copy_source = False
html_math_renderer = "mathml"
html_sidebars = {page: [] for page in ("index", "guide", "findings", "gallery", "measured", "claims", "calibration",
                                       "recipes", "formats", "howlong", "troubleshooting", "reproducible", "nbs/index",
                                       "changelog", "contributing", "search")}
html_context = {"default_mode": "auto"}
html_theme_options = {
    "logo": {"text": "evonb"},
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "navigation_with_keys": False,
    "navigation_depth": 2,
    "show_toc_level": 2,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
    "footer_start": ["copyright"],
    "footer_center": [],
    "footer_end": [],
    "back_to_top_button": True,
    "header_links_before_dropdown": 7,
}
