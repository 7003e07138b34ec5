"""Charts of the report as pictures inside the text of Dagster's page.

The page shows markdown at once where it is short, and behind a click where it is long. So every
chart is there twice: as a sketch of its lines, and whole. Both are `data:` addresses: nothing is
fetched, and they stay when the artifact is cleaned away.
"""

import base64
import re
from collections.abc import Iterator, Mapping
from importlib import resources
from itertools import pairwise
from xml.etree import ElementTree

import dagster as dg

_AT_ONCE = 1000  # characters of markdown; from there on the page wants a click
_INKS = {  # colour class of a chart -> the report's colour for it
    "c-clean": "17507f",
    "c-noise": "7d5a06",
    "c-train": "6d7780",
    "who-present": "a33d12",
    "who-absent": "17507f",
    "diagonal": "d8d5cc",
    "limit": "18212b",
}
_COLOURS = {  # what a legend says
    "loss": "grey: training, blue: validation",
    "ROC": "blue: clean, brown: with noise",
    "calibration": "blue: clean, brown: with noise",
    "scores": "red: with RI, blue: without",
}


def pictures(charts: Mapping[str, str]) -> dict[str, dg.MarkdownMetadataValue]:
    """A sketch of every chart, and all of them whole under `plots`.

    charts    name -> SVG, as `spira.evaluation.figures` draws it
    """
    whole = "\n\n".join(
        f"**{name}**\n\n![{name}]({_whole(chart)})" for name, chart in charts.items()
    )
    return {
        **{name: dg.MetadataValue.md(_sketch(name, chart)) for name, chart in charts.items()},
        "plots": dg.MetadataValue.md(whole),
    }


def _sketch(name: str, chart: str) -> str:
    """The lines, points and bars of a chart as markdown, thinned until the page shows it at once.

    A curve of many steps loses those that lie within a pixel or more of the one before.
    """
    for pixels in (1, 2, 3, 5, 8, 13):
        shapes = "".join(_shapes(ElementTree.fromstring(chart), pixels))
        picture = (
            "<svg xmlns='http://www.w3.org/2000/svg' width='194' height='170' "
            "viewBox='55 7 310 272' fill='none' stroke-width='3' style='background:#fff'>"
            f"<path d='M60 12v262h300' stroke='#6d7780'/>{shapes}</svg>"
        )
        encoded = picture.replace("<", "%3C").replace(">", "%3E").replace("#", "%23")
        sketch = f"![{name}](<data:image/svg+xml,{encoded}>)  \n{_COLOURS[name]}"
        if len(sketch) < _AT_ONCE:
            break
    return sketch


def _shapes(chart: ElementTree.Element, pixels: int) -> Iterator[str]:
    """Elements of a sketch: what has one of the colours, all of one look in one path."""
    paths: dict[str, str] = {}
    for element in chart.iter():
        classes = element.get("class", "").split()
        ink = next((_INKS[name] for name in classes if name in _INKS), None)
        if ink is not None and "error" not in classes:
            look, steps = _drawn(element, pixels)
            look = f"stroke='#{ink}'{look}"
            paths[look] = paths.get(look, "") + steps
    for look, steps in paths.items():
        if steps:
            yield f"<path d='{steps}' {look}/>"


def _drawn(element: ElementTree.Element, pixels: int) -> tuple[str, str]:
    """How a line, point or bar of a chart is drawn beside its colour, and its steps in pixels."""
    if element.tag == "path":
        return "", _line(element.get("d", ""), pixels)
    if element.tag == "circle":
        x, y = (round(float(element.get(name, "0"))) for name in ("cx", "cy"))
        return " stroke-width='9' stroke-linecap='round'", f"M{x} {y}h0"
    left, top, width, height = (
        float(element.get(name, "0")) for name in ("x", "y", "width", "height")
    )
    bar = f"M{left + width / 2:.0f} {top:.0f}v{height:.0f}"  # shorter than its four corners
    return f" stroke-width='{width:.0f}'", bar


def _line(steps: str, pixels: int) -> str:
    """A path of a chart with fewer points; nothing of the legend, whose words are not here."""
    if "h" in steps:
        return ""
    numbers = [round(float(text)) for text in re.findall(r"[\d.]+", steps)]
    points = list(zip(numbers[::2], numbers[1::2], strict=True))
    kept = points[:1]
    for x, y in points[1:]:
        if max(abs(x - kept[-1][0]), abs(y - kept[-1][1])) >= pixels:
            kept.append((x, y))
    kept[-1:] = points[-1:]
    moves = [move for old, new in pairwise(kept) for move in (new[0] - old[0], new[1] - old[1])]
    # A minus parts two numbers as a space does.
    relative = "".join(f"{move}" if move < 0 else f" {move}" for move in moves)
    return f"M{kept[0][0]} {kept[0][1]}l{relative}"


def _whole(chart: str) -> str:
    """A chart of the report as the address of a picture that needs no page around it."""
    inside = chart[chart.index(">") + 1 :]
    size = "width='380' height='320' viewBox='0 0 380 320'"
    picture = (
        f"<svg xmlns='http://www.w3.org/2000/svg' {size}><style>{_style()}</style>"
        f"<rect width='380' height='320' fill='#fff'/><g class='chart'>"
        f"{inside.removesuffix('</svg>')}</g></svg>"
    )
    return f"data:image/svg+xml;base64,{base64.b64encode(picture.encode()).decode()}"


def _style() -> str:
    """What the report's style sheet says of figures, in its light colours and in English."""
    templates = resources.files("spira.evaluation") / "templates"
    sheet = (templates / "report.css").read_text(encoding="utf-8")
    colours = re.findall(r":root \{.*?\}", sheet, re.DOTALL)[0]
    rules = sheet.partition("/* Figures */")[2].partition("/* Tables */")[0]
    people = "".join(re.findall(r"^\.who-.*$", sheet, re.MULTILINE))
    return f"{colours}{people}{rules}.pt{{display:none}} text{{font-family:sans-serif}}"
