"""Read what fetching a model's files left in a folder or reported."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from cbirdb.encoders.fetch import fetch
from cbirdb.encoders.manifest import MANIFEST
from cbirdb.encoders.shipped import SHIPPED
from cbirdb.encoders.spec import EncoderSpec
from cbirdb.errors import EncoderError

# The hub of the tests has other weights.
RESNET50 = replace(SHIPPED["resnet50"], files={})
BIOMEDCLIP = replace(SHIPPED["biomedclip"], files={})
TEXT = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"
TEXT_COMMIT = str(BIOMEDCLIP.options["text_revision"])


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files, without those that the hub's library keeps for itself."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".cache" not in path.relative_to(folder).parts
    }


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def refused(spec: EncoderSpec, to: Path) -> EncoderError:
    """Return the error of fetching, which must be one for a person to read."""
    with pytest.raises(EncoderError) as caught:
        fetch(spec, to)
    error = caught.value
    assert error.message.endswith(".")
    assert "\n" not in str(error)
    assert f"'{spec.name}'" in error.message
    return error


def assert_says_the_other_way(error: EncoderError, name: str) -> None:
    assert f"cbirdb encoders fetch {name} --to DIR" in (error.hint or "")
    assert "--weights DIR" in (error.hint or "")


def manifest(folder: Path) -> dict:
    return json.loads((folder / MANIFEST).read_text())


def refused_to(to: Path) -> EncoderError:
    with pytest.raises(EncoderError) as caught:
        fetch(RESNET50, to)
    return caught.value
