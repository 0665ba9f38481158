"""``complete`` is false where an answer has fewer rows than exist: an image went while the search was running."""

from __future__ import annotations

import threading
import time

import psycopg
from psycopg.rows import dict_row

from tests.support.stored_pictures import fill, unit

SEARCH = "SELECT image_id, complete FROM cbir.similar_images('toy', query => %s::vector, k => 3)"


def test_an_image_deleted_during_a_search_makes_its_answer_incomplete(connection: psycopg.Connection, dsn: str) -> None:
    vectors = unit(6)
    known = fill(connection, vectors)
    query = [str(vectors[0].tolist())]
    with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as reader:
        whole = reader.execute(SEARCH, query).fetchall()
        assert [row["complete"] for row in whole] == [True] * 3
        assert whole[0]["image_id"] == known[0]

        found: list[dict[str, object]] = []
        searching = threading.Thread(target=lambda: found.extend(reader.execute(SEARCH, query)))
        with psycopg.connect(dsn) as holder:
            # The search has its neighbours and waits to note itself in the audit.
            holder.execute("LOCK TABLE cbir.search_audit IN ACCESS EXCLUSIVE MODE")
            searching.start()
            waits = "SELECT FROM pg_locks WHERE NOT granted AND relation = 'cbir.search_audit'::regclass"
            deadline = time.monotonic() + 30
            while connection.execute(waits).fetchone() is None:
                assert time.monotonic() < deadline, "the search never came to the audit"
                time.sleep(0.01)
            connection.execute("DELETE FROM cbir.image WHERE image_id = %s", [known[0]])
            holder.rollback()
        searching.join(30)
    assert [row["image_id"] for row in found] == [row["image_id"] for row in whole[1:]]
    assert [row["complete"] for row in found] == [False, False]
