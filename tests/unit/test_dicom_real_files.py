"""Real files end as expected, and as independent programs decode them."""

from __future__ import annotations

import csv
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid

from cbirdb.errors import PixelError
from cbirdb.pixels.dicom import decode_dicom
from cbirdb.pixels.rendering import Rendering
from tests.conftest import SHARED_DATA
from tests.support.dicom_pixels import CT_IMAGE, colours, compressed, native, psnr, smooth

REAL = SHARED_DATA / "dicom"
MANIFEST = list(csv.DictReader((REAL / "manifest.csv").open())) if (REAL / "manifest.csv").is_file() else []
real_data = pytest.mark.skipif(not MANIFEST, reason="there is no folder with real DICOM beside this checkout")
DIFFERENT = {
    "single/JPEG-lossy.dcm": "ok",  # 12-bit JPEG: imagecodecs reads it
    "family/NM1_JPLY": "ok",  # the same
    "single/MR_truncated.dcm": "truncated",
    "single/badVR.dcm": "no pixels: RT Dose Storage",
    "single/liver_1frame.dcm": "no pixels: Segmentation Storage",
    "single/meta_missing_tsyntax.dcm": "corrupt",  # neither rows nor columns
    "single/dwv-test_no-number-rows.dcm": "corrupt",
    "single/ExplVR_LitEndNoMeta.dcm": "no pixels: RT Ion Plan Storage",
    "single/rtplan.dcm": "no pixels: RT Plan Storage",
    "single/rtstruct.dcm": "no pixels: RT Structure Set Storage",
    "single/test-SR.dcm": "no pixels: Comprehensive SR Storage",
    "single/waveform_ecg.dcm": "no pixels: 12-lead ECG Waveform Storage",
}
"""Outcomes that are not the manifest's ``ok``, with the reason that cbirdb gives."""
COPIES = [
    ["single/MR_small.dcm", "single/MR_small_RLE.dcm", "single/MR_small_bigendian.dcm", "single/MR_small_implicit.dcm",
     "single/MR_small_jp2klossless.dcm", "single/MR_small_jpeg_ls_lossless.dcm"],
    ["family/NM1_UNC", "family/NM1_J2KR", "family/NM1_JLSL", "family/NM1_JPLL", "family/NM1_RLE"],
    ["family/NM1_JPLY", "single/JPEG-lossy.dcm", "single/JPGExtended.dcm"],
]  # fmt: skip
"""Files with the same pixels."""


def outcome(path: Path) -> str:
    try:
        decode_dicom(path.read_bytes())
    except PixelError as error:
        return error.reason
    return "ok"


def grey(name: str, rendering: str = "as-displayed", frame: int = 0) -> NDArray[np.uint8]:
    return np.asarray(decode_dicom((REAL / name).read_bytes(), frame, Rendering.parse(rendering)).picture)[..., 0]


@real_data
@pytest.mark.parametrize("row", MANIFEST, ids=lambda row: row["file"])
def test_real_file_ends_as_expected(row: dict[str, str]) -> None:
    assert outcome(REAL / row["file"]) == DIFFERENT.get(row["file"], row["decode"])


@real_data
@pytest.mark.parametrize("names", COPIES, ids=lambda names: names[0])
def test_lossless_copies_of_a_real_file_have_one_pixel_hash(names: list[str]) -> None:
    assert len({decode_dicom((REAL / name).read_bytes()).pixel_sha256 for name in names}) == 1


def stored(name: str) -> NDArray[Any]:
    """Stored values of a real file."""
    from cbirdb.pixels.damage import refuse
    from cbirdb.pixels.dicom.colour import canonical
    from cbirdb.pixels.dicom.file import parse
    from cbirdb.pixels.dicom.frames import read_frame
    from cbirdb.pixels.dicom.header import read_header

    parsed = parse((REAL / name).read_bytes(), 10**8, refuse)
    header = read_header(parsed, 10**8)
    return canonical(read_frame(parsed, header, 0, refuse), header)[0].astype(np.int64)


@real_data
@pytest.mark.parametrize("name", ["family/NM1_J2KI", "family/NM1_JLSN", "family/NM1_JPLY"])
def test_lossy_member_of_a_family_has_at_least_30_decibels(name: str) -> None:
    original = stored("family/NM1_UNC")
    assert psnr(stored(name), original, float(original.max())) >= 30


@real_data
def test_near_lossless_member_stays_within_its_bound() -> None:
    assert np.abs(stored("family/NM1_JLSN") - stored("family/NM1_UNC")).max() <= 4


@real_data
def test_enhanced_ct_with_supplemental_palette_is_rescaled_and_windowed_by_its_functional_groups() -> None:
    """-1024 to 172, window 49/102 (pydicom issue 2353). Its unit is US, unspecified: a perfusion map has no HU."""
    from cbirdb.pixels.damage import refuse
    from cbirdb.pixels.dicom.display import read_display
    from cbirdb.pixels.dicom.file import parse
    from cbirdb.pixels.dicom.header import read_header

    parsed = parse((REAL / "single/eCT_Supplemental.dcm").read_bytes(), 10**8, refuse)
    display = read_display(parsed.attributes, read_header(parsed, 10**8), 0)
    values = display.rescaled(stored("single/eCT_Supplemental.dcm").astype(float))
    assert (values.min(), values.max()) == (-1024, 172)
    assert [(window.centre, window.width) for window in display.windows] == [(49, 102)]
    assert not display.in_hounsfield


@real_data
def test_frames_of_a_real_enhanced_mr_have_their_own_windows() -> None:
    from cbirdb.pixels.damage import refuse
    from cbirdb.pixels.dicom.display import read_display
    from cbirdb.pixels.dicom.file import parse
    from cbirdb.pixels.dicom.header import read_header

    parsed = parse((REAL / "single/MOVEKNEE.dcm").read_bytes(), 10**8, refuse)
    header = read_header(parsed, 10**8)
    windows = [read_display(parsed.attributes, header, frame).windows[0] for frame in range(header.frames)]
    assert len({*windows}) > 1
    assert grey("single/MOVEKNEE.dcm", frame=18).max() > 0


@real_data
def test_truncated_real_file_is_shown_if_damage_is_accepted() -> None:
    data = (REAL / "single/MR_truncated.dcm").read_bytes()
    found = decode_dicom(data, on_damage=lambda _: None)
    assert found.damage == "DICOM: 8,130 bytes of pixels where 8,192 are needed"
    np.testing.assert_array_equal(np.asarray(found.picture)[:63, :, 0], grey("single/MR_small.dcm")[:63])


# Independent programs

DCMTK = shutil.which("dcm2img") or shutil.which("dcmj2pnm")
GDCM = shutil.which("gdcmconv")
with_dcmtk = pytest.mark.skipif(not DCMTK, reason="DCMTK's dcm2img (or dcmj2pnm) is not installed")
with_gdcm = pytest.mark.skipif(not GDCM, reason="GDCM's gdcmconv is not installed")


def by_dcmtk(path: Path, *options: str) -> NDArray[np.int16]:
    """The first frame's picture as DCMTK shows it."""
    target = path.parent / f"{path.name}.png"
    subprocess.run([DCMTK, "-O", "+on", "+F", "1", *options, path, target], check=True, capture_output=True)
    return np.asarray(Image.open(target).convert("RGB")).astype(np.int16)


def difference(data: bytes, path: Path, *options: str, rendering: str = "as-displayed") -> int:
    """The largest difference between our picture and DCMTK's. It cuts off where we round, so 1 is none."""
    path.write_bytes(data)
    ours = np.asarray(decode_dicom(data, 0, Rendering.parse(rendering)).picture).astype(np.int16)
    theirs = by_dcmtk(path, *options)
    assert ours.shape == theirs.shape
    return int(np.abs(ours - theirs).max())


SIGNED = smooth().astype(np.int16) - 2048
WINDOW = {"WindowCenter": 40, "WindowWidth": 400}


@with_dcmtk
@pytest.mark.parametrize(
    "attributes",
    [
        WINDOW,
        {**WINDOW, "VOILUTFunction": "SIGMOID"},
        {**WINDOW, "PhotometricInterpretation": "MONOCHROME1"},
        {**WINDOW, "RescaleSlope": "0.5", "RescaleIntercept": "100"},
        {**WINDOW, "BitsStored": 12, "HighBit": 11},
    ],
)
@pytest.mark.parametrize(
    "syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian]
)  # fmt: skip
def test_windows_are_those_of_dcmtk(tmp_path: Path, attributes: dict[str, Any], syntax: str) -> None:
    assert difference(native(SIGNED, syntax, **attributes), tmp_path / "one", "+Wi", "1") <= 1


@with_dcmtk
@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGExtended12Bit])
def test_compressed_pixels_are_those_of_dcmtk(tmp_path: Path, syntax: str) -> None:
    data = compressed(smooth(), syntax, BitsStored=12, WindowCenter=2048, WindowWidth=4096)
    assert difference(data, tmp_path / "one", "+Wi", "1") <= 1


@with_dcmtk
@pytest.mark.parametrize(("syntax", "photometric"), [(uid.JPEGBaseline8Bit, "YBR_FULL_422"), (uid.RLELossless, "RGB")])
def test_colours_are_those_of_dcmtk(tmp_path: Path, syntax: str, photometric: str) -> None:
    data = compressed(colours(), syntax, PhotometricInterpretation=photometric)
    assert difference(data, tmp_path / "one") <= 2


@with_dcmtk
def test_preset_is_dcmtks_window(tmp_path: Path) -> None:
    data = native(SIGNED, SOPClassUID=CT_IMAGE, Modality="CT", RescaleSlope=1, RescaleIntercept=0)
    assert difference(data, tmp_path / "one", "+Ww", "-600", "1500", rendering="ct-preset:lung") <= 1


@with_dcmtk
def test_min_max_is_that_of_dcmtk(tmp_path: Path) -> None:
    assert difference(native(SIGNED), tmp_path / "one", "+Wm", rendering="min-max") <= 1


@real_data
@with_dcmtk
@pytest.mark.parametrize(
    "name",
    ["siemens_study/epi_pe_ap-00001.dcm", "single/MR_small.dcm", "single/MR_small_RLE.dcm", "single/MR_small_bigendian.dcm",
     "single/MR_small_implicit.dcm", "single/bad_sequence.dcm", "single/gdcm-CR-MONO1-10-chest.dcm"],
)  # fmt: skip
def test_real_windows_are_those_of_dcmtk(tmp_path: Path, name: str) -> None:
    assert difference((REAL / name).read_bytes(), tmp_path / "one", "+Wi", "1") <= 1


@real_data
@with_dcmtk
@pytest.mark.parametrize(
    "name",
    ["single/SC_rgb_small_odd.dcm", "single/examples_palette.dcm", "single/examples_rgb_color.dcm",
     "single/examples_ybr_color.dcm"],
)  # fmt: skip
def test_real_colours_are_those_of_dcmtk(tmp_path: Path, name: str) -> None:
    assert difference((REAL / name).read_bytes(), tmp_path / "one") <= 1


def by_gdcm(data: bytes, folder: Path) -> bytes:
    """The same file as GDCM stores it without compression."""
    (folder / "in.dcm").write_bytes(data)
    subprocess.run([GDCM, "--raw", folder / "in.dcm", folder / "out.dcm"], check=True, capture_output=True)
    return (folder / "out.dcm").read_bytes()


@with_gdcm
@pytest.mark.parametrize(
    "syntax", [uid.RLELossless, uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless]
)
def test_pixels_are_those_that_gdcm_decodes(tmp_path: Path, syntax: str) -> None:
    data = compressed(smooth(), syntax, BitsStored=12)
    assert decode_dicom(by_gdcm(data, tmp_path)).pixel_sha256 == decode_dicom(data).pixel_sha256


@real_data
@with_gdcm
@pytest.mark.parametrize(
    "name",
    ["single/MR_small_jp2klossless.dcm", "single/MR_small_jpeg_ls_lossless.dcm", "single/693_J2KR.dcm", "single/US1_J2KR.dcm",
     "single/bad_sequence.dcm", "family/NM1_J2KR", "family/NM1_J2KI", "family/NM1_JLSL", "family/NM1_JLSN", "family/NM1_JPLL",
     "family/NM1_RLE"],
)  # fmt: skip
def test_real_pixels_are_those_that_gdcm_decodes(tmp_path: Path, name: str) -> None:
    data = (REAL / name).read_bytes()
    assert decode_dicom(by_gdcm(data, tmp_path)).pixel_sha256 == decode_dicom(data).pixel_sha256
