"""For Beam's --setup_file; everything else stands in pyproject.toml."""

import setuptools

setuptools.setup()
