"""Find the CPUs and memory of this process: the machine's, or less where its control group has limits."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cbirdb.encode import decode
from cbirdb.parallel import machine
from cbirdb.parallel.machine import machine_cpus, machine_memory

MB, GB = 1 << 20, 1 << 30
V1_UNLIMITED = 9223372036854771712


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Simulate a machine with 16 CPUs and 64 GB, whose control groups are files that the test writes."""
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 64 * GB // 4096}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    return tmp_path


def write(root: Path, files: dict[str, object]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")


def test_whole_machine_counts_without_control_groups(root: Path) -> None:
    assert (machine_cpus(), machine_memory()) == (16, 64 * GB)


def test_cpu_quota_and_memory_limit_of_cgroup_v2_count(root: Path) -> None:
    write(root, {
        "proc/self/cgroup": "0::/",
        "sys/fs/cgroup/cpu.max": "400000 100000",
        "sys/fs/cgroup/memory.max": 2 * GB,
    })  # fmt: skip
    assert (machine_cpus(), machine_memory()) == (4, 2 * GB)


@pytest.mark.parametrize(
    ("quota", "cpus"),
    [("max 100000", 16), ("50000 100000", 1), ("150000 100000", 2), ("10000 20000", 1), ("9900000 100000", 16)],
)
def test_quota_is_rounded_up_to_whole_cpus_that_the_machine_has(root: Path, quota: str, cpus: int) -> None:
    write(root, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": quota})
    assert machine_cpus() == cpus


@pytest.mark.parametrize(("limit", "memory"), [("max", 64 * GB), (str(512 * MB), 512 * MB), (str(999 * GB), 64 * GB)])
def test_memory_is_the_smaller_of_limit_and_machine(root: Path, limit: str, memory: int) -> None:
    write(root, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": limit})
    assert machine_memory() == memory


def test_smallest_limit_of_a_group_and_its_parents_counts(root: Path) -> None:
    tree = "sys/fs/cgroup"
    write(root, {
        "proc/self/cgroup": "0::/user.slice/user-7.slice/job.scope",
        f"{tree}/user.slice/user-7.slice/job.scope/memory.max": "max",
        f"{tree}/user.slice/user-7.slice/job.scope/cpu.max": "800000 100000",
        f"{tree}/user.slice/user-7.slice/memory.max": 8 * GB,
        f"{tree}/user.slice/user-7.slice/cpu.max": "300000 100000",
        f"{tree}/user.slice/memory.max": 16 * GB,
        f"{tree}/other.slice/memory.max": 1 * GB,
    })  # fmt: skip
    assert (machine_cpus(), machine_memory()) == (3, 8 * GB)


def test_limit_at_the_root_counts_if_the_process_does_not_know_its_group(root: Path) -> None:
    write(root, {"sys/fs/cgroup/memory.max": GB})
    assert machine_memory() == GB


@pytest.mark.parametrize("folder", ["cpu,cpuacct", "cpu"])
def test_cpu_quota_and_memory_limit_of_cgroup_v1_count(root: Path, folder: str) -> None:
    write(root, {
        "proc/self/cgroup": "12:cpuset:/docker/ab\n4:memory:/docker/ab\n3:cpu,cpuacct:/docker/ab\n0::/docker/ab",
        f"sys/fs/cgroup/{folder}/docker/ab/cpu.cfs_quota_us": 250000,
        f"sys/fs/cgroup/{folder}/docker/ab/cpu.cfs_period_us": 100000,
        "sys/fs/cgroup/memory/docker/ab/memory.limit_in_bytes": 3 * GB,
        "sys/fs/cgroup/memory/memory.limit_in_bytes": V1_UNLIMITED,
    })  # fmt: skip
    assert (machine_cpus(), machine_memory()) == (3, 3 * GB)


def test_whole_machine_counts_with_cgroup_v1_without_limits(root: Path) -> None:
    write(root, {
        "proc/self/cgroup": "4:memory:/\n3:cpu,cpuacct:/",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": -1,
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": 100000,
        "sys/fs/cgroup/memory/memory.limit_in_bytes": V1_UNLIMITED,
    })  # fmt: skip
    assert (machine_cpus(), machine_memory()) == (16, 64 * GB)


@pytest.mark.parametrize(
    ("line", "file"), [("4:memory:/docker/ab", "memory/memory.limit_in_bytes"), ("0::/docker/ab", "memory.max")]
)
def test_container_that_sees_its_hosts_path_finds_its_limit_at_the_root(root: Path, line: str, file: str) -> None:
    write(root, {"proc/self/cgroup": line, f"sys/fs/cgroup/{file}": GB})
    assert machine_memory() == GB


def test_memory_limit_of_cgroup_v1_counts_beside_quota_of_cgroup_v2(root: Path) -> None:
    write(root, {
        "proc/self/cgroup": "4:memory:/\n0::/",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": 5 * GB,
        "sys/fs/cgroup/unified/cpu.max": "200000 100000",
    })  # fmt: skip
    assert (machine_cpus(), machine_memory()) == (2, 5 * GB)


def test_memory_budget_of_encoder_inputs_is_an_eighth_of_the_memory_up_to_768_mib(root: Path) -> None:
    assert decode.memory_budget() == 768 * MB
    write(root, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": 2 * GB})
    assert decode.memory_budget() == 256 * MB


def test_this_machine_has_memory_and_cpus() -> None:
    assert machine_memory() > 64 * MB
    assert machine_cpus() >= 1
