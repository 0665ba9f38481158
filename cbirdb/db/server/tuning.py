"""Derives the embedded server's memory and parallelism from this machine."""

from __future__ import annotations

import shutil
from pathlib import Path

from cbirdb.parallel.machine import machine_cpus, machine_memory

MB = 1 << 20
GB = 1 << 30


def server_settings(data: Path) -> dict[str, str]:
    """Return PostgreSQL settings for a machine that the server shares with the encoders.

    :param data: the data folder; the free space of its disk limits the WAL.
    """
    memory, cpus = machine_memory(), machine_cpus()
    free_disk = shutil.disk_usage(data).free
    maintenance = _clamp(memory // 4, 64 * MB, 8 * GB)
    settings = {
        "shared_buffers": _size(_clamp(memory // 4, 128 * MB, 16 * GB)),
        "effective_cache_size": _size(memory // 2),
        # An HNSW graph that does not fit into it builds many times slower.
        "maintenance_work_mem": _size(maintenance),
        # By default each autovacuum worker could take as much as maintenance_work_mem again.
        "autovacuum_work_mem": "256MB",
        "work_mem": _size(_clamp(memory // 256, 8 * MB, 128 * MB)),
        # Loading and index builds write much WAL; a low limit means a checkpoint every few seconds.
        "max_wal_size": _size(_clamp(free_disk // 10, 256 * MB, 16 * GB)),
        "checkpoint_completion_target": "0.9",
        "max_worker_processes": str(max(8, cpus + 4)),
        "max_parallel_workers": str(cpus),
        "max_parallel_workers_per_gather": str(max(1, cpus // 2)),
        "max_parallel_maintenance_workers": str(max(1, cpus - 1)),
        "max_connections": str(max(100, 4 * cpus)),
        # A killed client's index build must not keep the server busy for an hour.
        "client_connection_check_interval": "5s",
        "logging_collector": "off",
        "log_min_duration_statement": "-1",
        # Log neither values nor statements of an error: they may name a patient.
        "log_parameter_max_length_on_error": "0",
        "log_min_error_statement": "panic",
    }
    if _shared_memory_room() < maintenance:
        # Parallel index builds share their graph through /dev/shm, which is 64 MB in many containers.
        settings["dynamic_shared_memory_type"] = "mmap"
    return settings


def _shared_memory_room() -> int:
    folder = Path("/dev/shm")  # noqa: S108
    return shutil.disk_usage(folder).free if folder.is_dir() else 0


def _clamp(value: int, low: int, high: int) -> int:
    return max(low, min(value, high))


def _size(count: int) -> str:
    return f"{count // MB}MB"
