"""Determines this process's shard: from --shard, else from the variables of torchrun or Slurm."""

from __future__ import annotations

import re
from collections.abc import Mapping

from cbirdb.errors import InputError, OptionError
from cbirdb.records import WHOLE, Shard

LAUNCHERS = (
    ("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK"),
    # Not SLURM_NTASKS: Slurm sets it in the job's script, too, which runs once and is not a task of a step.
    ("Slurm", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
)
"""Launcher's name, and its variables: rank of this process, number of processes, rank on this machine."""


def parse_shard(text: str) -> Shard:
    """Parse ``I/N``: ``0/4`` is the first of four shards.

    :raises OptionError: when the text has another form.
    """
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text.strip())
    index, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 0 <= index < count:
        raise OptionError(
            f"'{text}' is not a shard.", hint="Write I/N with I from 0 to N-1. Two processes have 0/2 and 1/2."
        )
    return Shard(index, count)


def shard_of_process(environment: Mapping[str, str]) -> tuple[Shard, str | None]:
    """Return the shard that a launcher assigned to this process, and the launcher's name; else the whole and None.

    :raises InputError: when the launcher's variables are no shard.
    """
    for launcher, number, count, _ in LAUNCHERS:
        if environment.get(number) and environment.get(count):
            try:
                shard = parse_shard(f"{environment[number]}/{environment[count]}")
            except InputError as error:
                raise InputError(
                    f"{launcher} set {number}={environment[number]} and {count}={environment[count]}, which is no shard.",
                    hint="Give the shard with --shard I/N; --shard 0/1 is everything.",
                ) from error
            return (shard, launcher) if shard.count > 1 else (WHOLE, None)
    return WHOLE, None


def tasks_without_step(environment: Mapping[str, str]) -> int | None:
    """Return the number of tasks of a Slurm job whose script runs this process itself, without srun; else None."""
    tasks = environment.get("SLURM_NTASKS", "")
    in_script = environment.get("SLURM_PROCID") and not environment.get("SLURM_STEP_NUM_TASKS")
    return int(tasks) if in_script and re.fullmatch("[0-9]{1,9}", tasks) and int(tasks) > 1 else None


def local_rank(environment: Mapping[str, str]) -> int | None:
    """Return the rank of this process among its launcher's processes on this machine; None without a launcher."""
    given = (environment.get(name, "") for *_, name in LAUNCHERS)
    return next((int(number) for number in given if number.isdecimal()), None)
