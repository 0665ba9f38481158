"""Defines the record that describes an encoder.

Needs neither NumPy nor Pillow, so that commands that only want an encoder's name start at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeAlias

TrainingScheme: TypeAlias = Literal["none", "self-supervised", "weakly-supervised", "fully-supervised", "unknown"]

LOADERS: Mapping[str, str] = {"hf": "huggingface", "open_clip": "openclip", "timm": "timm_models"}
"""Families that load any model of their library: the library's name on the command line -> the module's name."""

NO_COMMERCIAL_USE = "no commercial use"
NO_CLINICAL_USE = "no clinical use"
AUTHORISED_CLINICAL_USE = "clinical use only with approval"
NO_DEPLOYED_USE = "no deployed use"
"""Restrictions that ``EncoderSpec.restrictions`` names: what licences forbid, or what the owners' model cards exclude."""


SHIPPED_ONLY = frozenset({"files", "files_source", "mirrors", "licence_source", "restrictions"})
"""Fields that only records of this package have."""


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """The facts that determine an encoder's output, and those that a person wants to know before using it."""

    name: str
    family: str
    """Name of the module ``cbirdb.encoders.<family>`` that runs it."""
    dim: int | None
    """Components of the embedding. None: unknown until it first runs."""
    embedding: str
    """The model's output that is the embedding, in words."""
    preprocessing: str
    """The steps from a picture to the model's input, in words."""
    licence: str
    training_scheme: TrainingScheme
    citation: str
    weights: str | None = None
    """Repository at the model hub, address of a file, or a local folder. None: no weights."""
    revision: str | None = None
    """Commit (or branch) of the repository, or SHA-256 of the file if ``weights`` is its address."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further settings of the family: values that JSON can hold."""
    in_paper: bool = False
    rendering: str = "as-displayed"
    """How DICOM is shown to it, as ``cbirdb.pixels.rendering`` reads it."""
    files: Mapping[str, str] = field(default_factory=dict)
    """File of weights -> SHA-256 of the owners' file. Empty: not known."""
    files_source: str | None = None
    """Source of the SHA-256: an address, or words."""
    mirrors: tuple[str, ...] = ()
    """Further addresses of the file at ``weights``; its SHA-256 decides whether a copy is good."""
    licence_source: str | None = None
    """Address of the page where the owners state the licence."""
    restrictions: tuple[str, ...] = ()
    """Uses that the owners forbid or exclude, such as ``NO_COMMERCIAL_USE``."""

    @property
    def base_name(self) -> str:
        """Return the name without the digits that other weights add to it."""
        return self.name.partition("@")[0]

    def as_json(self) -> dict[str, Any]:
        """Return the record as the database stores it."""
        return {
            **asdict(self),
            "options": dict(self.options),
            "files": dict(self.files),
            "mirrors": list(self.mirrors),
            "restrictions": list(self.restrictions),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> EncoderSpec:
        """Read a stored record.

        Ignore fields that an older or newer version stored, and those that only shipped records have: who may add a
        record does not decide what is confirmed, or what else is downloaded.
        """
        known = {item.name for item in fields(cls)} - SHIPPED_ONLY
        return cls(**{key: value for key, value in stored.items() if key in known})
