#!/usr/bin/env python3
"""Refuses a tag that isn't this version's: .ci/release.py v0.1.0"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
version = project["version"]
if sys.argv[1:] != [f"v{version}"]:
    sys.exit(f"The tag is {' '.join(sys.argv[1:]) or 'missing'}, but pyproject.toml has the version {version}. Tag it "
             f"v{version}, or set the version in pyproject.toml, settings.ini and CITATION.cff, and run make export.")
