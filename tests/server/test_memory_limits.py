"""The memory that the process may use, by machine and cgroups, and the cache that suits it."""

import pytest

from electrumx.server import memory_limits as module


@pytest.fixture
def cgroups(tmp_path, monkeypatch):
    """Take the system's files from a folder; return a function that writes one."""
    monkeypatch.setattr(module, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(module, "PROC_CGROUP", tmp_path / "self")
    monkeypatch.setattr(module, "physical_memory_mb", lambda: 8_000)

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return write


def test_without_cgroups_it_is_the_machines(cgroups):
    assert module.memory_mb() == 8_000


def test_a_container_sees_its_limit_at_the_top(cgroups):
    cgroups("self", "0::/\n")
    cgroups("cgroup/memory.max", "max\n")
    assert module.memory_mb() == 8_000
    cgroups("cgroup/memory.max", "50000000\n")
    assert module.memory_mb() == 50


def test_the_limits_of_a_service_and_of_its_slice_count(cgroups):
    cgroups("self", "0::/system.slice/electrumx.service\n")
    cgroups("cgroup/system.slice/electrumx.service/memory.max", "3000000000\n")
    assert module.memory_mb() == 3_000
    cgroups("cgroup/system.slice/memory.max", "2000000000\n")
    assert module.memory_mb() == 2_000


def test_version_1_has_a_hierarchy_for_memory(cgroups):
    cgroups("self", "8:pids:/\n4:cpu,memory:/docker/abc\nnonsense\n0::/\n")
    cgroups("cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    assert module.memory_mb() == 8_000
    cgroups("cgroup/memory/docker/abc/memory.limit_in_bytes", "1500000000\n")
    assert module.memory_mb() == 1_500
    # In the container itself the path from outside does not exist.
    cgroups("cgroup/memory/memory.limit_in_bytes", "700000000\n")
    assert module.memory_mb() == 700


def test_a_limit_beyond_which_processes_are_slowed_down_counts(cgroups):
    cgroups("self", "0::/system.slice/electrumx.service\n")
    cgroups("cgroup/system.slice/electrumx.service/memory.max", "3000000000\n")
    cgroups("cgroup/system.slice/electrumx.service/memory.high", "max\n")
    assert module.memory_mb() == 3_000
    cgroups("cgroup/system.slice/electrumx.service/memory.high", "1000000000\n")
    assert module.memory_mb() == 1_000


@pytest.mark.parametrize("text", ["-1", "0", "4096", "9" * 5_000, "\xb2", "0x10"])
def test_figures_that_are_no_limit_are_ignored(cgroups, text):
    cgroups("self", f"0::/../{'x' * 5_000}\n0::/a\x00b\n")
    cgroups("cgroup/memory.max", text)
    assert module.memory_mb() == 8_000


def test_unreadable_files_limit_nothing(cgroups):
    cgroups("self", "0::/x\n")
    cgroups("cgroup/memory.max", "")
    cgroups("cgroup/x/memory.max", "many")
    assert module.memory_mb() == 8_000


@pytest.mark.parametrize("memory", [500, 1_000, 2_000, 4_000, 64_000])
def test_the_default_leaves_two_fifths_of_the_memory(memory):
    cache = module.default_cache_mb(memory)
    assert 20 <= cache <= 1200
    assert cache == 20 or module.needed_mb(cache) <= 0.6 * memory
    assert cache == 1200 or module.needed_mb(cache + 2) > 0.6 * memory
