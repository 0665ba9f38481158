"""Grey values are shown as PS3.3 says: modality LUT, then VOI LUT or window, then inversion; padding is no value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cbirdb.pixels.dicom import decode_dicom
from cbirdb.pixels.dicom.windows import Window, between, to_bytes
from cbirdb.pixels.rendering import CT_PRESETS, Rendering
from tests.support.dicom_pixels import CT_IMAGE, Sequence, item, lut, native, sequence

RAMP = np.arange(0, 4096, dtype=np.uint16).reshape(64, 64)
SIGNED = (np.arange(0, 4096, dtype=np.int16) - 1024).reshape(64, 64)
CT: dict[str, Any] = {"SOPClassUID": CT_IMAGE, "Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": 0}


def grey(data: bytes, rendering: str = "as-displayed", frame: int = 0) -> NDArray[np.uint8]:
    """The picture's grey values, which must be the same in the three channels."""
    shown = np.asarray(decode_dicom(data, frame, Rendering.parse(rendering)).picture)
    assert (shown[..., 0] == shown[..., 1]).all()
    assert (shown[..., 0] == shown[..., 2]).all()
    return shown[..., 0]


def windowed(values: NDArray[Any], centre: float, width: float, function: str = "LINEAR") -> NDArray[np.uint8]:
    return to_bytes(Window(centre, width, function).apply(values.astype(float)))


# 1. Order


def test_modality_lut_beats_slope_and_intercept() -> None:
    table = [value * 2 for value in range(4096)]
    data = native(
        RAMP, ModalityLUTSequence=lut(table), RescaleSlope=7, RescaleIntercept=-99, WindowCenter=4096, WindowWidth=8192
    )
    np.testing.assert_array_equal(grey(data), windowed(RAMP * 2, 4096, 8192))


def test_voi_lut_beats_a_window() -> None:
    table = [65_535 - value * 16 for value in range(4096)]
    data = native(RAMP, VOILUTSequence=lut(table), WindowCenter=100, WindowWidth=50)
    wanted = to_bytes((65_535.0 - RAMP * 16.0) / 65_535 * 255)
    np.testing.assert_array_equal(grey(data), wanted)


def test_voi_lut_gets_rescaled_values() -> None:
    data = native(SIGNED, RescaleSlope=1, RescaleIntercept=1024, VOILUTSequence=lut(list(range(4096)), bits=12))
    np.testing.assert_array_equal(grey(data), to_bytes((SIGNED + 1024.0) / 4095 * 255))


def test_negative_first_value_of_a_voi_lut_may_be_stored_unsigned() -> None:
    tables = [lut(list(range(4096)), first=first, bits=12, vr=vr) for first, vr in ((-1024, "SS"), (64_512, "US"))]
    one, other = (grey(native(SIGNED, VOILUTSequence=table)) for table in tables)
    np.testing.assert_array_equal(one, to_bytes((SIGNED + 1024.0) / 4095 * 255))
    np.testing.assert_array_equal(other, one)


def test_values_outside_a_lut_get_its_ends() -> None:
    data = native(RAMP, VOILUTSequence=lut([100, 200, 250], first=10, bits=8))
    shown = grey(data).ravel()
    assert list(shown[[0, 9, 10, 11, 12, 13, 4095]]) == [100, 100, 100, 200, 250, 250, 250]


@pytest.mark.parametrize(
    "attributes",
    [
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"PresentationLUTShape": "INVERSE"},
        {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
    ],
)
@pytest.mark.parametrize(
    "shown", [{"WindowCenter": 1000, "WindowWidth": 500}, {"VOILUTSequence": lut([*range(4096)], bits=12)}, {}]
)
def test_inversion_happens_once_and_last(attributes: dict[str, str], shown: dict[str, Any]) -> None:
    np.testing.assert_array_equal(grey(native(RAMP, **shown, **attributes)), 255 - grey(native(RAMP, **shown)))


def test_identity_shape_does_not_invert() -> None:
    np.testing.assert_array_equal(grey(native(RAMP, PresentationLUTShape="IDENTITY")), grey(native(RAMP)))


# 2. Windows


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_window_function_is_the_headers(function: str) -> None:
    data = native(SIGNED, WindowCenter=40, WindowWidth=400, VOILUTFunction=function)
    np.testing.assert_array_equal(grey(data), windowed(SIGNED, 40, 400, function))


@pytest.mark.parametrize(("function", "shown"), [("LINEAR", [20, 144, 226]), ("LINEAR_EXACT", [20, 143, 225])])
def test_windows_give_the_known_values_of_dcm4che(function: str, shown: list[int]) -> None:
    """Inputs and values are those of VOILUTTest in dcm4che's pull request 1578."""
    stored = np.array([[122, 128, 132]], np.uint8)
    data = native(
        stored,
        RescaleSlope="32.1216",
        RescaleIntercept=-4047,
        WindowCenter=40,
        WindowWidth=400,
        VOILUTFunction=function,
    )
    assert grey(data).tolist() == [shown]


def test_linear_is_the_default_function() -> None:
    data = native(SIGNED, WindowCenter=40, WindowWidth=400)
    np.testing.assert_array_equal(grey(data), windowed(SIGNED, 40, 400, "LINEAR"))


def test_first_of_several_windows_is_shown_or_the_one_asked_for() -> None:
    data = native(SIGNED, WindowCenter=[40, -600], WindowWidth=[400, 1500])
    np.testing.assert_array_equal(grey(data), windowed(SIGNED, 40, 400))
    np.testing.assert_array_equal(grey(data, "as-displayed:2"), windowed(SIGNED, -600, 1500))
    np.testing.assert_array_equal(grey(data, "as-displayed:3"), windowed(SIGNED, 40, 400))


def test_window_is_applied_to_rescaled_values() -> None:
    data = native(RAMP, RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=40, WindowWidth=400)
    np.testing.assert_array_equal(grey(data), windowed(RAMP * 2.0 - 1000, 40, 400))


def test_impossible_window_counts_as_none() -> None:
    np.testing.assert_array_equal(grey(native(RAMP, WindowCenter=40, WindowWidth=0)), grey(native(RAMP)))


def test_mammogram_with_sigmoid_and_inversion_is_shown_as_the_standard_says() -> None:
    """As MG files have it: 12 bits in 16, MONOCHROME1, SIGMOID, INVERSE, several windows."""
    data = native(
        RAMP, Modality="MG", SOPClassUID="1.2.840.10008.5.1.4.1.1.1.2", BitsStored=12, WindowCenter=[2000, 1800],
        WindowWidth=[900, 700], VOILUTFunction="SIGMOID", PhotometricInterpretation="MONOCHROME1",
        PresentationLUTShape="INVERSE", ImagerPixelSpacing=[0.07, 0.07], RescaleIntercept=0, RescaleSlope=1,
    )  # fmt: skip
    np.testing.assert_array_equal(grey(data), 255 - windowed(RAMP, 2000, 900, "SIGMOID"))


# 3. Functional groups


def groups(*frames: dict[str, Any]) -> Sequence:
    return Sequence([item(**frame) for frame in frames])


def test_enhanced_ct_has_windows_and_rescale_values_per_frame() -> None:
    frames = [
        {
            "FrameVOILUTSequence": sequence(WindowCenter=centre, WindowWidth=width),
            "PixelValueTransformationSequence": sequence(RescaleSlope=1, RescaleIntercept=intercept, RescaleType="HU"),
        }
        for centre, width, intercept in ((40, 400, -1024), (-600, 1500, -1000))
    ]
    data = native(
        np.stack([RAMP, RAMP]), frames=True, SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1", Modality="CT",
        PerFrameFunctionalGroupsSequence=groups(*frames),
    )  # fmt: skip
    np.testing.assert_array_equal(grey(data, frame=0), windowed(RAMP - 1024.0, 40, 400))
    np.testing.assert_array_equal(grey(data, frame=1), windowed(RAMP - 1000.0, -600, 1500))
    np.testing.assert_array_equal(grey(data, "ct-preset:bone", 1), windowed(RAMP - 1000.0, *CT_PRESETS["bone"]))


def test_enhanced_mr_has_shared_groups_and_frames_go_before_them() -> None:
    shared = {"FrameVOILUTSequence": sequence(WindowCenter=500, WindowWidth=1000)}
    frames = [{}, {"FrameVOILUTSequence": sequence(WindowCenter=50, WindowWidth=80, VOILUTFunction="SIGMOID")}]
    data = native(
        np.stack([RAMP, RAMP]), frames=True, SOPClassUID="1.2.840.10008.5.1.4.1.1.4.1", Modality="MR",
        SharedFunctionalGroupsSequence=groups(shared), PerFrameFunctionalGroupsSequence=groups(*frames),
    )  # fmt: skip
    np.testing.assert_array_equal(grey(data, frame=0), windowed(RAMP, 500, 1000))
    np.testing.assert_array_equal(grey(data, frame=1), windowed(RAMP, 50, 80, "SIGMOID"))


# 4. No window, padding


def test_ct_without_window_is_shown_in_the_soft_tissue_preset() -> None:
    np.testing.assert_array_equal(grey(native(SIGNED, **CT)), windowed(SIGNED, *CT_PRESETS["soft-tissue"]))


def test_ct_that_is_not_in_hounsfield_units_is_shown_by_its_percentiles() -> None:
    plain = {"SOPClassUID": CT_IMAGE, "Modality": "CT"}
    np.testing.assert_array_equal(grey(native(RAMP, **plain)), grey(native(RAMP)))
    np.testing.assert_array_equal(grey(native(RAMP, **CT, RescaleType="US"), "ct-preset:lung"), grey(native(RAMP)))


def test_image_without_window_is_shown_between_percentiles() -> None:
    low, high = 20, 4075  # 0.5 % of 4,096 values are 20.48: the 21st and the 4,076th
    np.testing.assert_array_equal(grey(native(RAMP)), to_bytes(between(RAMP.astype(float), low, high)))


@pytest.mark.parametrize("rendering", ["as-displayed", "min-max", "equalise"])
@pytest.mark.parametrize(
    "attributes",
    [{"PixelPaddingValue": -2000}, {"PixelPaddingValue": -2000, "PixelPaddingRangeLimit": -1990}],
)
def test_padding_is_masked_before_percentiles_and_ends(rendering: str, attributes: dict[str, int]) -> None:
    padded = SIGNED.copy()
    padded[:13] = -2000  # a fifth, as in a real CT
    if "PixelPaddingRangeLimit" in attributes:
        padded[:6] = -1990
    shown = grey(native(padded, Modality="MR", **attributes), rendering)
    inside = grey(native(SIGNED[13:], Modality="MR"), rendering)
    np.testing.assert_array_equal(shown[13:], inside)
    assert not shown[:13].any()


def test_padding_is_masked_before_the_modality_lut() -> None:
    """Padding 0 would be the highest value of this table."""
    padded = RAMP.copy()
    padded[0] = 0
    table = [60_000, *range(1, 4096)]
    shown = grey(native(padded, PixelPaddingValue=0, ModalityLUTSequence=lut(table)), "min-max")
    assert shown[-1, -1] == 255
    assert not shown[0].any()


def test_padding_value_with_the_other_sign_is_understood() -> None:
    padded = SIGNED.copy()
    padded[:13] = -2000
    data = native(padded, Modality="MR", PixelPaddingValue=-2000)
    at = data.index(b"\x28\x00\x20\x01SS")
    unsigned = data[:at] + data[at : at + 4] + b"US" + data[at + 6 :]
    np.testing.assert_array_equal(grey(unsigned, "min-max"), grey(data, "min-max"))


def test_padding_is_black_in_an_inverted_image() -> None:
    padded = RAMP.copy()
    padded[:8] = 0
    shown = grey(native(padded, PixelPaddingValue=0, PhotometricInterpretation="MONOCHROME1"))
    assert not shown[:8].any()
    assert shown[8, 0] == 255


# Renderings


@pytest.mark.parametrize("name", CT_PRESETS)
def test_preset_goes_before_the_window_of_a_ct(name: str) -> None:
    data = native(SIGNED, **CT, WindowCenter=1, WindowWidth=2)
    np.testing.assert_array_equal(grey(data, f"ct-preset:{name}"), windowed(SIGNED, *CT_PRESETS[name]))


@pytest.mark.parametrize("rendering", ["ct-preset:lung", "hu-windows:-1024..1024,-135..215,0..80"])
def test_other_modality_is_as_displayed_in_renderings_for_ct(rendering: str) -> None:
    data = native(SIGNED, Modality="MR", RescaleSlope=1, RescaleIntercept=0, WindowCenter=40, WindowWidth=400)
    np.testing.assert_array_equal(grey(data, rendering), grey(data))


def test_three_windows_become_three_channels() -> None:
    ranges = ((-1024, 1024), (-135, 215), (0, 80))
    rendering = Rendering.parse("hu-windows:" + ",".join(f"{low}..{high}" for low, high in ranges))
    shown = np.asarray(decode_dicom(native(SIGNED, **CT), 0, rendering).picture)
    for channel, (low, high) in enumerate(ranges):
        wanted = np.rint((np.clip(SIGNED, low, high) - low) / (high - low) * 255)
        np.testing.assert_array_equal(shown[..., channel], wanted)


def test_min_max_shows_the_whole_range() -> None:
    data = native(SIGNED, Modality="CR", WindowCenter=40, WindowWidth=400)
    np.testing.assert_array_equal(grey(data, "min-max"), np.rint((SIGNED + 1024.0) / 4095 * 255))


def test_equalised_greys_are_evenly_frequent() -> None:
    dark = (RAMP.astype(float) ** 2 / 4096).astype(np.uint16)
    shown = grey(native(dark), "equalise")
    assert abs(np.median(shown) - 127.5) < 8


def test_floating_point_pixels_are_rendered() -> None:
    values = np.linspace(-1.5, 2.5, 64 * 64, dtype=np.float32).reshape(64, 64)
    made = native(np.zeros((64, 64), np.uint32), BitsAllocated=32)
    at = made.index(b"\xe0\x7f\x10\x00OW")
    data = made[:at] + b"\xe0\x7f\x08\x00OF" + made[at + 6 : at + 12] + values.astype("<f4").tobytes()
    np.testing.assert_array_equal(grey(data, "min-max"), np.rint((values.astype(float) + 1.5) / 4 * 255))


def test_wide_range_of_integers_is_rendered() -> None:
    values = (np.arange(4096, dtype=np.uint32) * 1_000_003).reshape(64, 64)
    np.testing.assert_array_equal(grey(native(values), "min-max"), np.rint(values / values.max() * 255))
