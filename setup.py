"""The packages of evonb, as they lie on disk: each folder with an `__init__`, and data/ as evonb.data.

All else stands in pyproject.toml, which can't say the two together.
"""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["evonb", "evonb.*"]), "evonb.data"], package_dir={"evonb.data": "data"})
