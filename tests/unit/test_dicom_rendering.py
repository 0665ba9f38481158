"""Renderings have one text and one hash; windows follow PS3.3 C.11.2.1."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbirdb.errors import InputError
from cbirdb.pixels import rendering
from cbirdb.pixels.dicom.windows import Distribution, Window, between, equalising_table, to_bytes
from cbirdb.pixels.rendering import CT_PRESETS, Rendering

TEXTS = [
    "as-displayed",
    "as-displayed:2",
    "ct-preset:lung",
    "hu-windows:-1024..1024,-135..215,0..80",
    "min-max",
    "equalise",
]


@pytest.mark.parametrize("text", TEXTS)
def test_canonical_text_is_parsed_to_itself(text: str) -> None:
    assert str(Rendering.parse(text)) == text
    assert Rendering.parse(str(Rendering.parse(text))) == Rendering.parse(text)


def test_default_is_as_displayed() -> None:
    assert Rendering() == Rendering.parse("as-displayed") == Rendering.parse("as-displayed:1")


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        (" Min-Max ", "min-max"),
        ("hu-windows: -1024.0..1024, -135..215,  0..80.50", "hu-windows:-1024..1024,-135..215,0..80.5"),
        ("CT-PRESET:Lung", "ct-preset:lung"),
    ],
)
def test_other_spellings_have_the_same_hash(text: str, canonical: str) -> None:
    assert str(Rendering.parse(text)) == canonical
    assert Rendering.parse(text).sha256 == Rendering.parse(canonical).sha256


def test_each_rendering_has_its_own_hash() -> None:
    texts = [*TEXTS, *(f"ct-preset:{name}" for name in CT_PRESETS)]
    assert len({Rendering.parse(text).sha256 for text in texts}) == len({*texts})


def test_another_version_of_the_code_has_another_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Rendering().sha256
    monkeypatch.setattr(rendering, "VERSION", rendering.VERSION + 1)
    assert Rendering().sha256 != before


@pytest.mark.parametrize(
    "text",
    [
        "", "as-displayed:", "as-displayed:0", "as-displayed:x", "ct-preset", "ct-preset:", "ct-preset:foot", "min-max:2",
        "min-max:", "hu-windows", "hu-windows:", "hu-windows:0..1", "hu-windows:0..1,2..3,3..3", "hu-windows:0..1,2..3,4..3",
        "hu-windows:0..1,1..2,2..3,3..4", "hu-windows:0..1,1..2,nan..3", "hu-windows:0..1,1..2,2..1e9", "window",
    ],
)  # fmt: skip
def test_other_text_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(InputError) as caught:
        Rendering.parse(text)
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def test_neither_numpy_nor_pydicom_is_loaded_for_a_rendering() -> None:
    program = "import sys, cbirdb.pixels.rendering as r; r.Rendering.parse('min-max').sha256; print([*sys.modules])"
    # The package cbirdb.pixels loads Pillow and NumPy; its module alone does not ask for them.
    source = rendering.__file__
    code = (
        "import importlib.util, sys;"
        f"spec = importlib.util.spec_from_file_location('alone', {source!r});"
        "module = importlib.util.module_from_spec(spec); sys.modules['alone'] = module; spec.loader.exec_module(module);"
        "print('numpy' in sys.modules, 'pydicom' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "'pydicom'" not in done.stdout


@pytest.mark.parametrize(("value", "shown"), [(-128, 20), (66, 144), (194, 226)])
def test_linear_window_has_the_three_known_values(value: float, shown: int) -> None:
    """w=400, c=40: dcm4che's pull request 1578 names these outputs. It names no inputs, so these are chosen to fit."""
    assert to_bytes(Window(40, 400).apply(np.array([float(value)])))[0] == shown


def oracle(value: float, centre: float, width: float, function: str) -> float:
    """The formulas of PS3.3 C.11.2.1.2 and C.11.2.1.3 as they stand there, for y between 0 and 255."""
    if function == "SIGMOID":
        return 255.0 / (1 + math.exp(min(700.0, -4 * (value - centre) / width)))
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    if value <= centre - width / 2:
        return 0.0
    if value > centre + width / 2:
        return 255.0
    return ((value - centre) / width + 0.5) * 255.0


@given(
    values=st.lists(st.integers(-70_000, 70_000), min_size=1, max_size=30),
    centre=st.integers(-4000, 4000).map(lambda tenth: tenth / 2),
    width=st.integers(2, 8000).map(lambda half: half / 2),
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
)
def test_windows_are_the_formulas_of_the_standard(
    values: list[int], centre: float, width: float, function: str
) -> None:
    window = Window(centre, width, function)
    assert window.is_valid
    wanted = [oracle(value, centre, width, function) for value in values]
    np.testing.assert_allclose(window.apply(np.array(values, float)), wanted, atol=1e-6)


def test_the_three_functions_differ() -> None:
    values = np.arange(-200.0, 300.0)
    shown = {
        name: tuple(to_bytes(Window(40, 400, name).apply(values))) for name in ("LINEAR", "LINEAR_EXACT", "SIGMOID")
    }
    assert len(set(shown.values())) == 3


def test_linear_window_of_width_one_is_a_threshold() -> None:
    assert list(Window(10, 1).apply(np.array([9.0, 9.5, 9.6, 10.0]))) == [0.0, 0.0, 255.0, 255.0]


@pytest.mark.parametrize(
    "window",
    [Window(0, 0.5), Window(0, 0), Window(0, -5), Window(0, 0, "SIGMOID"), Window(math.nan, 1), Window(0, math.inf)],
)
def test_window_that_the_standard_forbids_is_not_valid(window: Window) -> None:
    assert not window.is_valid


def test_equal_ends_show_what_lies_above() -> None:
    assert list(between(np.array([1.0, 2.0, 3.0]), 2, 2)) == [0.0, 0.0, 255.0]


def test_equalising_is_that_of_opencv() -> None:
    """Worked by hand: greys 10, 20, 30 occur 1, 2 and 1 times; (reached - 1) / (4 - 1) * 255 is 0, 170 and 255."""
    counts = np.zeros(256, int)
    counts[[10, 20, 30]] = 1, 2, 1
    assert list(equalising_table(counts)[[10, 20, 30]]) == [0, 170, 255]


def test_picture_of_one_grey_stays_as_it_is_when_equalised() -> None:
    counts = np.zeros(256, int)
    counts[77] = 9
    assert equalising_table(counts)[77] == 77


@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=200))
def test_percentiles_are_values_that_occur(values: list[int]) -> None:
    found, counts = np.unique(np.array(values, float), return_counts=True)
    low, high = Distribution.of(found, counts).percentiles(0.5, 99.5)
    assert low in values
    assert high in values
    below = np.mean(np.array(values) < low)
    above = np.mean(np.array(values) > high)
    assert below <= 0.005 or low == min(values)
    assert above <= 0.005 or high == max(values)
