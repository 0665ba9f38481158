"""Decoders of others that say what is wrong with a picture: libjpeg-turbo, libpng, libtiff, libwebp, OpenJPEG, netpbm."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

PACKAGES = "libjpeg-turbo-progs, netpbm, pngcheck, libtiff-tools, webp and libopenjp2-tools"
TIMEOUT_S = 60


@dataclass(frozen=True)
class Judge:
    """Programs that decode a file, each as a command with {in} and {out}."""

    commands: tuple[tuple[str, ...], ...]
    harmless: str = "$^"
    """Words about tags beside the picture or bytes behind it, or that all is well."""

    def report(self, path: Path) -> str | None:
        """Return the fault that the programs report of a file; None: none."""
        with tempfile.TemporaryDirectory() as folder:
            names = {"{in}": str(path), "{out}": f"{folder}/out.ppm"}
            for command in self.commands:
                filled = [names.get(word, word) for word in command]
                try:
                    done = subprocess.run(filled, capture_output=True, timeout=TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    return f"{command[0]}: no end after {TIMEOUT_S} seconds"
                # pngcheck speaks on stdout, where others put the picture.
                said = (done.stdout if command[0] == "pngcheck" else done.stderr).decode("utf-8", "replace")
                lines = [line for line in said.splitlines() if line.strip() and not re.search(self.harmless, line)]
                if lines or (done.returncode != 0 and not said.strip()):
                    return f"{command[0]}: {lines[0] if lines else f'exit code {done.returncode}'}"
        return None


JUDGES = {
    "JPEG": Judge(
        (("djpeg", "-outfile", "{out}", "{in}"),),
        # Which of the last bytes before the end mark a decoder has read ahead depends on its buffers.
        "unknown JFIF revision number|Unknown Adobe color transform code|bad ICC marker|: [1-8] extraneous bytes before marker 0xd9",
    ),
    "PNG": Judge((("pngtopam", "{in}"), ("pngcheck", "-q", "{in}"))),
    "TIFF": Judge((("tiffcp", "-c", "none", "{in}", "{out}"),)),
    "GIF": Judge((("giftopnm", "{in}"),), "Extraneous data at end of image"),
    "BMP": Judge((("bmptopnm", "{in}"),), "Windows|WRITING|remains unread"),
    "WEBP": Judge((("dwebp", "-quiet", "{in}", "-ppm", "-o", "{out}"),)),
    "JPEG2000": Judge((("opj_decompress", "-quiet", "-i", "{in}", "-o", "{out}"),)),
    "PPM": Judge((("cjpeg", "-outfile", "{out}", "{in}"),)),
}


def missing_programs() -> str | None:
    """Return the packages of missing programs; None: all are there."""
    names = {command[0] for judge in JUDGES.values() for command in judge.commands}
    missing = sorted(name for name in names if shutil.which(name) is None)
    return f"{', '.join(missing)} (on Debian: {PACKAGES})" if missing else None
