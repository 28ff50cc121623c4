#!/bin/sh
# Install the header hash packages that the fixtures need into a virtual environment.
#
#   tests/install_hash_packages.sh [VENV]         default: .venv
#
# Most of them are C extensions older than Python 3.10: built as they are they install, but every
# call fails, because they do not define PY_SSIZE_T_CLEAN.  They are built here with that macro,
# from source and never from pip's cache, which may hold a build without it.  Some call functions that
# they do not declare, an error since GCC 14 unless a flag prevents it.  gcc and Python's headers are
# needed.  The remaining ones work as PyPI has them.
#
# A package that cannot be had is named at the end, with the reason on file; the exit status is 1
# only where CI is set, so that a developer without a compiler can go on (the tests that need the
# package are skipped there, and fail in CI).
#
# "verushash" is not on the list for a reason: the project of that name on PyPI is no hash but an
# encrypted program with a launcher for mining.  Never install it.

VENV=${1:-.venv}
PYTHON=$VENV/bin/python
LOGS=${TMPDIR:-/tmp}/hash-packages-$$

# package:module, those to be built with the macro and those to be installed as they are.
BUILT="deeponion-x13-hash:deeponion_x13_hash quark-hash:quark_hash xevan-hash:xevan_hash
x16r-hash:x16r_hash x16rv2-hash:x16rv2_hash x16rt-hash:x16rt_hash neoscrypt:neoscrypt
tribushashm:tribushashm zny-yespower-0-5:zny_yespower_0_5 bell-yespower:bell_yespower
cpupower:cpupower"
PLAIN="dash-hash:dash_hash groestlcoin-hash:groestlcoin_hash"

export PIP_DISABLE_PIP_VERSION_CHECK=1
[ -x "$PYTHON" ] || { echo "$0: there is no $PYTHON" >&2; exit 2; }
mkdir -p "$LOGS" || exit 2

TAG=$("$PYTHON" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
# Built wheels, which outlive the virtual environment.
CACHE=.run/cache/hash-wheels-$TAG
mkdir -p "$CACHE" || exit 2

importable() { "$PYTHON" -c "import $1" 2>/dev/null; }

# Each result is a file of LOGS: the output, named for the package, and NAME.failed.
report() {  # package module
    if importable "$2"; then
        echo "$1: installed"
    else
        echo "$1: failed, see $LOGS/$1" >&2
        touch "$LOGS/$1.failed"
    fi
}

build() {  # package module
    wheel=$(echo "$1" | sed 's/[-.]/_/g')
    [ -e "$CACHE/$wheel.built" ] ||
        { "$PYTHON" -m pip wheel -q --no-deps --no-binary :all: --no-build-isolation --no-cache-dir \
            -w "$CACHE/$wheel" "$1" && touch "$CACHE/$wheel.built"; } >"$LOGS/$1" 2>&1
}

todo=
for pair in $BUILT; do
    importable "${pair#*:}" || todo="$todo $pair"
done
if [ -n "$todo" ]; then
    "$PYTHON" -m pip install -q setuptools wheel >"$LOGS/setuptools" 2>&1
    CFLAGS="-DPY_SSIZE_T_CLEAN -Wno-error=implicit-function-declaration ${CFLAGS:-} -w"
    export CFLAGS
    # Two lists of builds run concurrently; pip installs one thing at a time.
    even=
    odd=
    for pair in $todo; do
        swap=$even
        even="$odd $pair"
        odd=$swap
    done
    ( for pair in $even; do build "${pair%%:*}" "${pair#*:}"; done ) &
    for pair in $odd; do build "${pair%%:*}" "${pair#*:}"; done
    wait
    "$PYTHON" -m pip install -q --no-deps --no-index "$CACHE"/*/*.whl >"$LOGS/install" 2>&1
    for pair in $todo; do
        report "${pair%%:*}" "${pair#*:}"
    done
fi
for pair in $PLAIN; do
    importable "${pair#*:}" && continue
    "$PYTHON" -m pip install -q "${pair%%:*}" >"$LOGS/${pair%%:*}" 2>&1
    report "${pair%%:*}" "${pair#*:}"
done

missing=$(cd "$LOGS" && ls | sed -n 's/\.failed$//p' | tr '\n' ' ')
if [ -n "$missing" ]; then
    echo "header hashes without a package, the blocks that need them are not checked: $missing" >&2
    [ -z "$CI" ] || exit 1
else
    rm -rf "$LOGS"
fi
exit 0
