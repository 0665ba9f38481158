"""Lists the peers of ``benchmarks/peers.py``. A new one is a class with the members of ``Peer`` and a place in
``PEERS``.
"""

from __future__ import annotations

from search_peers.base import Built, Options, Peer
from search_peers.embedded import Chroma, LanceDb, MilvusLite
from search_peers.in_process import FaissHnsw, Hnswlib, PaperFlat
from search_peers.postgres import (
    Cbirdb,
    CbirdbBitHnsw,
    CbirdbHnsw,
    CbirdbIvfFlat,
    PlainPgvector,
)

PEERS: dict[str, type[Peer]] = {
    peer.name: peer
    for peer in (
        PaperFlat, FaissHnsw, Hnswlib, LanceDb, Chroma, MilvusLite, PlainPgvector,
        Cbirdb, CbirdbHnsw, CbirdbBitHnsw, CbirdbIvfFlat,
    )
}  # fmt: skip

__all__ = ["PEERS", "Built", "Options", "Peer"]
