"""Runs the paper's way from embeddings to precision at N, step by step like its authors' public code, in our words.

    python benchmarks/paper_way.py retrieve FOLDER
    python benchmarks/paper_way.py score FOLDER

Two programs, like the original (MIC-DKFZ/foundation-models-for-cbmir). FOLDER holds vectors.h5, with one HDF5 dataset per
image, and train.csv and test.csv, with a column of zeros and ones per label.

    retrieve  reads the vectors of both lists image by image, adds the train images to a flat FAISS index one by one and
              writes it to a file; searches with the test images, 4,096 at a time; fills a table of file names, a row per
              query, and writes it as CSV
    score     reads the three tables, looks up the label of every neighbour by its file name, and for each N processes
              the queries one by one

Where the original is fast (FAISS, tables read by pandas), so is this; where it goes row by row, so does this. The original
also searches for the images of the split "val", which the metrics do not use. This omits them, in the original's favour.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import faiss
import h5py
import numpy as np
import pandas as pd

K = 100
CUTOFFS = range(1, 100)
SEARCHED_AT_ONCE = 4096
NOT_LABELS = ["filepath", "dataset", "split", "modality", "anatomic_region"]


def retrieve(folder: Path) -> None:
    """Turn HDF5 into a FAISS index and a CSV of neighbours."""
    indexed = pd.read_csv(folder / "train.csv")["filepath"].tolist()
    queries = pd.read_csv(folder / "test.csv")["filepath"].tolist()
    with h5py.File(folder / "vectors.h5", "r") as file:
        index = None
        for name in indexed:
            vector = file[name][:].reshape(1, -1)
            if index is None:
                index = faiss.IndexFlatIP(vector.shape[1])
            index.add(vector)
    faiss.write_index(index, str(folder / "faiss.index"))
    (folder / "names.json").write_text(json.dumps(indexed))
    with h5py.File(folder / "vectors.h5", "r") as file:
        query_vectors = {name: file[name][:] for name in queries if name in file}
    table = pd.DataFrame(columns=["query", *(str(rank) for rank in range(1, K + 1))], index=range(len(query_vectors)))
    names, vectors = list(query_vectors), list(query_vectors.values())
    for start in range(0, len(names), SEARCHED_AT_ONCE):
        _, found = index.search(np.array(vectors[start : start + SEARCHED_AT_ONCE]), K)
        for offset, neighbours in enumerate(found):
            row = start + offset
            table.iloc[row] = [names[row], *(indexed[neighbour] for neighbour in neighbours)]
    table.to_csv(folder / "neighbours.csv", index=False)


def score(folder: Path) -> None:
    """Turn the CSV of neighbours into a CSV of precision at every N."""
    queries = pd.read_csv(folder / "test.csv").set_index("filepath")
    indexed = pd.read_csv(folder / "train.csv").set_index("filepath")
    neighbours = pd.read_csv(folder / "neighbours.csv").set_index("query").loc[queries.index]
    labels = [column for column in queries.columns if column not in NOT_LABELS]
    occurrences = indexed[labels].sum().astype(int)
    of_query, of_indexed = (images[labels].idxmax(axis=1) for images in (queries, indexed))
    neighbours.index = neighbours.index.map(of_query.get)
    neighbours = neighbours.map(of_indexed.get)
    relevant = neighbours.apply(lambda column: column == neighbours.index, axis=0)
    pd.DataFrame([summary(relevant, n, occurrences) for n in CUTOFFS]).to_csv(folder / "precision.csv")


def summary(relevant: pd.DataFrame, n: int, occurrences: pd.Series) -> dict[str, float]:
    """Return means and deviations of modified precision at n.

    :param relevant: one row per query, named by its label; True if the neighbour of that rank has the label.
    """

    def of_query(row: pd.Series) -> float:
        first = min(n, occurrences[row.name])
        return sum(row[:first]) / first

    precision = relevant.apply(of_query, axis=1)
    classes = precision.groupby(relevant.index)
    return {
        "micro_precision": precision.mean(),
        "micro_std": precision.std(),
        "macro_precision": classes.mean().mean(),
        "macro_std": classes.std().mean(),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["retrieve", "score"])
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    {"retrieve": retrieve, "score": score}[arguments.step](arguments.folder)
