"""Draws each region in its modality, healthy or with one of its findings.

Each function draws one picture. It draws an unknown finding as normal.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping

import numpy as np

from cbirdb.demo.phantoms.sketch import Outline, Sketch, band, blob, ellipse, pair, points, scaled, smooth

# Radiographs


def _chest(s: Sketch, finding: str) -> None:
    """Draw a chest from the front; the heart points to the picture's right."""
    s.fill(s.vary(0.5, 0.6), *pair("0,-1.4 0.15,-1.4 0.2,-0.92 0.68,-0.78 1,-0.56 0.88,0 0.88,1.2 0.8,2 0,2"))
    lungs = np.array(
        pair("0.26,-0.78 0.46,-0.68 0.62,-0.25 0.7,0.2 0.74,0.6 0.6,0.42 0.38,0.36 0.16,0.44 0.1,0 0.1,-0.5")
    )
    lungs[:, :, 1] *= s.vary(0.92, 1.05)
    inside = s.mask(*lungs)
    s.paint(0.17 + 0.03 * s.clouds(9), inside)
    ends = [(0.5, -0.5), (0.56, -0.28), (0.58, -0.08), (0.58, 0.1), (0.52, 0.26), (0.4, 0.38)]
    vessels = [
        band(np.array([(0.12, 0), (0.26, y / 2.6), (x * s.vary(0.8, 1.1), y)]), 0.045, 0.02, 0.004) for x, y in ends
    ]
    s.paint(0.5, s.mask(*vessels, *(vessel * [-1, 1] for vessel in vessels)) * inside, 0.5)
    sick = int(s.rng.integers(2))
    if finding == "Pneumothorax":
        # The lung has shrunk towards its root. The air around it is black, without vessels, behind a fine pleural line.
        root = np.array([[0.12, 0.42], [-0.12, 0.42]])[sick]
        shrink = s.vary(0.55, 0.82)
        chest, rest = s.mask(lungs[sick]), s.mask(root + (lungs[sick] - root) * shrink)
        s.paint(0.03, chest * (1 - rest))
        s.paint(0.55, chest * rest * (1 - s.mask(root + (lungs[sick] - root) * (shrink - 0.03))), 0.6)
    _mediastinum(s, s.vary(1.28, 1.75) if finding == "Cardiomegaly" else s.vary(0.85, 1.12))
    if finding == "Effusion":
        # Fluid fills the angle between ribs and diaphragm and climbs along the chest wall.
        level = s.vary(0.1, 0.6)
        fluid = np.array(
            [(0.95, 0.42 - level * 1.1), (0.5, 0.42 - level * 0.5), (0, 0.48 - level * 0.2), (0, 1), (0.95, 1)]
        )
        s.paint(
            s.vary(0.56, 0.66), s.mask(smooth(fluid * [1 - 2 * sick, 1], closed=True), soft=1.2) * s.mask(lungs[sick])
        )
    rib = band("0.08,0 0.4,-0.05 0.68,0.12 0.8,0.3", 0.05)
    right = [rib + np.array([0, y]) for y in np.arange(-0.7, 0.5, 0.15)]
    s.fill(1.0, *right, *(outline * [-1, 1] for outline in right), opacity=0.17)
    clavicle = band("0.07,-0.58 0.36,-0.67 0.8,-0.72", 0.07)
    s.fill(0.95, clavicle, clavicle * [-1, 1], opacity=0.35)
    s.expose(0.02)


def _mediastinum(s: Sketch, size: float) -> None:
    """Draw windpipe, aorta, spine and a heart ``size`` times as wide as usual."""
    s.fill(0.68, *pair("0,-0.9 0.12,-0.85 0.12,-0.3 0.15,0.6 0,0.6"), soft=1.0, opacity=0.85)
    heart = blob("0.06,-0.26 0.18,-0.14 0.3,0.04 0.375,0.24 0.36,0.41 0.2,0.48 0,0.48 -0.14,0.44 -0.18,0.28 -0.15,0.06")
    right = heart[:, 0] > 0
    s.fill(0.68, heart * np.stack([np.where(right, size, 0.6 + 0.4 * size), np.ones(len(heart))], axis=1), soft=0.8)
    s.fill(0.68, ellipse(0.11, -0.32, 0.08, 0.09))
    s.fill(0.8, *(ellipse(0, y, 0.075, 0.045) for y in np.arange(-0.9, 1.0, 0.12)), opacity=0.25)
    s.fill(0.36, band("0,-1.1 0,-0.3", 0.08), opacity=0.7)


_FINGERS = (
    # base of the metacarpal, its head, tip of the finger; the joints between head and tip as fractions
    ("-0.2,0.42 -0.44,0.2 -0.72,-0.22", (0.55,)),
    ("-0.15,0.36 -0.26,-0.06 -0.42,-0.74", (0.46, 0.76)),
    ("-0.04,0.35 -0.08,-0.1 -0.12,-0.9", (0.46, 0.76)),
    ("0.06,0.36 0.1,-0.05 0.18,-0.8", (0.46, 0.76)),
    ("0.15,0.38 0.27,0.04 0.46,-0.54", (0.46, 0.76)),
)


def _hand(s: Sketch, finding: str) -> None:
    """Draw a right or left hand, fingers up; bones are brightest at their rim."""
    flip = np.array([s.side() * s.vary(0.9, 1.1), 1.0])
    flesh = [points("-0.25,0.45 -0.34,-0.1 0.34,0 0.24,0.5"), band("0,0.3 0,0.7 0,1.4", 0.6, 0.42, 0.5)]
    ends = [points("-0.1,0.72 -0.13,1.5"), points("0.12,0.75 0.1,1.5")]
    for text, joints in _FINGERS:
        base, head, tip = points(text)
        flesh.append(band(np.array([base, head, tip + (tip - head) * 0.06]), 0.2, 0.2, 0.14))
        stops = [base, *(head + (tip - head) * part for part in (0.0, *joints, 1.0))]
        ends += [scaled(np.array(bone), 0.91) for bone in itertools.pairwise(stops)]
    s.fill(s.vary(0.24, 0.34), *(outline * flip for outline in flesh), soft=1.2)
    bones = [ellipse(x, y, s.vary(0.05, 0.065), 0.055) for y in (0.47, 0.59) for x in (-0.16, -0.05, 0.06, 0.16)]
    broken = int(s.rng.integers(2, len(ends))) if finding == "Fracture" else -1
    for index, (start, end) in enumerate(ends):
        width = 0.19 if index == 0 else 0.085
        if index == broken:
            # The far piece is shifted and tilted; the near one stays.
            middle, slip = start + (end - start) * s.vary(0.35, 0.6), np.array([s.side() * s.vary(0.03, 0.055), 0.0])
            bones.append(band(np.array([start, middle]), width * 1.25, width * 0.8))
            bones.append(
                band(np.array([middle + slip - (start - end) * 0.06, end + slip * 2.2]), width * 0.8, width * 1.1)
            )
        else:
            bones.append(
                band(np.array([start, end]), width * 1.25, width * 0.8, width * 0.75, width * 0.85, width * 1.2)
            )
    bones = [bone * flip for bone in bones]
    s.fill(0.85, *bones)
    s.fill(0.62, *(scaled(bone, 0.7) for bone in bones), opacity=0.6)
    s.expose(0.025)


# Computed tomography


def _abdomen(s: Sketch, finding: str) -> None:
    """Draw an axial slice with contrast: liver on the picture's left, spine at the bottom."""
    wide = s.vary(0.95, 1.04)
    s.fill(0.3, ellipse(0, 0, 0.9 * wide, 0.66))
    s.fill(0.5, ellipse(0, 0, 0.81 * wide, 0.57))
    s.fill(0.3, ellipse(0, -0.03, 0.74 * wide, 0.5))
    bowel = [
        ellipse(x + s.vary(-0.05, 0.05), y + s.vary(-0.04, 0.04), s.vary(0.07, 0.12), s.vary(0.06, 0.09))
        for x, y in points("0.1,-0.2 0.32,-0.05 0.12,0.02 0.5,0.05 -0.02,-0.35 0.25,-0.25")
    ]
    s.fill(0.5, *bowel, ellipse(-0.2, 0.4, 0.14, 0.11), ellipse(0.2, 0.4, 0.14, 0.11))
    s.fill(0.36, *(scaled(loop, 0.5) for loop in bowel[::2]))
    liver = blob("-0.3,-0.46 -0.58,-0.34 -0.71,0 -0.6,0.26 -0.4,0.24 -0.22,0.02 0.08,-0.3")
    inside = s.mask(liver * [wide, s.vary(0.92, 1.04)])
    s.paint(s.vary(0.58, 0.66), inside)
    s.fill(0.74, band("-0.2,0 -0.4,-0.08 -0.56,-0.2", 0.05, 0.03, 0.01), opacity=0.6)
    s.fill(0.68, blob("0.6,-0.08 0.7,0.08 0.58,0.32 0.5,0.2") * [wide, 1])
    stomach = blob("0.14,-0.44 0.42,-0.42 0.6,-0.2 0.46,-0.16 0.3,-0.3")
    s.fill(0.48, stomach)
    s.fill(0.03, stomach * [0.86, 0.9] + [0.05, -0.05])
    s.fill(0.82, ellipse(-0.32, 0.24, 0.1, 0.13, 0.4), ellipse(0.33, 0.22, 0.1, 0.13, -0.4))
    s.fill(0.45, ellipse(-0.28, 0.22, 0.03, 0.05, 0.4), ellipse(0.29, 0.2, 0.03, 0.05, -0.4))
    s.fill(0.85, ellipse(0.06, 0.13, 0.06, 0.06), ellipse(-0.1, 0.12, 0.06, 0.045))
    spine = (ellipse(0, 0.27, 0.13, 0.1), band("0,0.38 0,0.54", 0.12, 0.05), band("-0.2,0.4 0,0.36 0.2,0.4", 0.05))
    ribs = [ellipse(0.77 * wide * math.cos(a), 0.53 * math.sin(a), 0.06, 0.022, a + math.pi / 2) for a in _RIB_ANGLES]
    s.fill(0.95, *spine, *ribs)
    s.fill(0.72, ellipse(0, 0.27, 0.09, 0.065))
    s.fill(0.45, ellipse(0, 0.4, 0.045, 0.04))
    if finding == "Cyst":
        radius = s.vary(0.06, 0.18)
        cyst = ellipse(s.vary(-0.58, -0.34), s.vary(-0.28, 0.12), radius, radius * s.vary(0.85, 1.1))
        s.paint(0.34, s.mask(cyst) * inside)
    s.fill(0.28, band("-0.9,0.86 0,0.76 0.9,0.86", 0.03), opacity=0.8)
    s.expose(0.035)


_RIB_ANGLES = (2.3, 2.65, 3.0, 3.35, 0.85, 0.5, 0.15, -0.2)


def _head(s: Sketch, finding: str) -> None:
    """Draw an axial slice at the height of the side ventricles, forehead up."""
    s.fill(0.28, ellipse(0, 0, 0.73, 0.9))
    s.fill(1.0, ellipse(0, 0, 0.69, 0.86))
    inside = s.mask(ellipse(0, 0, 0.6, 0.77))
    s.paint(0.44 + 0.02 * s.clouds(12), inside)
    s.fill(0.36, *pair("0.28,-0.35 0.38,0 0.3,0.4 0.16,0.2 0.2,-0.1"), soft=2.0, opacity=0.7)
    s.paint(0.25, s.mask(*_furrows(s)) * inside, 0.55)
    shift = 0.0
    if finding == "Haemorrhage":
        side, size = s.side(), s.vary(0.1, 0.24)
        shift = -side * size * 0.3
        if s.rng.random() < 0.4:
            # Under the skull: a sickle along its inner table.
            s.paint(0.76, inside * (1 - s.mask(ellipse(-side * size * 0.5, 0, 0.6, 0.8))))
        else:
            x, y, turn = side * s.vary(0.26, 0.38), s.vary(-0.35, 0.35), s.vary(0, 3)
            s.paint(0.3, s.mask(ellipse(x, y, size * 1.5, size * 1.25, turn), soft=2.0) * inside, 0.8)
            s.paint(0.76, s.mask(ellipse(x, y, size * 1.1, size * 0.85, turn), soft=1.0) * inside)
    _ventricles(s, 0.15, shift)
    s.fill(0.58, band(np.array([(0, -0.76), (shift, 0), (0, 0.76)]), 0.014), opacity=0.7)
    s.expose(0.03)


def _furrows(s: Sketch) -> list[Outline]:
    """Return the gaps between the folds of a brain, from its surface inwards."""
    angles = np.linspace(0, 2 * math.pi, 22, endpoint=False) + s.rng.uniform(-0.08, 0.08, 22)
    rims = np.stack([0.62 * np.cos(angles), 0.79 * np.sin(angles)], axis=1)
    depths = s.rng.uniform(0.72, 0.9, 22)
    return [band(np.array([rim, rim * (1 + d) / 2 + 0.02, rim * d]), 0.03) for rim, d in zip(rims, depths, strict=True)]


def _ventricles(s: Sketch, grey: float, shift: float) -> None:
    front = pair("0.03,-0.02 0.04,-0.16 0.1,-0.33 0.17,-0.34 0.13,-0.14 0.08,0.04")
    back = pair("0.05,0.05 0.16,0.14 0.23,0.34 0.17,0.36 0.12,0.24 0.05,0.12")
    size = s.vary(0.8, 1.2)
    s.fill(grey, *(outline * size + [shift, 0] for outline in (*front, *back, band("0,0 0,0.14", 0.03))))


# Magnetic resonance


def _brain(s: Sketch, finding: str) -> None:
    """Draw an axial slice, T2-weighted: fluid bright, the skull black, white matter darker than grey."""
    s.fill(0.68, ellipse(0, 0, 0.74, 0.9))
    s.fill(0.04, ellipse(0, 0, 0.7, 0.86))
    s.fill(0.85, ellipse(0, 0, 0.63, 0.79))
    inside = s.mask(ellipse(0, 0, 0.61, 0.77))
    s.paint(0.5 + 0.03 * s.clouds(14), inside)
    s.fill(0.32, *pair("0.1,-0.6 0.4,-0.42 0.48,0 0.38,0.46 0.1,0.62 0.06,0.2 0.06,-0.2"), soft=1.8, opacity=0.9)
    s.paint(0.88, s.mask(*_furrows(s)) * inside, 0.7)
    s.fill(0.46, *pair("0.12,-0.2 0.22,-0.1 0.26,0.1 0.14,0.14 0.12,0"), soft=0.9)
    if finding == "Tumour":
        x, y, size = s.side() * s.vary(0.22, 0.38), s.vary(-0.38, 0.38), s.vary(0.1, 0.2)
        s.paint(0.74, s.mask(ellipse(x, y, size * 1.8, size * 1.5, s.vary(0, 3)), soft=2.0) * inside, 0.9)
        s.paint(0.4 + 0.08 * s.clouds(20), s.mask(ellipse(x, y, size, size)))
        s.fill(0.92, ellipse(x, y, size * 0.55, size * 0.5), soft=0.8)
    _ventricles(s, 0.95, 0.0)
    s.fill(0.8, band("0,-0.78 0,-0.35", 0.03), band("0,0.42 0,0.78", 0.03), opacity=0.8)
    s.expose(0.025)


def _knee(s: Sketch, finding: str) -> None:
    """Draw a sagittal slice, T1-weighted, kneecap to the left: fat and marrow bright, tendons and menisci black."""
    s.fill(0.72, blob("-0.5,-1.2 -0.62,-0.5 -0.7,-0.1 -0.5,0.4 -0.42,1.2 0.62,1.2 0.66,0.5 0.6,0 0.72,-1.2"))
    muscle = blob("-0.36,-1.3 -0.4,-0.5 0,-0.1 0.05,0.3 -0.2,1.3 0.5,1.3 0.54,0.5 0.46,0 0.58,-1.3")
    s.fill(0.34, muscle, soft=1.0)
    femur = blob("-0.2,-1.4 -0.2,-0.6 -0.33,-0.3 -0.26,-0.02 0,0.1 0.28,0 0.36,-0.26 0.2,-0.5 0.12,-1.4")
    tibia = blob("-0.3,0.24 0,0.27 0.32,0.24 0.34,0.4 0.16,0.66 0.14,1.4 -0.16,1.4 -0.16,0.7 -0.3,0.46")
    bones = (femur, tibia, blob("-0.46,-0.42 -0.38,-0.3 -0.38,-0.1 -0.48,0 -0.56,-0.16 -0.55,-0.34"))
    s.fill(0.5, *(scaled(bone, 1.08) for bone in bones))
    s.fill(0.08, *(scaled(bone, 1.03) for bone in bones))
    inside = s.mask(*(scaled(bone, 0.96) for bone in bones))
    s.paint(s.vary(0.74, 0.82) + 0.03 * s.clouds(16), inside)
    s.fill(0.06, points("-0.32,0.08 -0.32,0.22 -0.12,0.18"), points("0.36,0.04 0.36,0.22 0.14,0.17"))
    s.fill(0.08, band("-0.4,-1.2 -0.44,-0.7 -0.5,-0.42", 0.07), band("-0.52,0 -0.42,0.3 -0.28,0.54", 0.06))
    s.fill(0.1, band("0.14,-0.1 0.2,0.12 0.3,0.36", 0.05), opacity=0.7)
    if finding == "Oedema":
        x, y = s.vary(-0.18, 0.22), s.vary(-0.35, -0.1) if s.rng.random() < 0.5 else s.vary(0.36, 0.5)
        size = s.vary(0.12, 0.22)
        patch = s.mask(ellipse(x, y, size * 1.3, size, s.vary(0, 3)), soft=3.0) * (1 + 0.3 * s.clouds(14))
        s.paint(0.38, np.clip(patch, 0, 1) * inside, 0.95)
    s.expose(0.025)


# Ultrasound


def _breast(s: Sketch, finding: str) -> None:
    """Draw skin, fat, gland, muscle and ribs, from the probe downwards."""
    s.pixels += np.float32(0.3)
    wave = np.array([(x, s.vary(-0.05, 0.05)) for x in (-1.3, -0.7, 0.0, 0.7, 1.3)])
    s.fill(0.75, band(wave * [1, 0] - [0, 0.93], 0.1))
    septum = points("0,0 0.3,0.05 0.6,-0.04")
    starts = [(x + s.vary(-0.1, 0.1), y) for y in (-0.72, -0.55) for x in (-1.1, -0.5, 0.0, 0.5)]
    s.fill(0.65, *(band(septum * [1, s.vary(-2, 2)] + start, 0.015) for start in starts), opacity=0.7)
    gland = s.mask(band(wave - [0, 0.08], s.vary(0.6, 0.8)), soft=2.0)
    s.paint(0.55 + 0.13 * s.clouds(26, 9), gland)
    s.fill(0.28, band(wave * [1, 0.5] + [0, 0.52], 0.3), soft=1.0)
    s.fill(0.6, *(band(wave * [1, 0.5] + [0, depth], 0.02) for depth in (0.38, 0.47, 0.56, 0.67)), opacity=0.7)
    s.fill(0.12, *(ellipse(x + 4 * wave[0, 1], 0.88, 0.2, 0.13) for x in (-0.75, 0.0, 0.75)), soft=1.2)
    x, y, size = s.vary(-0.4, 0.4), s.vary(-0.3, 0.1), s.vary(0.14, 0.26)
    below = np.array([(x, y), (x, y + 1.1)])
    if finding == "Cyst":
        # Fluid does not weaken sound, so the tissue below is brighter.
        s.fill(0.85, band(below, size * 1.5, size * 1.2), soft=3.0, opacity=0.5)
        cyst = ellipse(x, y, size * 1.2, size * 0.85)
        s.fill(0.7, scaled(cyst, 1.08), opacity=0.6)
        s.fill(0.02, cyst)
    elif finding == "Tumour":
        # A tumour absorbs sound, so it casts a shadow. Its rim is jagged.
        s.fill(0.08, band(below, size * 1.3, size * 1.5), soft=3.0, opacity=0.65)
        rim = ellipse(x, y, size * 0.95, size)[::2]
        s.fill(0.14, [x, y] + (rim - [x, y]) * s.rng.uniform(0.7, 1.25, (len(rim), 1)), soft=1.0)
    s.speckle(0.55)


def _thyroid(s: Sketch, finding: str) -> None:
    """Draw the neck's cross-section in a fan: a lobe on each side of the windpipe, arteries beside them, muscle in
    front.
    """
    s.pixels += np.float32(0.36)
    s.fill(0.7, band("-1.3,-0.8 0,-0.84 1.3,-0.8", 0.1))
    s.fill(0.2, *pair("0.06,-0.58 0.5,-0.6 0.85,-0.3 0.6,-0.36 0.1,-0.44"), soft=0.9)
    lobes = pair("0.08,-0.34 0.4,-0.38 0.62,-0.12 0.54,0.26 0.3,0.28 0.22,0")
    s.paint(0.62 + 0.04 * s.clouds(30), s.mask(*lobes, band("-0.3,-0.28 0,-0.3 0.3,-0.28", 0.13), soft=0.8))
    s.fill(0.04, ellipse(-0.74, 0.07, 0.11, 0.12), ellipse(0.74, 0.07, 0.11, 0.12))
    s.fill(0.05, blob("-0.2,0 0,-0.22 0.2,0 0.24,1.4 -0.24,1.4"), soft=1.0)
    s.fill(0.95, band("-0.19,-0.04 -0.11,-0.18 0,-0.22 0.11,-0.18 0.19,-0.04", 0.035), opacity=0.8)
    s.fill(0.2, *pair("0.24,0.42 0.6,0.36 0.9,0.55 0.6,0.75 0.28,0.7"), soft=1.5, opacity=0.8)
    if finding == "Nodule":
        size = s.vary(0.12, 0.2)
        nodule = ellipse(s.side() * s.vary(0.34, 0.46), s.vary(-0.16, 0.08), size, size * 0.85)
        s.fill(0.2, nodule)
        s.fill(0.45, scaled(nodule, 0.6), soft=1.0)
    s.speckle(0.5)
    # Cut the field of view of a curved probe.
    angle = np.linspace(math.pi / 2 - 0.62, math.pi / 2 + 0.62, 20)
    arc = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    s.pixels = s.pixels * s.mask(np.concatenate([arc * 0.75, (arc * 2.35)[::-1]]) - [0, 1.42])


REGIONS: Mapping[str, Callable[[Sketch, str], None]] = {
    "XR/chest": _chest,
    "XR/hand": _hand,
    "CT/abdomen": _abdomen,
    "CT/head": _head,
    "MR/brain": _brain,
    "MR/knee": _knee,
    "US/breast": _breast,
    "US/thyroid": _thyroid,
}
