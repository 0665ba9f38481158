"""Continue downloads that broke off, go to the second source, and say what went wrong in one sentence."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("huggingface_hub")

from cbirdb.encoders import download as downloading
from cbirdb.encoders.base import LoadOptions
from cbirdb.encoders.fetch import fetch
from cbirdb.encoders.registry import has_files
from cbirdb.encoders.spec import EncoderSpec
from cbirdb.progress import Task
from tests.support.fake_hub import FakeHub
from tests.support.fetch_checks import RESNET50, assert_says_the_other_way, contents, refused, sha256

NAME = "medsam_vit_b.pth"
PARTIAL = f"medsam-vit-b/{NAME}.partial"


def good(spec: EncoderSpec, to: Path) -> bool:
    """Return True if the fetched file is the recorded one, and nothing else was left."""
    fetched = fetch(spec, to)
    return fetched.files == {NAME: spec.revision} and PARTIAL not in contents(to)


def ranges(hub: FakeHub) -> list[str | None]:
    return [headers.get("Range") for headers in hub.headers]


class Notes:
    """Receives progress and keeps it."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.done: list[tuple[int, int | None]] = []

    @contextmanager
    def task(self, description: str, *, total: int | None, unit: str) -> Iterator[Task]:
        notes = self

        class Kept:
            def advance(self, n: int = 1) -> None: ...

            def update(self, *, done: int, total: int | None = total) -> None:
                notes.done.append((done, total))

        yield Kept()

    def note(self, message: str) -> None:
        self.notes.append(message)


# --- resuming --------------------------------------------------------------------------------------------------------


def test_broken_connection_is_continued_where_it_broke(hub: FakeHub, medsam: EncoderSpec, tmp_path: Path) -> None:
    hub.cuts[NAME] = [100_000, 50_000]
    assert good(medsam, tmp_path)
    assert ranges(hub) == [None, "bytes=100000-", "bytes=150000-"]


def test_next_fetch_continues_what_an_earlier_one_left(hub: FakeHub, medsam: EncoderSpec, tmp_path: Path) -> None:
    hub.cuts[NAME] = [100_000, 0, 0, 0]
    error = refused(medsam, tmp_path)
    assert "ends the connection before the file is complete" in error.message
    assert "The files downloaded so far are kept" in (error.hint or "")
    assert len(contents(tmp_path)[PARTIAL]) == 100_000
    assert not has_files(medsam, LoadOptions(store=tmp_path))
    hub.headers.clear()
    assert good(medsam, tmp_path)
    assert ranges(hub) == ["bytes=100000-"]


def test_complete_rest_of_a_killed_download_is_not_downloaded_again(
    hub: FakeHub, medsam: EncoderSpec, tmp_path: Path
) -> None:
    (tmp_path / "medsam-vit-b").mkdir()
    (tmp_path / PARTIAL).write_bytes(hub.files[f"records/1/{NAME}"])
    assert good(medsam, tmp_path)
    assert ranges(hub) == ["bytes=300000-"]


@pytest.mark.parametrize("size", [1000, 300_000, 400_000])
def test_rest_of_another_file_is_replaced(size: int, hub: FakeHub, medsam: EncoderSpec, tmp_path: Path) -> None:
    (tmp_path / "medsam-vit-b").mkdir()
    (tmp_path / PARTIAL).write_bytes(os.urandom(size))
    assert good(medsam, tmp_path)


def test_server_without_ranges_sends_the_whole_file(hub: FakeHub, medsam: EncoderSpec, tmp_path: Path) -> None:
    hub.gives_ranges = False
    (tmp_path / "medsam-vit-b").mkdir()
    (tmp_path / PARTIAL).write_bytes(hub.files[f"records/1/{NAME}"][:1000])
    assert good(medsam, tmp_path)


def test_slow_server_is_waited_for_while_bytes_arrive(
    hub: FakeHub, medsam: EncoderSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloading, "SILENCE", 0.5)
    hub.pauses[NAME] = 0.1
    assert good(medsam, tmp_path)


# --- sources ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def mirrored(hub: FakeHub, medsam: EncoderSpec) -> EncoderSpec:
    hub.files[f"copies/{NAME}"] = hub.files[f"records/1/{NAME}"]
    return replace(medsam, mirrors=(f"{hub.endpoint}/copies/{NAME}",))


@pytest.mark.parametrize("status", [403, 404, 429, 500, 503])
def test_second_source_is_used_when_the_first_refuses(
    status: int, hub: FakeHub, mirrored: EncoderSpec, tmp_path: Path
) -> None:
    hub.refusals["/records/"] = (status, {})
    assert good(mirrored, tmp_path)


def test_second_source_continues_what_the_first_began(hub: FakeHub, mirrored: EncoderSpec, tmp_path: Path) -> None:
    hub.cuts[f"records/1/{NAME}"] = [100_000, 0, 0, 0]
    assert good(mirrored, tmp_path)
    assert ranges(hub)[-1] == "bytes=100000-"


def test_failure_of_all_sources_names_each_with_its_reason(hub: FakeHub, mirrored: EncoderSpec, tmp_path: Path) -> None:
    hub.refusals["/records/"] = (403, {})
    hub.refusals["/copies/"] = (404, {})
    error = refused(mirrored, tmp_path)
    assert (
        f"{mirrored.weights} answers with status 403; {mirrored.mirrors[0]} answers with status 404." in error.message
    )
    assert_says_the_other_way(error, "medsam-vit-b")


def test_second_source_with_another_file_is_refused(hub: FakeHub, mirrored: EncoderSpec, tmp_path: Path) -> None:
    hub.refusals["/records/"] = (403, {})
    hub.files[f"copies/{NAME}"] = b"something else"
    assert "has another content than recorded" in refused(mirrored, tmp_path).message
    assert contents(tmp_path) == {}


def test_server_error_that_passes_is_tried_again(
    hub: FakeHub, medsam: EncoderSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.refusals["/records/"] = (503, {})
    monkeypatch.setattr("time.sleep", lambda _: hub.refusals.clear())
    assert good(medsam, tmp_path)
    assert len(hub.requests) == 2


def test_redirect_is_followed(hub: FakeHub, medsam: EncoderSpec, tmp_path: Path) -> None:
    hub.files["elsewhere"] = hub.files.pop(f"records/1/{NAME}")
    hub.refusals["/records/"] = (302, {"Location": f"{hub.endpoint}/elsewhere"})
    assert good(medsam, tmp_path)


def test_proxy_of_the_environment_is_used(
    hub: FakeHub, medsam: EncoderSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub of the tests plays the proxy: nobody else knows the host."""
    monkeypatch.setenv("http_proxy", hub.endpoint)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert good(replace(medsam, weights=f"http://weights.invalid/records/1/{NAME}"), tmp_path)


def test_requests_name_the_program_and_its_version(hub: FakeHub, medsam: EncoderSpec, tmp_path: Path) -> None:
    fetch(medsam, tmp_path)
    (agent,) = {headers["User-Agent"] for headers in hub.headers}
    assert agent.startswith("cbirdb/")
    assert "https://" in agent


FETCH = """
import sys
from dataclasses import replace
from pathlib import Path
from cbirdb.encoders.fetch import fetch
from cbirdb.encoders.shipped import SHIPPED
fetch(replace(SHIPPED["resnet50"], files={}), Path(sys.argv[1]))
"""


@pytest.mark.parametrize("way", ["HF_ENDPOINT", "HTTP_PROXY"])
def test_hub_is_asked_at_the_endpoint_and_through_the_proxy_of_the_environment(
    way: str, hub: FakeHub, resnet: dict, tmp_path: Path
) -> None:
    environment = {name: value for name, value in os.environ.items() if name.lower() not in {"no_proxy", "http_proxy"}}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.endpoint}
    if way == "HTTP_PROXY":
        environment |= {"HF_ENDPOINT": "http://hub.invalid", "HTTP_PROXY": hub.endpoint}
    command = [sys.executable, "-c", FETCH, str(tmp_path / "to")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "to")["resnet50/model.safetensors"] == resnet["model.safetensors"]
    agents = [{name.lower(): value for name, value in headers.items()}["user-agent"] for headers in hub.headers]
    # The hub's library asks a question of its own, too, which names no model.
    about = [agent for request, agent in zip(hub.requests, agents, strict=True) if "resnet-50" in request]
    assert [agent for agent in about if not agent.startswith("cbirdb/")] == []


# --- progress --------------------------------------------------------------------------------------------------------


def test_size_and_progress_of_a_file_are_shown(hub: FakeHub, medsam: EncoderSpec, tmp_path: Path) -> None:
    progress = Notes()
    hub.cuts[NAME] = [100_000]
    fetch(medsam, tmp_path, progress=progress)
    assert progress.notes == [
        f"Downloading {medsam.weights}: 0.3 MB.",
        f"Downloading {medsam.weights}: 0.3 MB, of which 0.1 MB are here.",
    ]
    assert progress.done[-1] == (300_000, 300_000)
    assert [done for done, _ in progress.done] == sorted(done for done, _ in progress.done)


def test_size_and_progress_of_a_repository_are_shown(hub: FakeHub, resnet: dict, tmp_path: Path) -> None:
    hub.pauses["model.safetensors"] = 0.15
    progress = Notes()
    fetch(RESNET50, tmp_path, progress=progress)
    assert progress.notes == [f"Downloading microsoft/resnet-50 at commit 34c2154c194f from {hub.endpoint}: 0.3 MB."]
    assert progress.done
    assert {total for _, total in progress.done} == {300_000 + len(resnet["config.json"]) + 2}


# --- folders ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def largest_file() -> Iterator[None]:
    """Let the system refuse to write more than 100 kB to a file, as a full disk or a quota does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("largest_file")
def test_folder_that_is_full_is_named(medsam: EncoderSpec, tmp_path: Path) -> None:
    error = refused_folder(medsam, tmp_path)
    assert f"The folder {tmp_path / 'medsam-vit-b'} cannot take the weights: File too large." in error


@pytest.mark.usefixtures("largest_file")
def test_folder_that_is_full_is_named_while_the_hub_is_read(resnet: dict, tmp_path: Path) -> None:
    assert f"The folder {tmp_path / 'resnet50'} cannot take the weights" in refused_folder(RESNET50, tmp_path)


def test_read_only_folder_is_named(medsam: EncoderSpec, bound_by_permissions: Path) -> None:
    (bound_by_permissions / "medsam-vit-b").mkdir()
    (bound_by_permissions / "medsam-vit-b").chmod(0o555)
    assert "cannot take the weights: Permission denied." in refused_folder(medsam, bound_by_permissions)


def test_read_only_folder_is_named_before_the_hub_sends_weights(
    hub: FakeHub, resnet: dict, bound_by_permissions: Path
) -> None:
    (bound_by_permissions / "resnet50").mkdir()
    (bound_by_permissions / "resnet50").chmod(0o555)
    assert "cannot take the weights: Permission denied." in refused_folder(RESNET50, bound_by_permissions)
    assert "model.safetensors" not in hub.downloads()


def refused_folder(spec: EncoderSpec, to: Path) -> str:
    """Return the message about a folder, whose hint names another."""
    from cbirdb.errors import EncoderError

    with pytest.raises(EncoderError) as caught:
        fetch(spec, to)
    assert "--to" in (caught.value.hint or "")
    assert "\n" not in str(caught.value)
    return caught.value.message


# --- content ---------------------------------------------------------------------------------------------------------


def test_repository_whose_weights_have_another_sha256_is_refused(hub: FakeHub, resnet: dict, tmp_path: Path) -> None:
    error = refused(replace(RESNET50, files={"model.safetensors": "0" * 64}), tmp_path)
    assert "has another content than recorded for 'resnet50'" in error.message
    assert sha256(resnet["model.safetensors"])[:12] in error.message
    assert "resnet50/model.safetensors" not in contents(tmp_path)
    assert not has_files(RESNET50, LoadOptions(store=tmp_path))


def test_archive_whose_weights_have_another_sha256_is_refused(
    address: Callable[..., EncoderSpec], tmp_path: Path
) -> None:
    spec = replace(address("medsam-vit-b", NAME, b"weights"), files={NAME: "0" * 64})
    assert "has another content than recorded" in refused(spec, tmp_path).message
    assert contents(tmp_path) == {}
