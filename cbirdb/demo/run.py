"""Runs the whole pipeline on generated phantoms, as a newcomer sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from cbirdb.allowed_roots import AllowedRoots
from cbirdb.datasets.base import ReadOptions
from cbirdb.db.embeddings import StoredEncoder, get_encoder
from cbirdb.demo.phantoms import write_phantoms
from cbirdb.encode import EncodeOptions, encode
from cbirdb.encode.decode import preload_workers
from cbirdb.encoders.base import Encoder
from cbirdb.errors import InputError
from cbirdb.evaluate import EvaluationOptions, evaluate
from cbirdb.index import audit_index, build_index
from cbirdb.index.methods import DEFAULT_METHOD, METHODS
from cbirdb.ingest import ingest
from cbirdb.metrics import metrics
from cbirdb.progress import SILENT, Progress
from cbirdb.search import similar_images
from cbirdb.search.contact_sheet import write_contact_sheet

DATASET = "phantoms"
K = 100
CUTOFFS = (1, 3, 5, 10)
SEARCHES = 3


@dataclass(frozen=True, slots=True)
class SearchExample:
    """One of the demo's searches, with its contact sheet."""

    encoder: str
    image_id: int
    query: str
    rows: list[dict[str, Any]]
    sheet: Path


@dataclass(slots=True)
class DemoResult:
    """The demo's results, for the command line to show."""

    images: int
    ingested: dict[str, object]
    overall: list[dict[str, Any]] = field(default_factory=list)
    by_class: list[dict[str, Any]] = field(default_factory=list)
    searches: list[SearchExample] = field(default_factory=list)


def demo(
    connection: psycopg.Connection,
    encoders: Sequence[Encoder],
    out: Path,
    *,
    connect: Callable[[], psycopg.Connection],
    home: Path | None = None,
    progress: Progress = SILENT,
) -> DemoResult:
    """Generate phantoms, ingest, encode, index, evaluate and search, with each of the encoders.

    :param out: folder for phantoms and contact sheets; created if missing.
    :param home: folder that remembers that the phantoms' folder may be read; None: do not remember.
    :raises InputError: when the folder cannot be written, or another folder's dataset has the name.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"The folder {out} cannot be created: {error.strerror}.", hint="Choose another --out."
        ) from error
    preload_workers(encoders)
    phantoms = out / "phantoms"
    images = write_phantoms(phantoms)
    # A demo run from another folder has the same dataset: its pictures are identical to the byte.
    summary = ingest(
        connection, "folder", phantoms, options=ReadOptions(name=DATASET), moved=True, home=home, progress=progress
    )  # fmt: skip
    result = DemoResult(images, summary.row())
    encode(connection, encoders, EncodeOptions(datasets=[DATASET]), connect=connect, progress=progress)
    for encoder in encoders:
        name = encoder.spec.name
        stored = get_encoder(connection, name)
        method = METHODS[DEFAULT_METHOD]()
        build_index(connection, stored, method, connect=connect, progress=progress)
        audit_index(connection, stored, progress=progress)
        run = evaluate(
            connection, stored, EvaluationOptions(datasets=(DATASET,), k=K), connect=connect, progress=progress
        )
        result.overall += metrics(connection, cutoffs=CUTOFFS, run=run.run_id)
        result.by_class += metrics(connection, by="class", cutoffs=CUTOFFS, run=run.run_id)
        for number, image_id in enumerate(_queries(connection, run.run_id), start=1):
            result.searches.append(_search(connection, stored, image_id, out / f"{name}-search-{number}.png"))
    return result


def _queries(connection: psycopg.Connection, run_id: int) -> list[int]:
    """Return the first test image of each of a few modalities, so that the examples differ."""
    found = connection.execute(
        """
        SELECT min(r.query_image_id)
        FROM cbir.search_result AS r INNER JOIN cbir.image AS i ON i.image_id = r.query_image_id
        WHERE r.run_id = %s GROUP BY i.modality ORDER BY i.modality DESC LIMIT %s
        """,
        [run_id, SEARCHES],
    )
    return [row[0] for row in found]


def _search(connection: psycopg.Connection, encoder: StoredEncoder, image_id: int, sheet: Path) -> SearchExample:
    filters = similar_images.Filters(dataset=DATASET, split="train")
    image = similar_images.QueryImage(image_id)
    rows = similar_images.search_by_image(connection, encoder, image, k=10, filters=filters)
    query, labels = similar_images.query_tile(connection, AllowedRoots(), image)
    write_contact_sheet(
        sheet,
        query,
        similar_images.result_tiles(connection, AllowedRoots(), rows, labels),
        title=f"Most similar images, {encoder.name}",
    )
    return SearchExample(encoder.name, image_id, ", ".join(labels), rows, sheet)
