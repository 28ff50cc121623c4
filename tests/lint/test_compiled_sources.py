"""The Cython modules compile with newer compilers' errors, not only with this compiler's.

GCC 14 and clang 16 made errors of conversions that older compilers only warn of.  An extension is
optional, so pip would install the server without it silently.
"""

import shutil
import subprocess
import sys
import sysconfig

import pytest

from electrumx.server.runtime.compiled_modules import COMPILED_MODULES
from tests.conftest import REPOSITORY, require

# The errors in C since GCC 14, as options that GCC 12 and clang 14 know too
ERRORS = [
    f"-Werror={name}"
    for name in (
        "implicit-function-declaration",
        "implicit-int",
        "incompatible-pointer-types",
        "int-conversion",
        "return-type",
    )
]
NAMES = ("cc", "gcc", *(f"gcc-{version}" for version in range(13, 17)), "clang")
COMPILERS = [name for name in NAMES if shutil.which(name)]


@pytest.mark.parametrize("name", COMPILED_MODULES)
def test_a_module_compiles_without_what_newer_compilers_refuse(name, tmp_path):
    require(COMPILERS, "there is no C compiler")
    source, translated = f"electrumx/server/{name.replace('.', '/')}.pyx", tmp_path / "module.c"
    cython = [sys.executable, "-m", "cython", "-3", source, "-o", translated]
    subprocess.run(cython, cwd=REPOSITORY, check=True, timeout=200)
    include = [f"-I{sysconfig.get_path('include')}", f"-I{REPOSITORY / 'electrumx' / 'lib'}"]
    compilers = {shutil.which(compiler): compiler for compiler in COMPILERS}.values()

    for compiler in compilers:
        done = subprocess.run(
            [compiler, "-fsyntax-only", *ERRORS, *include, translated],
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, f"{compiler}: {done.stderr}"
