"""Give each process of a launcher a GPU of its own."""

from __future__ import annotations


def own_gpu(device: str, local_rank: int | None) -> str:
    """Turn ``auto`` and ``cuda``, on a machine with several GPUs, into this process's GPU.

    :param local_rank: number of this process on this machine; None: it is no launcher's.
    """
    if device not in {"auto", "cuda"} or local_rank is None:
        return device
    try:
        import torch
    except ModuleNotFoundError:
        return device  # tiny-image needs none, and other encoders say what is missing
    gpus = torch.cuda.device_count()
    return f"cuda:{local_rank % gpus}" if gpus > 1 else device
