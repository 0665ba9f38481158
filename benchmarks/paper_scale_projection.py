"""Projects one encoder at one size to nine encoders and to more images; used by paper_scale.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cbirdb.index.methods import METHODS, IvfFlat

NINE = {
    "vit-b16": 768, "sam-vit-b": 256, "medsam-vit-b": 256, "clip-vit-l14": 768, "medclip-vit": 512, "biomedclip": 512,
    "mae-vit-b": 768, "dinov2-vit-b14": 768, "resnet50": 1000,
}  # fmt: skip
"""The paper's encoders and their dimensions."""
MORE = (16_000_000, 100_000_000)
GB = 1 << 30
EVALUATING = ("evaluate",)
READING = ("metrics", "leakage", "classify")
"""Prefixes of the names of steps; the latter read only stored results of evaluations."""

NINE_ASSUMES = """\
Assumed: the catalogue is created once; loading, building, auditing, and the bytes of vectors and index grow with the
dimension; evaluations and metrics take equally long for every encoder; each gets the method chosen here; one runs after the
other on the same machine. Encoding is not included."""
MORE_ASSUMES = """\
Assumed: one encoder, the same dimension and number of queries. Rows, bytes, COPY and exact comparisons grow with the number
of images. The build and its searches grow as the method's growth says (IVFFlat: rows x lists, and as many probes of longer
lists; graphs: n log n, and the power 2/3). An evaluation grows no faster than the number of images, since it also compares
some queries with all of them. Metrics depend only on the queries. The trials on the sample do not grow, but are counted
as if they did: "at most". Above all, the machine must grow, too: if vectors and index outgrow the memory, searches read the
disk and take longer than projected, and a build needs the memory given here."""


def project(document: dict[str, Any]) -> dict[str, Any]:
    """Print both projections with their assumptions, and return their figures."""
    steps, sizes, arguments = document["steps"], document["sizes"], document["arguments"]
    return {"nine_encoders": _nine(steps, sizes, arguments), "more_images": _more(steps, sizes, arguments)}


def _seconds(steps: dict[str, Any], *starts: str) -> float:
    return sum(figures["seconds"] for name, figures in steps.items() if name.startswith(starts))


def _nine(steps: dict[str, Any], sizes: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    share = sum(NINE.values()) / arguments["dim"]
    grows = steps["load"]["copy_seconds"] + _seconds(steps, "index build", "index audit")
    stays = _seconds(steps, *EVALUATING, *READING)
    seconds = steps["catalogue"]["copy_seconds"] + share * grows + len(NINE) * stays
    vectors = sizes["vectors_bytes"] + sizes["build"]["index_bytes"]
    disk = sizes["catalogue_bytes"] + share * vectors + len(NINE) * sizes["results_bytes"]
    print(f"\nNine encoders, {arguments['rows']:,} images: {seconds / 3600:.1f} hours, {disk / GB:,.0f} GB on disk.")
    print(NINE_ASSUMES)
    return {"hours": seconds / 3600, "disk_gb": disk / GB, "assumes": NINE_ASSUMES}


def _more(steps: dict[str, Any], sizes: dict[str, Any], arguments: dict[str, Any]) -> list[dict[str, Any]]:
    build, rows = sizes["build"], arguments["rows"]
    names = {"hnsw.ef_search": "ef_search", "ivfflat.probes": "probes", "rerank": "rerank", "at_100": "at_100"}
    settings = {names[name]: value for name, value in build["search_settings"].items()}
    method = METHODS[build["method"]](**build["parameters"], **settings)
    if isinstance(method, IvfFlat):
        method = replace(method, lists=0, lists_per_root=method.lists / rows**0.5)
    found = []
    for more in MORE:
        times, growth = more / rows, method.growth(rows, more)
        created = build["build_seconds"] * growth.build
        beside = (_seconds(steps, "index build") - build["build_seconds"]) * times
        memory = method.for_rows(more).memory_estimate(more, arguments["dim"], "half")
        disk = (sizes["catalogue_bytes"] + sizes["vectors_bytes"] + build["index_bytes"]) * times
        row = {
            "images": more,
            "catalogue_and_load_hours": times * (steps["catalogue"]["copy_seconds"] + steps["load"]["copy_seconds"]) / 3600,
            "create_index_hours": created / 3600,
            "choose_settle_audit_hours_at_most": (beside + times * _seconds(steps, "index audit")) / 3600,
            "build_memory_gb": memory / GB,
            "search_p50_ms": steps["search"]["p50_ms"] * growth.search,
            "evaluate_hours": _seconds(steps, *EVALUATING) * times / 3600,
            "disk_gb": (disk + sizes["results_bytes"]) / GB,
        }  # fmt: skip
        found.append(row)
        print(f"\n{more:,} images: " + ", ".join(f"{name} {value:,.1f}" for name, value in list(row.items())[1:]))
    print(MORE_ASSUMES)
    return [*found, {"assumes": MORE_ASSUMES}]
