#!/bin/sh
# Make the virtual environments of the peer servers (e-x) in .run/peers, from PyPI.
#
#   peer_env.sh [PYTHON] [tests | bench]
#
# Those that tests use, or the one that benchmarks measure: the newest, with all that makes it fast.
#
# e-x lives in environments of its own, for it wants other versions of the libraries than we do.
# The binding for RocksDB is compiled against Debian's library. plyvel has wheels up to Python 3.12;
# from there on plyvel-next takes its name. A missing part is named, and
# its tests are skipped, or fail where CI is set. A complete environment stays unchanged.

set -u
top=$(cd "$(dirname "$0")/../.." && pwd)
python=${1:-$top/.venv/bin/python}
purpose=${2:-tests}
peers=$top/.run/peers
status=0

# The package that the peers import as plyvel. Built from a copy, so that the source has no new files.
plyvel=plyvel
if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 13))'; then
    plyvel=$peers/plyvel/plyvel-1.5.1-py3-none-any.whl
    [ -e "$plyvel" ] ||
        { mkdir -p "$peers" && cp -R "$top/tests/crash/plyvel" "$peers" &&
            "$python" -m pip wheel -q --no-deps -w "$peers/plyvel" "$peers/plyvel"; } ||
        echo "cannot make a plyvel of plyvel-next"
fi

# NAME REQUIREMENT...: a venv with these packages, complete once its marker is there.
make_venv() {
    name=$1
    shift
    [ -e "$peers/$name/.complete" ] && return 0
    echo "Making the environment of $name in $peers"
    rm -rf "${peers:?}/$name"
    mkdir -p "$peers"
    # Not renamed into place: a venv's scripts know its path. The marker shows that it is complete.
    "$python" -m venv "$peers/$name" &&
        "$peers/$name/bin/python" -m pip install -q "$@" &&
        touch "$peers/$name/.complete"
}

# The binding for RocksDB, into the environment NAME.
add_rocksdb() {
    name=$1
    [ -e "$peers/$name/.rocksdb" ] && return 0
    [ -e "$peers/$name/.complete" ] || return 1
    "$top/contrib/demo/debian-install" c++:g++ pkg-config:pkgconf \
        /usr/include/rocksdb/version.h:librocksdb-dev || return 1
    echo "Compiling rocksdb-ng for $name (about 75 s)"
    "$peers/$name/bin/python" -m pip install -q rocksdb-ng==2.0.0 &&
        touch "$peers/$name/.rocksdb"
}

if [ "$purpose" = bench ]; then
    make_venv e-x-2.0.0 'e-x[leveldb,orjson,uvloop]==2.0.0' "$plyvel" ||
        { echo "cannot get e-x 2.0.0"; status=1; }
    add_rocksdb e-x-2.0.0 || { echo "cannot get rocksdb-ng 2.0.0"; status=1; }
    exit $status
fi
make_venv e-x-1.16.0 e-x==1.16.0 "$plyvel" &
make_venv e-x-1.20.0 e-x==1.20.0 "$plyvel" || { echo "cannot get e-x 1.20.0"; status=1; }
add_rocksdb e-x-1.20.0 || { echo "cannot get rocksdb-ng 2.0.0"; status=1; }
wait $! || { echo "cannot get e-x 1.16.0"; status=1; }
exit $status
