"""Implements ``cbirdb encoders export``: makes an encoder that runs without torch."""

from __future__ import annotations

from pathlib import Path

import click

from cbirdb.cli.options import Context, format_option, pass_context, weights_option
from cbirdb.cli.output import write_rows
from cbirdb.cli.values import FilePath


@click.command()
@click.argument("name")
@click.option(
    "--onnx", "to", type=FilePath(file_okay=False, path_type=Path), required=True, metavar="DIR",
    help="Parent of the new folder NAME.",
)  # fmt: skip
@weights_option
@format_option
@pass_context
def export(
    context: Context, name: str, to: Path, weights: Path | None, allow_other_weights: bool, output_format: str
) -> None:
    """Export an encoder to ONNX, to run on a machine without torch.

    Name DIR with --weights at `encode`, `search` and `encoders verify`: the encoder then runs with onnxruntime, on the
    CPU (extra `onnx`). Exporting needs torch (extra `onnx-export`). The export is compared with torch first, and not
    written if the two differ.
    """
    from cbirdb.encoders.onnx_export import export_encoder
    from cbirdb.encoders.registry import load_encoder
    from cbirdb.encoders.shipped import SHIPPED

    if name in SHIPPED:
        spec = SHIPPED[name]
    else:
        from cbirdb.db.known_encoders import known_encoders
        from cbirdb.encoders.registry import get_spec

        with context.open_database() as connection:
            spec = get_spec(name, known_encoders(connection))
    options = context.load_options(weights, "cpu", allow_other_weights=allow_other_weights)
    done = export_encoder(load_encoder(spec, options), to)
    row = {
        "encoder": done.export.encoder, "folder": str(done.folder), "files": len(done.export.files) + 1,
        "mb": done.size_bytes / 1e6, "opset": done.export.opset, "largest_difference": done.difference,
        "sha256": done.manifest_sha256,
    }  # fmt: skip
    write_rows([row], output_format)
