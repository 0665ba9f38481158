"""Refuse weights that are split into several files, and say how to join them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub")

from cbirdb.encoders.base import WeightFiles
from cbirdb.encoders.shipped import SHIPPED
from cbirdb.encoders.weights import find_weights
from cbirdb.errors import EncoderError

FILES = WeightFiles(needed=("config.json",), weights=("model.safetensors", "pytorch_model.bin"))


@pytest.mark.parametrize("suffix", ["model.safetensors", "pytorch_model.bin"])
def test_weights_split_into_several_files_are_refused_with_a_way_to_join_them(tmp_path: Path, suffix: str) -> None:
    stem, _, ending = suffix.partition(".")
    for name in ("config.json", f"{suffix}.index.json", f"{stem}-00001-of-00002.{ending}"):
        (tmp_path / name).write_bytes(b"{}")
    spec = replace(SHIPPED["resnet50"], weights=str(tmp_path))
    with pytest.raises(EncoderError, match="split into several files") as refused:
        find_weights(spec, tmp_path, FILES)
    assert "max_shard_size" in str(refused.value)
    (tmp_path / suffix).touch()
    assert find_weights(spec, tmp_path, FILES) == tmp_path / suffix
