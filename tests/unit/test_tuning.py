"""Choose the embedded server's settings on machines of several sizes."""

from __future__ import annotations

from pathlib import Path

import pytest

from cbirdb.db.server import tuning
from cbirdb.db.server.tuning import GB, MB, server_settings


def on_machine(monkeypatch: pytest.MonkeyPatch, folder: Path, *, memory: int, cpus: int = 4) -> dict[str, str]:
    monkeypatch.setattr(tuning, "machine_memory", lambda: memory)
    monkeypatch.setattr(tuning, "machine_cpus", lambda: cpus)
    return server_settings(folder)


def megabytes(value: str) -> int:
    assert value.endswith("MB")
    return int(value[:-2])


@pytest.mark.parametrize(
    ("memory", "buffers", "maintenance"),
    [(256 * MB, 128, 64), (8 * GB, 2048, 2048), (24 * GB, 6144, 6144), (1024 * GB, 16384, 8192)],
)
def test_buffers_and_maintenance_memory_are_a_quarter_of_the_machine_within_bounds(
    memory: int, buffers: int, maintenance: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = on_machine(monkeypatch, tmp_path, memory=memory)
    assert megabytes(settings["shared_buffers"]) == buffers
    assert megabytes(settings["maintenance_work_mem"]) == maintenance


def test_max_wal_size_on_a_nearly_full_disk_is_one_that_postgresql_accepts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tuning.shutil, "disk_usage", lambda _path: type("Usage", (), {"free": 10 * MB})())
    # PostgreSQL wants at least two segments of 16 MB, and min_wal_size (80 MB) below it.
    assert megabytes(on_machine(monkeypatch, tmp_path, memory=8 * GB)["max_wal_size"]) >= 80


@pytest.mark.parametrize("cpus", [1, 2, 64])
def test_worker_processes_outnumber_parallel_workers(
    cpus: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = {
        name: int(value)
        for name, value in on_machine(monkeypatch, tmp_path, memory=8 * GB, cpus=cpus).items()
        if "worker" in name
    }
    assert settings["max_worker_processes"] > settings["max_parallel_workers"] >= 1
    assert 1 <= settings["max_parallel_workers_per_gather"] <= settings["max_parallel_workers"]
    assert 1 <= settings["max_parallel_maintenance_workers"] <= max(1, settings["max_parallel_workers"])


@pytest.mark.parametrize(("room", "kind"), [(64 * MB, "mmap"), (32 * GB, None)])
def test_mmap_is_used_if_the_shared_memory_folder_is_small(
    room: int, kind: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tuning, "_shared_memory_room", lambda: room)
    assert on_machine(monkeypatch, tmp_path, memory=8 * GB).get("dynamic_shared_memory_type") == kind
