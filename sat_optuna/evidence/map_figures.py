"""The figure of networks that answer with maps: images, their truth, the answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from sat_optuna.config.config import IGNORED
from sat_optuna.evidence.canvas import (
    CLOUD,
    INK,
    OFF,
    SMALLEST,
    WIDEST,
    ink_on,
    literal,
    save,
    wrapped,
)
from sat_optuna.evidence.maps import MapExamples, ShownImage

__all__ = ["draw_maps"]

# Of masks' classes; a class called background has OFF.
_CLASSES = (
    "#0072b2",
    "#009e73",
    "#f2b600",
    "#d55e00",
    "#99ccaa",
    "#591600",
    "#eeffbb",
    "#468080",
    "#00b6f2",
    "#1100cc",
    "#315945",
    "#bb1100",
)
_ROOM = 0.035  # inches from the middle of a text of the smallest size to where it ends
_TOLD_APART = 8  # classes in a figure of masks that need no names in the masks


def draw_maps(path: Path, examples: MapExamples) -> Path:
    """Draw test images, their truth and what networks answer: classes or densities.

    Under each answer stands its score on this image, or its count. Where more than eight classes
    are shown, each has its name, or how that begins, in its deepest region too. Pixels without a
    class are hatched in the truth.

    Args:
        path: the PNG file.
        examples: what is drawn, an image a row.
    """
    shown, networks = examples.shown, list(examples.shown[0].answers)
    heads = [f"image\n{examples.planes}".rstrip(), "truth"]
    heads += ["\n".join([*wrapped(n, 18), examples.test.get(n, "")]) for n in networks]
    height, width = shown[0].truth.shape
    wide = max(WIDEST, 0.6 + 1.15 * len(heads))
    side = (wide - 0.6) / len(heads)  # inches
    tall = len(shown) * (side * height / width + 0.4) + 3  # enough; cut in the end
    figure = Figure(figsize=(wide, tall), layout="compressed")
    grid = figure.subplots(len(shown), len(heads), squeeze=False)
    for axes, head in zip(grid[0], heads, strict=True):
        axes.set_title(head, fontsize=9, color=INK)
    for row, one in zip(grid, shown, strict=True):
        row[0].imshow(one.picture)
        row[0].set_ylabel(f"{one.rank}\nimage {one.number}", fontsize=8, color=INK)
        below = ["", one.count, *(one.told[name] for name in networks)]
        for axes, text in zip(row, below, strict=True):
            axes.set_xlabel(text, fontsize=8, color=INK)
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set_color(CLOUD)
    maps = [
        list(zip(row[1:], one.maps, strict=True)) for row, one in zip(grid, shown, strict=True)
    ]
    if examples.targets == "density":
        _draw_densities(figure, grid, [pair for row in maps for pair in row], shown)
    else:
        _draw_masks(figure, [pair for row in maps for pair in row], examples.class_names, side)
    _cut_height(figure)
    return save(figure, path)


def _cut_height(figure: Figure) -> None:
    """Make a figure of a fixed width as high as what is in it."""
    FigureCanvasAgg(figure)
    literal(figure)
    for _ in range(2):  # a colour bar moves with the height
        figure.draw_without_rendering()
        boxes = [box for axes in figure.axes if (box := axes.get_tightbbox())]
        high = Bbox.union(boxes).height
        high += sum(legend.get_window_extent().height for legend in figure.legends)
        figure.set_size_inches(figure.get_figwidth(), high / figure.dpi + 0.15)


def _draw_densities(
    figure: Figure,
    grid: NDArray[Any],
    maps: Sequence[tuple[Axes, NDArray[Any]]],
    shown: Sequence[ShownImage],
) -> None:
    """Draw densities on one scale, which ends where the truth does.

    It is of square roots, for networks spread out what the truth has at a dot.
    """
    most = max(float(one.truth.max()) for one in shown) or 1.0
    above = any(float(np.nanmax(found)) > most for _, found in maps)
    picture = None
    for axes, found in maps:
        scale = PowerNorm(0.5, vmin=0, vmax=most, clip=True)
        picture = axes.imshow(found, cmap="cividis", norm=scale, interpolation="none")
    if picture is not None:
        more: dict[str, Any] = {"location": "bottom", "shrink": 0.5, "aspect": 40, "pad": 0.02}
        bar = figure.colorbar(picture, ax=grid, extend="max" if above else "neither", **more)
        bar.set_label(
            "density, dots a pixel: one scale for all, of square roots", fontsize=8, color=INK
        )
        bar.ax.tick_params(labelsize=8, colors=INK)


def _draw_masks(
    figure: Figure,
    maps: Sequence[tuple[Axes, NDArray[Any]]],
    class_names: Sequence[str],
    side: float,
) -> None:
    """Draw masks with a legend of the classes in them.

    Args:
        figure: that the axes are in.
        maps: axes, and what is drawn in them.
        class_names: one a class.
        side: inches that a mask is wide.
    """
    found = np.unique(np.concatenate([mask.ravel() for _, mask in maps]))
    classes = [int(number) for number in found if number != IGNORED]
    hues = [number for number, name in enumerate(class_names) if name != "background"]
    if len(hues) > len(_CLASSES):  # the same colour twice, if it must be, but few as they can be
        hues = [number for number in hues if number in classes]
    colours = [OFF] * len(class_names)
    for order, number in enumerate(hues):
        colours[number] = _CLASSES[order % len(_CLASSES)]
    marks = _beginnings(class_names) if len(classes) > _TOLD_APART else [""] * len(class_names)
    look: dict[str, Any] = {"cmap": ListedColormap(colours), "interpolation": "none"}
    for axes, mask in maps:
        hidden = mask == IGNORED
        if hidden.any():
            axes.patch.set(hatch="////", edgecolor=CLOUD, facecolor="white")
        shown = np.ma.masked_array(mask, hidden)
        axes.imshow(shown, vmin=-0.5, vmax=len(colours) - 0.5, **look)
        for number in classes:
            if marks[number]:
                _mark_region(axes, mask == number, marks[number], colours[number], side)
    handles = [
        Patch(fc=colours[number], ec=CLOUD, label=_marked(marks[number], class_names[number]))
        for number in classes
    ]
    if len(classes) < len(found):
        handles.append(Patch(fc="white", ec=CLOUD, hatch="////", label="no class, not scored"))
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = max(1, min(len(handles), int(figure.get_figwidth() / (0.5 + 0.075 * longest))))
    place: dict[str, Any] = {"loc": "outside lower center", "ncols": columns}
    figure.legend(handles=handles, frameon=False, fontsize=8, labelcolor=INK, **place)


def _beginnings(names: Sequence[str]) -> list[str]:
    """Return the shortest beginning of each name that no other name has, or the whole name."""
    return [
        next(
            (
                name[:end]
                for end in range(1, len(name))
                if sum(other.startswith(name[:end]) for other in names) == 1
            ),
            name,
        )
        for name in names
    ]


def _marked(mark: str, name: str) -> str:
    return name if mark in ("", name) else f"{mark}: {name}"


def _mark_region(
    axes: Axes, where: NDArray[np.bool_], mark: str, colour: str, side: float
) -> None:
    """Write a mark where a mask's region is deepest, if there is room for it."""
    from scipy.ndimage import distance_transform_edt

    depths = distance_transform_edt(np.pad(where, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(depths.argmax()), where.shape)
    if (depths[row, column] - 0.5) * side / where.shape[1] >= _ROOM:
        axes.text(
            int(column),
            int(row),
            mark,
            ha="center",
            va="center",
            fontsize=SMALLEST,
            color=ink_on(colour),
            path_effects=[withStroke(linewidth=1, foreground=colour)],
        )
