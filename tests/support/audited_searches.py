"""Makes the searches of audit tests, and reads the audit."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
from psycopg.rows import dict_row

from tests.support.stored_pictures import Picture, fill

PICTURES = [Picture(labels=("a",), patient=f"p{n // 2}", study_date="2026-01-01") for n in range(6)]


def audit(connection: psycopg.Connection) -> list[dict[str, Any]]:
    return (
        connection.cursor(row_factory=dict_row).execute("SELECT * FROM cbir.search_audit ORDER BY audit_id").fetchall()
    )


def six_pictures(connection: psycopg.Connection) -> list[int]:
    """Ids of six pictures on an arc, two of each patient."""
    angles = np.radians(np.arange(6) * 10)
    return fill(connection, np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32), PICTURES)
