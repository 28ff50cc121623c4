"""Directories that a unit's sandbox makes read-only, or its own, are known as such."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from electrumx.server.runtime.mounts import is_read_only, is_removed_at_stop, mount_root
from tests.conftest import REPOSITORY, require

# With PrivateTmp=yes, once where /tmp is on the root file system and once where it has its own.
TABLE = r"""
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 27 254:0 /tmp/systemd-private-6ad3-electrumx.service-Qx1/tmp /tmp rw shared:9 - ext4 /dev/vda rw
31 27 0:40 / /var/tmp rw - tmpfs tmpfs rw
32 31 0:40 /systemd-private-6ad3-electrumx.service-Qx2/tmp /var/tmp rw - tmpfs tmpfs rw
33 27 254:0 /srv/with\040space /srv/a\040b ro - ext4 /dev/vda rw
34 27 254:0 /etc/systemd-private-x /srv/hidden rw - ext4 /dev/vda rw
35 34 254:0 /data /srv/hidden rw - ext4 /dev/vda rw
broken line
"""


@pytest.mark.parametrize(
    ("directory", "root"),
    [
        ("/", "/"),
        ("/srv/x", "/"),
        ("/tmp", "/tmp/systemd-private-6ad3-electrumx.service-Qx1/tmp"),
        ("/tmp/a/b", "/tmp/systemd-private-6ad3-electrumx.service-Qx1/tmp"),
        ("/tmpx", "/"),
        ("/var/tmp/a", "/systemd-private-6ad3-electrumx.service-Qx2/tmp"),
        ("/srv/a b/c", "/srv/with space"),
        ("/srv/hidden", "/data"),
    ],
)
def test_the_mount_that_holds_a_directory_is_found(directory, root):
    assert mount_root(Path(directory), TABLE) == root
    assert mount_root(Path(directory), "") == ""


def test_an_ordinary_directory_is_neither(tmp_path):
    assert not is_read_only(tmp_path)
    assert not is_removed_at_stop(tmp_path)


ASK = """
import json, sys
from pathlib import Path
from electrumx.server.runtime.mounts import is_read_only, is_removed_at_stop
path = Path(sys.argv[1])
print(json.dumps([is_read_only(path), is_removed_at_stop(path)]))
"""


def in_mount_namespace(script, directory):
    """Run a script that mounts, in a mount namespace; the functions' results there."""
    require(shutil.which("unshare"), "unshare is not installed")
    namespace = ["unshare", "-m", "sh", "-ec", f'{script}\nexec "$@"', "sh"]
    done = subprocess.run(
        [*namespace, sys.executable, "-c", ASK, str(directory)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    denied = done.returncode and ("ermi" in done.stderr or "ermitted" in done.stderr)
    require(not denied, "this user may not mount")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_private_tmp_and_a_read_only_directory_of_a_real_namespace_are_known(tmp_path):
    private = tmp_path / "systemd-private-1-electrumx.service-x" / "tmp"
    point = tmp_path / "tmp"
    for folder in (private, point / "below", point):
        folder.mkdir(parents=True, exist_ok=True)
    (private / "sub").mkdir()
    bind = f"mount --bind '{private}' '{point}'"
    assert in_mount_namespace(bind, point / "sub") == [False, True]
    read_only = f"mount --bind '{point}' '{point}'; mount -o remount,ro,bind '{point}'"
    assert in_mount_namespace(read_only, point / "below") == [True, False]
