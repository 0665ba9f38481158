"""Gives each process of a launcher a GPU of its own."""

from __future__ import annotations


def own_gpu(device: str, local_rank: int | None) -> str:
    """Turn ``auto`` and ``cuda`` into this process's GPU on a machine with several.

    :param local_rank: rank of this process on this machine; None without a launcher.
    """
    if device not in {"auto", "cuda"} or local_rank is None:
        return device
    try:
        import torch
    except ModuleNotFoundError:
        return device  # tiny-image needs no torch, and other encoders report its absence
    gpus = torch.cuda.device_count()
    return f"cuda:{local_rank % gpus}" if gpus > 1 else device
