"""Find the process's share of the images and its GPU: as the user says, else as the launcher says."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from cbirdb.encoders.own_gpu import own_gpu
from cbirdb.errors import InputError
from cbirdb.parallel.shards import local_rank, parse_shard, shard_of_process, tasks_without_step
from cbirdb.records import WHOLE, Shard


@pytest.mark.parametrize(
    ("text", "shard"),
    [("0/1", WHOLE), ("0/4", Shard(0, 4)), ("3/4", Shard(3, 4)), (" 1/2 ", Shard(1, 2)), ("007/12", Shard(7, 12))],
)
def test_shard_text_is_parsed_into_number_and_count(text: str, shard: Shard) -> None:
    assert parse_shard(text) == shard


@pytest.mark.parametrize(
    "text",
    ["2/2", "3/2", "0/0", "1/0", "-1/2", "1/-2", "x", "", "/", "1", "1/", "/2", "1/2/3", "1.0/2", "0x0/2", "1 / 2", "²/3",
     "1\n/2", "0/" + "9" * 5000],
    ids=lambda text: text[:8] or "nothing",
)  # fmt: skip
def test_malformed_shard_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InputError, match="is not a shard") as refused:
        parse_shard(text)
    assert "0/2 and 1/2" in str(refused.value)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (WHOLE, None)),
        ({"RANK": "1", "WORLD_SIZE": "4"}, (Shard(1, 4), "torchrun")),
        ({"RANK": "0", "WORLD_SIZE": "1"}, (WHOLE, None)),
        ({"RANK": "1"}, (WHOLE, None)),
        ({"WORLD_SIZE": "4"}, (WHOLE, None)),
        ({"RANK": "", "WORLD_SIZE": ""}, (WHOLE, None)),
        ({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "3", "SLURM_NTASKS": "3"}, (Shard(2, 3), "Slurm")),
        # A job's script without srun runs once, however many tasks the job has.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "3"}, (WHOLE, None)),
        # A step with fewer tasks than its job.
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "8"}, (Shard(1, 2), "Slurm")),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "8"}, (WHOLE, None)),
        # torchrun within a Slurm job takes precedence.
        (
            {"RANK": "5", "WORLD_SIZE": "8", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"},
            (Shard(5, 8), "torchrun"),
        ),
    ],
    ids=str,
)
def test_shard_is_read_from_the_variables_of_torchrun_or_slurm(
    environment: dict[str, str], expected: tuple[Shard, str | None]
) -> None:
    assert shard_of_process(environment) == expected


@pytest.mark.parametrize(
    ("environment", "tasks"),
    [
        ({}, None),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, 4),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, None),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "x"}, None),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"}, None),
        ({"SLURM_NTASKS": "4"}, None),
    ],
    ids=str,
)
def test_slurm_script_outside_a_step_reports_its_number_of_tasks(
    environment: dict[str, str], tasks: int | None
) -> None:
    assert tasks_without_step(environment) == tasks


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"RANK": "4", "WORLD_SIZE": "4"}, "torchrun set RANK=4 and WORLD_SIZE=4"),
        ({"RANK": "-1", "WORLD_SIZE": "4"}, "torchrun set RANK=-1"),
        ({"RANK": "a", "WORLD_SIZE": "b"}, "torchrun set RANK=a and WORLD_SIZE=b"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "WORLD_SIZE=0"),
        ({"SLURM_PROCID": "9", "SLURM_STEP_NUM_TASKS": "3"}, "Slurm set SLURM_PROCID=9 and SLURM_STEP_NUM_TASKS=3"),
    ],
    ids=str,
)
def test_invalid_launcher_variables_are_refused_with_the_option_that_overrides_them(
    environment: dict[str, str], words: str
) -> None:
    with pytest.raises(InputError) as refused:
        shard_of_process(environment)
    assert words in str(refused.value)
    assert "--shard I/N" in str(refused.value)


@pytest.mark.parametrize("device", ["cpu", "cuda:0", "cuda:3"])
def test_chosen_device_is_kept(device: str) -> None:
    assert own_gpu(device, 1) == device


def test_device_stays_auto_without_a_launcher() -> None:
    assert local_rank({}) is None
    assert local_rank({"LOCAL_RANK": "x"}) is None
    assert own_gpu("auto", None) == "auto"


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_processes_on_one_machine_are_spread_over_its_gpus(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = SimpleNamespace(cuda=SimpleNamespace(device_count=lambda: 2))
    monkeypatch.setitem(sys.modules, "torch", torch)
    given = [own_gpu(device, local_rank({"SLURM_LOCALID": str(number)})) for number in range(3)]
    assert given == ["cuda:0", "cuda:1", "cuda:0"]


def test_device_stays_auto_on_a_machine_with_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(device_count=lambda: 1)))
    assert own_gpu("auto", 1) == "auto"
