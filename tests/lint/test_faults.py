"""The list of fault points is the list of those in the code."""

import re
from pathlib import Path

import electrumx
from electrumx.server.runtime import fault_points as faults


def test_every_fault_point_is_listed_and_every_listed_one_exists():
    package = Path(electrumx.__file__).parent
    used = set()
    for path in package.rglob("*.py"):
        used.update(re.findall(r'fault_point\(\s*"([^"]+)"', path.read_text()))
    assert used == set(faults.NAMES)


def test_no_hook_is_set_outside_tests():
    assert faults.hook is None
