"""What all figures share: inks, texts, and how a figure becomes files.

PNG files are written whole or not at all. Beside each lies the same as SVG where that is small,
which a page shows sharp at any size.
"""

import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.text import Text

from sat_optuna.files import write_atomically

__all__ = [
    "CLOUD",
    "INK",
    "OFF",
    "SMALLEST",
    "WIDEST",
    "ink_on",
    "literal",
    "save",
    "wrapped",
    "write_png",
]

_NAMELESS = {"Software": None}  # without matplotlib's version, equal pictures have equal bytes
_DATELESS = {"Creator": None, "Date": None}
_LARGEST = 200_000  # bytes of an SVG; of more points than that the PNG is the smaller one
INK = "#22303c"  # of texts
OFF = "#cbd3da"  # of a block without attention, of background
CLOUD = "#9aa5b1"  # of what stands back
SMALLEST = 6.0  # points of a text
WIDEST = 8.0  # inches that a figure of many parts is wide, at least where they are few


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, and beside it as SVG where that is small."""
    write_png(figure, path)
    vector = path.with_suffix(".svg")
    _write_svg(figure, vector)
    if vector.stat().st_size > _LARGEST:
        vector.unlink()
    return path


def write_png(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, whole or not at all."""
    literal(figure)
    FigureCanvasAgg(figure)
    return write_atomically(
        path,
        lambda temporary: figure.savefig(temporary, format="png", dpi=160, metadata=_NAMELESS),
    )


def _write_svg(figure: Figure, path: Path) -> Path:
    FigureCanvasSVG(figure)
    figure.set_layout_engine("none")  # as it was laid out for the PNG
    # Names of its parts that hang on the figure alone, and no date.
    with mpl.rc_context({"svg.hashsalt": "sat_optuna"}):
        return write_atomically(
            path,
            lambda temporary: figure.savefig(temporary, format="svg", metadata=_DATELESS),
        )


def literal(figure: Figure) -> None:
    """Let every text stand as it is: names that a user gave may hold dollar signs."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)


def wrapped(text: str, width: int) -> list[str]:
    """Return a text in lines of at most so many letters, cut after spaces and dashes."""
    lines: list[str] = []
    for piece in re.split(r"(?<=[ -])", text):
        if lines and len(lines[-1] + piece.rstrip()) <= width:
            lines[-1] += piece
        else:
            lines.append(piece)
    return [line.rstrip() for line in lines if line.strip()]


def ink_on(colour: str) -> str:
    """Return white or black, whichever is easier to read on a colour (WCAG's contrast)."""
    channels = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return "white" if float(linear @ [0.2126, 0.7152, 0.0722]) < 0.179 else "black"
