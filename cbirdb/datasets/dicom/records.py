"""Turns a header into the records of its frames; nothing that names a person leaves here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cbirdb.datasets.dicom import tags
from cbirdb.datasets.dicom.body_parts import REGIONS, TERMS_OF_CODES, compact, region_of
from cbirdb.datasets.dicom.devices import model, vendor
from cbirdb.datasets.dicom.frames import FrameChoice, FrameValues, count_frames, frame_values
from cbirdb.datasets.dicom.header import DEFLATED, Header
from cbirdb.datasets.dicom.privacy import Privacy
from cbirdb.datasets.dicom.values import age_years, choice, code, day, identifier, number, text, texts, uid
from cbirdb.errors import PixelError
from cbirdb.limits import LARGEST_MAX_PIXELS
from cbirdb.pixels.dicom.elements import TOO_LONG, Elements
from cbirdb.pixels.sop_classes import excluded_sop_class
from cbirdb.records import DatasetItem, DicomFacts, Excluded, ImageRecord, Patient, Study

LARGEST_STACK = 1 << 40
"""Pixels of all frames of a file after which its header is not believed."""
STANDARD_ROOT = "1.2.840.10008."
"""Beginning of UIDs that the standard defines. Others may name a device or a hospital."""
UidOrNone = TypeVar("UidOrNone", str, str | None)
MOST_IMAGE_TYPES = 16
ONE_MODALITY: Mapping[str, str] = {"CR": "XR", "DX": "XR"}
"""Both are radiographs: one filter finds them."""
PHOTOMETRIC = (
    "MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "HSV", "ARGB", "CMYK", "YBR_FULL", "YBR_FULL_422",
    "YBR_PARTIAL_420", "YBR_PARTIAL_422", "YBR_ICT", "YBR_RCT", "XYB",
)  # fmt: skip
VIEWS: Mapping[str, str] = {
    value: view
    for view, values in {
        "AP": "399348003 R-10206",
        "PA": "272479007 R-40888 R-10214",
        "LL": "399173006 R-10236",
        "RL": "399198007 R-10232",
        "CC": "399162004 R-10242",
        "MLO": "399368009 R-10226",
        "ML": "399260004 R-10224",
        "LM": "399352003 R-10228",
        "LMO": "399099002 R-10230",
        "XCCL": "399192008 R-1024A",
        "XCCM": "399101009 R-1024B",
        "FB": "399196006 R-10244",
        "SIO": "399188001 R-102D0",
        "ISO": "441555000 R-40AAA",
    }.items()
    for value in values.split()
}
"""View positions by the codes of View Code Sequence (PS3.16, CID 4010 and 4014)."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything about a dataset that a worker process needs."""

    root: Path
    dataset: str
    privacy: Privacy
    frames: FrameChoice
    body_parts: Mapping[str, str]
    """The user's words for regions, by body part code."""


def items_of_header(
    header: Header, settings: Settings, source: str, path: Path, member: str | None, file_bytes: int
) -> Iterator[DatasetItem]:
    """Yield a record for each chosen frame, or what says that the file holds no image.

    :raises PixelError: when the header does not describe an image that can be stored.
    """
    sop_class = header.sop_class
    if name := excluded_sop_class(sop_class):
        yield Excluded(source, name)
        return
    rows, columns = (
        number(header.value(tag), big_endian=header.encoding.big_endian) for tag in (tags.ROWS, tags.COLUMNS)
    )
    sop_class = uid(sop_class.encode("latin-1"), "SOP class")
    sop_uid = uid(header.sop_instance, "SOP instance")
    study_uid = uid(header.value(tags.STUDY), "study")
    series_uid = uid(header.value(tags.SERIES), "series")
    if not rows or not columns:
        raise PixelError("no size", f"the header has no {'columns' if rows else 'rows'}")
    frames = count_frames(header, None if header.transfer_syntax == DEFLATED else file_bytes)
    if rows * columns > LARGEST_MAX_PIXELS or rows * columns * frames > LARGEST_STACK:
        raise PixelError("too large", f"{rows} rows of {columns} columns in {frames} frames are no picture")

    privacy = settings.privacy
    charset = header.value(tags.CHARSET)
    owner, patient = _patient(header, privacy, charset)
    study_day = day(header.value(tags.STUDY_DATE))
    study = Study(
        privacy.uid(study_uid),
        privacy.day(study_day, owner or study_uid),
        age_years(header.value(tags.AGE), day(header.value(tags.BIRTH_DATE)), study_day),
    )
    modality = code(text(header.value(tags.MODALITY)))
    accession = privacy.accession(identifier(header.value(tags.ACCESSION), charset))
    facts = _FileFacts(header, accession, _kind(sop_class, privacy), _kind(header.transfer_syntax, privacy), modality)
    for frame in settings.frames.of_file(frames):
        values = frame_values(header, frame)
        body_part, region = _body_part(header, values, settings.body_parts)
        yield ImageRecord(
            dataset=settings.dataset,
            source=source,
            path=path,
            modality=ONE_MODALITY.get(modality or "", modality),
            anatomic_region=region,
            patient=patient,
            study=study,
            view=_view(header),
            frame=frame,
            sop_uid=privacy.uid(sop_uid),
            series_uid=privacy.uid(series_uid),
            width=columns,
            height=rows,
            dicom=facts.of_frame(values, body_part, frames),
            member=member,
        )


def _kind(stated: UidOrNone, privacy: Privacy) -> UidOrNone:
    """Return the UID of a kind of files: as it is if the standard defines it, else as other UIDs are stored."""
    return stated if stated is None or stated.startswith(STANDARD_ROOT) else privacy.uid(stated)


def _patient(header: Header, privacy: Privacy, charset: bytes | None) -> tuple[str | None, Patient | None]:
    """Return the patient's pseudonym and the patient; None if the header names none."""
    value = header.value(tags.PATIENT_ID)
    if value is TOO_LONG:
        raise PixelError("impossible value", "the patient's id is too long")
    given = identifier(value, charset)
    if not given:
        return None, None
    pseudonym = privacy.pseudonyms.of_dicom(given, identifier(header.value(tags.ISSUER), charset))
    return pseudonym, Patient(pseudonym, choice(header.value(tags.SEX), "F", "M", "O"), pseudonym)


def _body_part(header: Header, values: FrameValues, words: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Return code and region of the body part.

    The code is the header's Body Part Examined if it has the form of a code, or is a term in another form ("Chest");
    else the term for the frame's or the header's anatomic region.
    """
    stated = text(header.value(tags.BODY_PART))
    if stated:
        given = code(stated) or (compact(stated) if compact(stated) in REGIONS else None)
        if given is not None:
            return given, region_of(given, words)
    for item in (*values.regions, *header.items(tags.ANATOMIC_REGION)):
        value = item.get(tags.CODE_VALUE)
        found = text(value if isinstance(value, bytes) else None)
        if found in words:
            return TERMS_OF_CODES.get(found, code(found)), words[found]
        if (term := TERMS_OF_CODES.get(found)) is not None:
            return term, region_of(term, words)
    return None, None


def _view(header: Header) -> str | None:
    if (stated := code(text(header.value(tags.VIEW_POSITION)))) is not None:
        return stated
    codes: list[Elements] = header.items(tags.VIEW_CODE)[:1]
    values = [value for item in codes if isinstance(value := item.get(tags.CODE_VALUE), bytes)]
    return VIEWS.get(text(values[0])) if values else None


class _FileFacts:
    """Makes the facts of frames: those of the file are read once."""

    def __init__(
        self, header: Header, accession: str | None, sop_class: str, syntax: str | None, modality: str | None
    ) -> None:
        self._header = header
        self._accession, self._sop_class, self._syntax, self._modality = accession, sop_class, syntax, modality
        self._laterality = choice(header.value(tags.IMAGE_LATERALITY), *"LRBU") or choice(
            header.value(tags.LATERALITY), *"LRBU"
        )
        maker, device = text(header.value(tags.MANUFACTURER)), text(header.value(tags.MODEL))
        self._maker = vendor(maker) if maker else None
        self._model = model(device) if device else None

    def of_frame(self, values: FrameValues, body_part: str | None, frames: int) -> DicomFacts:
        header = self._header
        return DicomFacts(
            sop_class_uid=self._sop_class,
            transfer_syntax_uid=self._syntax,
            modality_code=self._modality,
            body_part=body_part,
            laterality=choice(values.laterality, *"LRBU") or self._laterality,
            image_type=_image_type(values.image_type),
            presentation_intent=choice(header.value(tags.PRESENTATION_INTENT), "FOR PRESENTATION", "FOR PROCESSING"),
            manufacturer=self._maker,
            manufacturer_model=self._model,
            photometric_interpretation=choice(header.value(tags.PHOTOMETRIC), *PHOTOMETRIC),
            burned_in_annotation=choice(header.value(tags.BURNED_IN), "YES", "NO"),
            pixel_spacing=values.spacing,  # type: ignore[arg-type]
            slice_position=values.position,  # type: ignore[arg-type]
            slice_orientation=values.orientation,  # type: ignore[arg-type]
            accession=self._accession,
            frames=frames,
        )


def _image_type(value: bytes | None) -> tuple[str, ...]:
    """Return the values of Image Type; one that is no code leaves an empty place, as the others count by position."""
    return tuple(code(part) or "" for part in texts(value)[:MOST_IMAGE_TYPES])
