"""Finds a model's files on this machine and reads them without running code in them.

The user's folder comes first, then the folder of ``cbirdb encoders fetch``, then the hub's own cache. Nothing here uses
the network.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cbirdb.encoders.base import LoadOptions, WeightFiles
from cbirdb.encoders.packages import INSTALL, is_package, package_folder
from cbirdb.encoders.spec import EncoderSpec
from cbirdb.errors import EncoderError

ADDRESS = "https://"


def weights_error(spec: EncoderSpec, message: str) -> EncoderError:
    """Return an error about weights that says how to get the right ones."""
    if is_local(spec):
        return EncoderError(
            message,
            hint=f"'{spec.name}' was added with the folder {spec.weights} of this machine; name a copy with --weights DIR.",
        )
    if "@" in spec.name:
        return EncoderError(
            message, hint=f"'{spec.name}' stands for weights of your own; name their folder with --weights DIR."
        )
    if is_package(spec):
        return EncoderError(
            message,
            hint=f"Run {INSTALL} and leave out --weights: the weights of '{spec.base_name}' come with a package.",
        )
    fetch = f"cbirdb encoders fetch {spec.base_name}"
    hint = (
        f"Run: {fetch}. Without internet, run `{fetch} --to DIR` on another machine, copy DIR and pass --weights DIR."
    )
    return EncoderError(message, hint=hint)


def is_local(spec: EncoderSpec) -> bool:
    """Return True if the record names a folder of this machine."""
    return spec.weights is not None and Path(spec.weights).is_absolute()


def is_address(spec: EncoderSpec) -> bool:
    """Return True if the record names the address of a file and not a repository at the hub."""
    return spec.weights is not None and spec.weights.startswith(ADDRESS)


def find_folder(spec: EncoderSpec, files: WeightFiles, options: LoadOptions) -> Path:
    """Return the folder that holds the encoder's files.

    :raises EncoderError: when there is none, or the given path is no folder.
    """
    if options.weights is not None:
        given = _existing_folder(spec, options.weights)
        # The folder of several encoders' weights need not repeat those that came with a package.
        if not is_package(spec) or given != options.weights or (given / files.weights[0]).exists():
            return given
    if is_package(spec):
        return package_folder(spec, files)
    if is_local(spec):
        return _existing_folder(spec, Path(str(spec.weights)))
    fetched = options.store / spec.base_name if options.store is not None else None
    if fetched is not None and fetched.is_dir():
        return fetched
    cached = cached_folder(str(spec.weights), spec.revision, files) if not is_address(spec) else None
    if cached is None:
        searched = [str(fetched.parent)] if fetched is not None else []
        if not is_address(spec):
            import huggingface_hub as hub

            searched.append(f"the model hub's cache ({hub.constants.HF_HUB_CACHE})")
        file = f"{' or '.join(files.weights)} of {spec.weights}"
        raise weights_error(spec, f"'{spec.name}' needs {file}, which is neither in {' nor in '.join(searched)}.")
    return cached


def _existing_folder(spec: EncoderSpec, folder: Path) -> Path:
    if not folder.is_dir():
        problem = "is a file, not a folder" if folder.exists() else "does not exist"
        raise weights_error(spec, f"The folder of weights {folder} {problem}.")
    return folder / spec.base_name if (folder / spec.base_name).is_dir() else folder


def cached_folder(repository: str, revision: str | None, files: WeightFiles) -> Path | None:
    """Return the folder in the hub's cache that holds all the files, without asking the hub for newer ones."""
    import huggingface_hub as hub

    def cached(name: str) -> Path | None:
        try:
            path = hub.try_to_load_from_cache(repository, name, revision=revision)
        except hub.errors.HFValidationError:  # no repository can have such a name
            return None
        return Path(path) if isinstance(path, str) else None

    needed = [cached(name) for name in files.needed]
    weights = [path for name in files.weights if (path := cached(name)) is not None]
    if None in needed or (files.weights and not weights):
        return None
    return next(path for path in (*needed, *weights) if path is not None).parent


def find_weights(spec: EncoderSpec, folder: Path, files: WeightFiles) -> Path:
    """Return the file of weights, if the other needed files exist, too.

    :raises EncoderError: naming the missing file.
    """
    for name in files.needed:
        if not (folder / name).is_file():
            raise weights_error(spec, f"The folder {folder} has no file {name}.")
    for name in files.weights:
        if (folder / name).is_file():
            return folder / name
    if parts := sorted(folder.glob("*.index.json")):
        raise EncoderError(
            f"The weights in {folder} are split into several files ({parts[0].name}), which cbirdb cannot read.",
            hint="Save them as one: model.save_pretrained(FOLDER, max_shard_size='100GB').",
        )
    either = "neither " if len(files.weights) > 1 else "no "
    raise weights_error(spec, f"The folder {folder} has no weights: {either}{' nor '.join(files.weights)}.")


@contextmanager
def translated_read_errors(spec: EncoderSpec, path: Path) -> Iterator[None]:
    """Translate errors of reading into one that names the file.

    Damaged JSON, safetensors and pickles raise errors of their libraries, which have no common base.

    :raises EncoderError: when the file cannot be read.
    """
    try:
        yield
    except (EncoderError, MemoryError):
        raise
    except Exception as error:
        if "allocate memory" in str(error):  # PyTorch reports lack of memory as a plain RuntimeError
            raise MemoryError(str(error)) from error
        reason = _misfit(str(error)) or f"it is damaged or has another content ({type(error).__name__})"
        raise weights_error(spec, f"The file {path} does not fit '{spec.name}': {reason}.") from error


def _misfit(text: str) -> str | None:
    """Name the first tensor of PyTorch's list of those that a file lacks or that have another shape."""
    if found := re.search(r'Missing key\(s\) in state_dict: "([^"]+)"', text):
        return f"it lacks the tensor {found[1]}"
    shapes = re.search(r"size mismatch for (\S+): .*?torch\.Size\((.*?)\).*?torch\.Size\((.*?)\)", text)
    if shapes is not None:
        return f"its tensor {shapes[1]} has the shape {shapes[2]}, not {shapes[3]}"
    if found := re.search(r'Unexpected key\(s\) in state_dict: "([^"]+)"', text):
        return f"it has the tensor {found[1]}, which the model lacks"
    return None


def check_config(spec: EncoderSpec, path: Path, config: Any) -> None:
    """Refuse the configuration of another model: every value in the record must match.

    :param config: an object or nested dictionaries; a record's keys are paths such as ``vision_config.image_size``.
    :raises EncoderError: naming the first value that differs.
    """
    for key, wanted in spec.options.get("config", {}).items():
        found = config
        for part in key.split("."):
            found = found.get(part) if isinstance(found, dict) else getattr(found, part, None)
        if found != wanted:
            raise weights_error(
                spec, f"The file {path} does not describe '{spec.name}': {key} is {found}, not {wanted}."
            )


def read_state(path: Path) -> dict[str, Any]:
    """Return the tensors of a file by name. Only safetensors and pickles of pure tensors are read, so no code runs."""
    import torch
    from safetensors.torch import load_file

    if path.suffix == ".safetensors":
        state: dict[str, Any] = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    return state
