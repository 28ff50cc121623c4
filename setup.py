"""The Cython modules, which pyproject.toml cannot describe; all else about the package is there."""

import os
import sys

import setuptools
from setuptools import Extension, setup

# An older one misreads pyproject.toml, with an error that does not name it.
if int(setuptools.__version__.partition(".")[0]) < 77:
    sys.exit(
        f"setuptools {setuptools.__version__} is too old: {sys.executable} -m pip install "
        "--upgrade 'setuptools>=77'"
    )

# The Cython modules of indexing, and of answering (from packed rows to JSON).  Where one cannot
# be built (no compiler, no headers of Python) pip warns, and the server uses the
# pure-Python implementation, more slowly.  A wheel must have them all: its build sets
# ELECTRUMX_REQUIRE_COMPILED, and a module that cannot be built is then an error.
EXTENSIONS = [
    Extension(
        f"electrumx.server.{name}",
        [f"electrumx/server/{name.replace('.', '/')}.pyx"],
        include_dirs=["electrumx/lib"],
        depends=["electrumx/lib/sha256.h"],
        extra_compile_args=["-O3"],
        optional=not os.environ.get("ELECTRUMX_REQUIRE_COMPILED"),
    )
    for name in (
        "block_processor._fastblock",
        "block_processor._fasthistory",
        "block_processor._fastindex",
        "bulk_sync._fastbulk",
        "db._fastquery",
    )
]

setup(ext_modules=EXTENSIONS)
