"""Hold results as typed rows, and hand them to pandas, Polars or Arrow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from cbirdb.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class SimilarImage:
    """Hold one result of a search."""

    rank: int
    """1 for the nearest."""
    image_id: int
    distance: float
    """Cosine distance to the query, from 0 to 2."""
    similarity: float
    """Cosine similarity: 1 less the distance."""
    labels: tuple[str, ...]
    dataset: str
    modality: str | None
    anatomic_region: str | None
    study_uid: str | None
    sop_uid: str | None
    source: str
    """The image's file, as its dataset names it."""
    mode: str
    """``exact`` or ``approximate``: how the search was answered."""
    complete: bool
    """True if the search returned as many images as exist, up to k."""


@dataclass(frozen=True, slots=True)
class PrecisionRow:
    """Hold precision at N of one run, over all its queries or a group of them."""

    run: int
    encoder: str
    group: str | None
    """The class, dataset, modality or region; None: all queries."""
    n: int
    micro_precision: float | None
    """Mean over queries; None: no query has one."""
    micro_std: float | None
    macro_precision: float | None
    """Mean over classes."""
    macro_std: float | None
    queries: int
    classes: int
    mode: str
    ann_recall: float
    """Recall of the index; 1 for an exact run."""
    micro_low: float | None = None
    """Bounds of the 95 % interval; None: not asked for."""
    micro_high: float | None = None
    macro_low: float | None = None
    macro_high: float | None = None


class Record(Mapping[str, Any]):
    """Hold one row of any query: ``row["name"]`` or ``row.name``. It cannot be changed."""

    __slots__ = ("_values",)
    _values: Mapping[str, Any]

    def __init__(self, values: Mapping[str, Any]) -> None:
        object.__setattr__(self, "_values", dict(values))

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __getattr__(self, name: str) -> Any:
        # Copying and unpickling ask before there are values.
        if name.startswith("_") or name not in self._values:
            raise AttributeError(f"This row has no column '{name}'.")
        return self._values[name]

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("A row cannot be changed.")

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(tuple(self._values))

    def __reduce__(self) -> tuple[type[Record], tuple[dict[str, Any]]]:
        return Record, (dict(self._values),)

    def __repr__(self) -> str:
        return f"Record({', '.join(f'{name}={value!r}' for name, value in self._values.items())})"


T_co = TypeVar("T_co", covariant=True)


class Rows(Sequence[T_co], Generic[T_co]):
    """Hold the rows of a result in order. It cannot be changed."""

    __slots__ = ("_rows", "columns")

    def __init__(self, rows: Iterable[T_co], columns: Iterable[str]) -> None:
        """Take rows that all have these columns."""
        self._rows = tuple(rows)
        self.columns = tuple(columns)

    @classmethod
    def of(cls, kind: type[T_co], rows: Iterable[Mapping[str, Any]]) -> Rows[T_co]:
        """Make rows of a dataclass from mappings that have its fields; lists become tuples."""
        names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
        made = (kind(**{name: _frozen(row[name]) for name in names if name in row}) for row in rows)
        return cls(made, names)

    @overload
    def __getitem__(self, index: int) -> T_co: ...
    @overload
    def __getitem__(self, index: slice) -> Rows[T_co]: ...
    def __getitem__(self, index: int | slice) -> T_co | Rows[T_co]:
        return Rows(self._rows[index], self.columns) if isinstance(index, slice) else self._rows[index]

    def __len__(self) -> int:
        return len(self._rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rows) and (self.columns, self._rows) == (other.columns, other._rows)

    def __hash__(self) -> int:
        return hash(self._rows)

    def __repr__(self) -> str:
        rows = "1 row" if len(self) == 1 else f"{len(self):,} rows"
        return f"<{rows}: {', '.join(self.columns)}>"

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return a dictionary per row."""
        return [{name: _value(row, name) for name in self.columns} for row in self._rows]

    def to_pandas(self) -> pd.DataFrame:
        """Return a pandas data frame (extra ``pandas``)."""
        return _import("pandas", "pandas").DataFrame(self._by_column(), columns=list(self.columns))

    def to_polars(self) -> pl.DataFrame:
        """Return a Polars data frame (extra ``polars``)."""
        return _import("polars", "polars").DataFrame(self._by_column())

    def to_arrow(self) -> pa.Table:
        """Return an Arrow table (extra ``arrow``)."""
        return _import("pyarrow", "arrow").table(self._by_column())

    def _by_column(self) -> dict[str, list[Any]]:
        return {name: [_value(row, name) for row in self._rows] for name in self.columns}


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _value(row: object, name: str) -> Any:
    value = row[name] if isinstance(row, Record) else getattr(row, name)
    return list(value) if isinstance(value, tuple) else value


def _import(library: str, extra: str) -> Any:
    """Import a library that cbirdb itself does without.

    :raises InputError: when it is not installed.
    """
    try:
        return import_module(library)
    except ImportError as error:
        raise InputError(
            f"{library} is not installed ({error}).", hint=f"Install it: pip install 'cbirdb[{extra}]'"
        ) from error
