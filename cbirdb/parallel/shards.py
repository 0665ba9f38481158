"""Which share of the work is this process's: as the user says, else as torchrun or Slurm say."""

from __future__ import annotations

import re
from collections.abc import Mapping

from cbirdb.errors import InputError, OptionError
from cbirdb.records import WHOLE, Shard

LAUNCHERS = (
    ("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK"),
    # Not SLURM_NTASKS: that is set in a job's script, too, which runs once and is no task of a step.
    ("Slurm", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
)
"""Name, and variables: number of this process, of how many, and which it is on its machine."""


def parse_shard(text: str) -> Shard:
    """``0/4`` is the first of four.

    :raises OptionError: when it is not of that form.
    """
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text.strip())
    index, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 0 <= index < count:
        raise OptionError(
            f"'{text}' is not a shard.", hint="It is I/N with I from 0 to N-1: of two processes, 0/2 and 1/2."
        )
    return Shard(index, count)


def shard_of_process(environment: Mapping[str, str]) -> tuple[Shard, str | None]:
    """The shard that a launcher gives this process, and the launcher's name; the whole where there is none.

    :raises InputError: when its variables make no sense.
    """
    for launcher, number, count, _ in LAUNCHERS:
        if environment.get(number) and environment.get(count):
            try:
                shard = parse_shard(f"{environment[number]}/{environment[count]}")
            except InputError as error:
                raise InputError(
                    f"{launcher} set {number}={environment[number]} and {count}={environment[count]}, which is no shard.",
                    hint="Say which with --shard I/N; --shard 0/1 is everything.",
                ) from error
            return (shard, launcher) if shard.count > 1 else (WHOLE, None)
    return WHOLE, None


def tasks_without_step(environment: Mapping[str, str]) -> int | None:
    """Tasks of the Slurm job whose script runs this process by itself, without srun; None where that is not so."""
    tasks = environment.get("SLURM_NTASKS", "")
    in_script = environment.get("SLURM_PROCID") and not environment.get("SLURM_STEP_NUM_TASKS")
    return int(tasks) if in_script and re.fullmatch("[0-9]{1,9}", tasks) and int(tasks) > 1 else None


def local_rank(environment: Mapping[str, str]) -> int | None:
    """Number of this process among those of its launcher on this machine; None without a launcher."""
    given = (environment.get(name, "") for *_, name in LAUNCHERS)
    return next((int(number) for number in given if number.isdecimal()), None)
