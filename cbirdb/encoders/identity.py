"""Holds weights to their SHA-256: a name stands for the owners' file, and other weights get a name of their own.

The SHA-256 is in the record. If it is not, that of the first download of the pinned commit counts. If there is neither,
nothing can be compared, and a warning says so.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cbirdb.encoders.base import LoadOptions, WeightFiles, hash_files
from cbirdb.encoders.manifest import Manifest, read_manifest
from cbirdb.encoders.shipped import SHIPPED
from cbirdb.encoders.spec import EncoderSpec
from cbirdb.encoders.weights import find_weights, is_local, translated_read_errors, weights_error
from cbirdb.errors import EncoderError

log = logging.getLogger(__name__)

OTHERS: Mapping[str, str] = {
    "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912": "plain SAM ViT-B (sam_vit_b_01ec64.pth)",
    "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622": "plain SAM ViT-L (sam_vit_l_0b3195.pth)",
    "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e": "plain SAM ViT-H (sam_vit_h_4b8939.pth)",
    "1a1e860feeb895bc46f704d4faad2a0be739b5dfdca0ebdda520ffbcfb73f348": "facebook/sam-vit-base as a pickle",
    "c1bd9707bbb8c991782da3797ef033991d9b47f0f64e6907ab74d4374181cdaa": "MedSAM's copy at the hub, whose image encoder"
    " differs from the authors' file",
    "1cea07110a4a47edc51420b2dda6f3b8b58e7256e8f44b4ea6aa9696162ccb5d": "google/vit-base-patch16-224, fine-tuned on"
    " ImageNet-1k",
    "8792dba76fc3a96544a87bb0f76c82167b4ba509d57c08b98b9c9266f764598b": "BiomedCLIP's earlier checkpoint",
    "ae1e99fcefd534ed978cdeb8326f08030c96e28b7a81ffcbc98a857c84d14be1": "facebook/dinov2-small",
    "399fba97a95f22c36834418bc69373364a99af3a1153da1c0fb31db567c92e23": "facebook/dinov2-large",
}
"""SHA-256 of files that are taken for a shipped encoder's -> what they are."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The record that weights may run under, or the reason why they may not."""

    spec: EncoderSpec
    """The record that they may run under."""
    refusal: EncoderError | None = None
    """Why they may not run at all."""
    is_named: bool = False
    """True if the refusal says what they are instead."""


def identify(spec: EncoderSpec, folder: Path, files: WeightFiles, options: LoadOptions) -> Identity:
    """Compare the weights in a folder with those that the record's name stands for.

    :raises EncoderError: when files are missing or cannot be read.
    """
    weights = find_weights(spec, folder, files)
    known = known_sha256(spec, folder, options.store)
    _, _, prefix = spec.name.partition("@")
    origin = None if known or prefix or is_local(spec) else read_manifest(folder)
    is_foreign = origin is not None and spec.weights not in origin.commits
    if not known and not prefix and not is_foreign:
        if spec.name in SHIPPED:
            log.warning(
                "The weights of '%s' are not yet confirmed: their SHA-256 is unknown until `cbirdb encoders fetch %s`.",
                spec.name, spec.name,
            )  # fmt: skip
        return Identity(spec)
    with translated_read_errors(spec, weights):
        found = hash_files([weights])
    what = f"was fetched for '{origin.encoder}'" if origin is not None else None
    return identify_hash(spec, weights, found, options, known=known, what=what)


def identify_hash(
    spec: EncoderSpec,
    source: Path,
    found: str,
    options: LoadOptions,
    *,
    known: frozenset[str] | None = None,
    what: str | None = None,
) -> Identity:
    """Compare a SHA-256 of weights with those that the record's name stands for.

    :param source: the file that they are in, or that was made from them.
    :param known: SHA-256 that are right. None: those of the record, or of this machine's download.
    :param what: what the weights are, if it is known by other means.
    """
    known = known_sha256(spec, None, options.store) if known is None else known
    prefix = spec.name.partition("@")[2]
    if found.startswith(prefix) if prefix else found in known or not (known or what):
        return Identity(spec)
    if options.allow_other_weights and not prefix:
        return Identity(other_weights(spec, found[:8]))
    wanted = prefix or min(known, default="")[:12]
    reason = what or _what(found)
    return _refuse(spec, source, found, reason, f"has the SHA-256 {found[:12]}..., not {wanted}...")


def known_sha256(spec: EncoderSpec, folder: Path | None, store: Path | None) -> frozenset[str]:
    """Return the SHA-256 of the weights that a name stands for; empty if nobody knows it yet.

    :param folder: folder of the weights, whose list counts; None: the default one.
    """
    if spec.files:
        return frozenset(spec.files.values())
    if "@" in spec.name or spec.weights is None:
        return frozenset()
    # This machine's own download comes first: whoever fills another folder can write a list, too.
    for place in (store / spec.base_name if store is not None and spec.revision is not None else None, folder):
        manifest = read_manifest(place) if place is not None else None
        if manifest is not None and _is_of_record(manifest, spec):
            return frozenset(digest for name, digest in manifest.files.items() if Path(name).suffix in WEIGHTS)
    return frozenset()


WEIGHTS = frozenset({".safetensors", ".bin", ".pth"})
"""Ends of names of weights in a list; configurations and tokenizers are beside them."""


def _is_of_record(manifest: Manifest, spec: EncoderSpec) -> bool:
    commit = manifest.commits.get(str(spec.weights))
    return commit is not None and spec.revision in (None, commit)


def other_weights(spec: EncoderSpec, prefix: str) -> EncoderSpec:
    """Return the record of other weights for the same model: its name ends with 8 digits of their SHA-256.

    The owners' statements are about the owners' weights, so they are left out.
    """
    return replace(
        spec, name=f"{spec.base_name}@{prefix}", files={}, files_source=None, mirrors=(),
        licence="unknown", licence_source=None, restrictions=(), in_paper=False,
    )  # fmt: skip


def _what(found: str) -> str | None:
    """Say what a file is, by its SHA-256; None if nobody knows."""
    if found in OTHERS:
        return f"is {OTHERS[found]}"
    return next((f"is that of '{spec.name}'" for spec in SHIPPED.values() if found in spec.files.values()), None)


def _refuse(spec: EncoderSpec, weights: Path, found: str, what: str | None, otherwise: str) -> Identity:
    error = weights_error(
        spec, f"The file {weights} does not hold the weights of '{spec.name}': it {what or otherwise}."
    )
    name = f"{spec.base_name}@{found[:8]}"
    otherwise = (
        f"For this file, name the encoder {name}."
        if "@" in spec.name
        else f"To use this file nevertheless, under the name {name}: --allow-other-weights"
    )
    hint = f"{error.hint} {otherwise}"
    return Identity(spec, EncoderError(error.message, hint=hint), is_named=what is not None)


def confirmation(spec: EncoderSpec, store: Path) -> str | None:
    """Say where the SHA-256 of an encoder's weights is known from; None if it has none or they are the user's own."""
    if spec.weights is None or is_local(spec):
        return None
    if spec.files:
        return "record"
    try:
        known = known_sha256(spec, store / spec.base_name, store)
    except EncoderError as error:
        return error.message
    return "first fetch" if known else "not yet confirmed"
