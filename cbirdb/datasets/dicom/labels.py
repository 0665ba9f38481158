"""Reads labels of images from a CSV file, by a UID or the accession number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from cbirdb.datasets.csv_rows import Row, read_rows
from cbirdb.datasets.dicom.privacy import Privacy
from cbirdb.datasets.official_layout import LABEL_VALUES
from cbirdb.errors import InputError
from cbirdb.names import problem_of_line
from cbirdb.records import POSITIVE, ImageRecord, Missing

KEYS = ("sop_uid", "series_uid", "study_uid", "accession_number")
LABEL, VALUE = "label", "value"
SHOWN = "The file of labels"


@dataclass(slots=True)
class Labels:
    """Labels by the stored form of a key."""

    key: str
    _of: dict[str, dict[str, int]] = field(default_factory=dict)
    _lines: dict[str, int] = field(default_factory=dict)
    """Lines of the keys that no image has had so far."""

    @classmethod
    def read(cls, file: Path, privacy: Privacy) -> Labels:
        """Read the file.

        :raises InputError: when it is missing, or a column or value is wrong; the message names the line, not the key,
            and not the file, whose name may hold a patient's.
        """
        if not file.is_file():
            raise InputError("There is no file of labels at this path.", hint="Check --labels.")
        labels: Labels | None = None
        for line, row in read_rows(file, (LABEL,), shown=SHOWN):
            if labels is None:
                labels = cls(_key_column(row))
            labels._add(line, row, privacy)
        if labels is None:
            raise InputError(f"{SHOWN} has no rows.", hint="Give each label a row.")
        return labels

    def labelled(self, record: ImageRecord) -> ImageRecord:
        """Return the record with its labels."""
        key = {
            "sop_uid": record.sop_uid,
            "series_uid": record.series_uid,
            "study_uid": record.study.key if record.study else None,
            "accession_number": record.dicom.accession if record.dicom else None,
        }[self.key]
        if key is None or key not in self._of:
            return record
        self._lines.pop(key, None)
        return replace(record, labels=self._of[key])

    def unmatched(self) -> Iterator[Missing]:
        """Yield the keys that no image had, by their lines: the key itself may name a person."""
        for line in sorted(self._lines.values()):
            yield Missing(f"labels, line {line}", f"no image has this {self.key}")

    def _add(self, line: int, row: Row, privacy: Privacy) -> None:
        stated, label, value = row[self.key], row[LABEL], row.get(VALUE)
        if not stated or not label:
            raise InputError(
                f"Line {line} of the labels has no {LABEL if stated else self.key}.",
                hint="Fill it in, or remove the line.",
            )
        if problem := problem_of_line(label):
            raise InputError(
                f"The label in line {line} of the labels cannot be stored: {problem[1]}.", hint="Rename it."
            )
        number = POSITIVE if value is None else LABEL_VALUES.get(value)
        if number is None:
            raise InputError(
                f"Line {line} of the labels has a value that is none of a label.",
                hint="Values are 1 (yes), 0 (no) and -1 (uncertain).",
            )
        key = privacy.accession(stated) if self.key == "accession_number" else privacy.uid(stated)
        known = self._of.setdefault(key or "", {})
        if known.setdefault(label, number) != number:
            raise InputError(
                f"Line {line} of the labels gives a label another value than an earlier line.",
                hint="Remove one of them.",
            )
        self._lines.setdefault(key or "", line)


def _key_column(row: Row) -> str:
    keys = [key for key in KEYS if key in row]
    if len(keys) != 1:
        problem = f"has the columns {' and '.join(keys)}" if keys else "has no column that names images"
        raise InputError(f"{SHOWN} {problem}.", hint=f"Give exactly one of {', '.join(KEYS)}.")
    if set(row) - {*keys, LABEL, VALUE}:
        raise InputError(f"{SHOWN} has an unknown column.", hint=f"Its columns are {keys[0]}, label and value.")
    return keys[0]
