"""Keeps images as they are for one transaction, so that what was computed from them can be written."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import psycopg


def lock_images(
    connection: psycopg.Connection,
    dataset_ids: Collection[int],
    image_ids: Sequence[int],
    sha256: Sequence[bytes | None] | None = None,
) -> set[int]:
    """Those of the images that are still in the catalogue; they cannot be changed or removed before this transaction ends.

    :param dataset_ids: of the datasets that the images are in.
    :param sha256: of the content that each image had when it was read; leaves out those that have another now.
    """
    # The datasets first, as whoever removes one does: the two then wait for each other, and not both.
    connection.execute(
        "SELECT FROM cbir.dataset WHERE dataset_id = ANY(%s) ORDER BY dataset_id FOR KEY SHARE", [list(dataset_ids)]
    )
    # A key lock would let the ingest of a changed file pass, which then does not see the embedding it has to remove.
    found = connection.execute(
        """
        SELECT i.image_id
        FROM cbir.image AS i
        INNER JOIN unnest(%(ids)s::bigint[], %(sha256)s::bytea[]) AS r (image_id, sha256) ON r.image_id = i.image_id
        WHERE NOT %(compared)s OR i.sha256 IS NOT DISTINCT FROM r.sha256
        ORDER BY i.image_id
        FOR SHARE OF i
        """,
        {"ids": list(image_ids), "sha256": list(sha256 or ()), "compared": sha256 is not None},
    )
    return {row[0] for row in found}
