"""For Beam's --setup_file; everything else is in pyproject.toml."""

import setuptools

setuptools.setup()
