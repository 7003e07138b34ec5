"""The report's figures: small SVG written by hand, coloured by the page's style sheet.

Every figure takes values and returns markup whose bytes depend on nothing else. Colours are
classes (`c-clean`, `c-noise`, `who-present`, `who-absent`), so dark mode and print can change them;
what a colour says, a dash, a fill or a word says too. Words appear once in each language, and the
style sheet shows one of them.

`strip` and `share_strip` place things in per cent of their own width: they fit a phone and a wide
screen with text of one size. The others are drawn on a fixed field and scale as a whole.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape

from spira.domain.answers import Sentence
from spira.evaluation.results import CalibrationBin, Curve, Estimate
from spira.evaluation.wording import decimal, percent, spoken, word

# The field of a chart, in SVG units; 1 unit is 1 CSS pixel at the figure's natural width.
_WIDTH, _HEIGHT = 380.0, 320.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 60.0, 20.0, 12.0, 46.0

Interval = tuple[float, float]


def both(text: Sentence) -> Markup:
    """A sentence as HTML in both languages; the style sheet shows one."""
    if text.pt == text.en:
        return escape(text.pt)
    return Markup(
        '<span class="pt" lang="pt-BR">{}</span><span class="en" lang="en">{}</span>'
    ).format(text.pt, text.en)


# --- intervals on a line ------------------------------------------------------------------


def strip(
    estimate: Estimate,
    *,
    scale: Interval = (0.0, 1.0),
    zone: Interval | None = None,
    bound: float | None = None,
    reference: float | None = None,
    css: str = "c-clean",
    hollow: bool = False,
) -> Markup:
    """A figure and its two-sided interval on a horizontal scale, in one line of 24 px.

    zone     what a limit allows; its ends that lie inside the scale are drawn as limits
    bound    the one-sided 95 % bound that the limit is compared with, drawn as a pointer
    reference   what to compare with: pure chance, or everybody together
    hollow   a figure that rests on too few people is drawn as a ring with a dashed interval
    """
    place = _placed(scale)
    parts = [Markup('<line class="track" x1="0%" x2="100%" y1="12" y2="12"/>')]
    if zone is not None:
        left, right = place(zone[0]), place(zone[1])
        parts.append(
            Markup('<rect class="zone" x="{}%" y="3" width="{}%" height="18"/>').format(
                _f(left), _f(right - left)
            )
        )
        parts += [
            Markup('<line class="limit" x1="{0}%" x2="{0}%" y1="1" y2="23"/>').format(
                _f(place(end))
            )
            for end in zone
            if scale[0] < end < scale[1]
        ]
    if reference is not None:
        parts.append(
            Markup('<line class="reference" x1="{0}%" x2="{0}%" y1="4" y2="20"/>').format(
                _f(place(reference))
            )
        )
    kind = Markup("{} hollow").format(css) if hollow else escape(css)
    if estimate.low is not None and estimate.high is not None:
        parts.append(
            Markup('<line class="whisker {}" x1="{}%" x2="{}%" y1="12" y2="12"/>').format(
                kind, _f(place(estimate.low)), _f(place(estimate.high))
            )
        )
    if bound is not None:
        parts.append(
            Markup(
                '<svg x="{}%" y="0" class="at"><path class="bound" d="M0 16 L5 24 L-5 24 Z"/></svg>'
            ).format(_f(place(bound)))
        )
    if estimate.value is not None:
        parts.append(
            Markup('<circle class="dot {}" cx="{}%" cy="12" r="5"/>').format(
                kind, _f(place(estimate.value))
            )
        )
    return Markup('<svg class="strip" width="100%" height="24" aria-hidden="true">{}</svg>').format(
        Markup("").join(parts)
    )


def scale_line(ticks: Sequence[tuple[float, Sentence]], scale: Interval = (0.0, 1.0)) -> Markup:
    """Numbers under a `strip` of the same scale."""
    place = _placed(scale)
    parts = []
    for value, text in ticks:
        at = place(value)
        anchor = "start" if at < 4 else "end" if at > 96 else "middle"
        parts.append(_svg_text(f"{_f(at)}%", "12", text, anchor))
    return Markup(
        '<svg class="strip scale" width="100%" height="16" aria-hidden="true">{}</svg>'
    ).format(Markup("").join(parts))


def share_strip(shares: Sequence[tuple[float, str]]) -> Markup:
    """Shares of one whole, side by side in one bar; each is (share, class)."""
    parts, at = [], 0.0
    for share, css in shares:
        if share > 0:
            parts.append(
                Markup('<rect class="{}" x="{}%" y="0" width="{}%" height="100%"/>').format(
                    css, _f(100 * at), _f(100 * share)
                )
            )
        at += share
    return Markup('<svg class="shares" width="100%" height="8" aria-hidden="true">{}</svg>').format(
        Markup("").join(parts)
    )


# --- people -------------------------------------------------------------------------------


def people(with_ri: int) -> Markup:
    """A hundred people, `with_ri` of them filled: 5 rows of 20, read like text."""
    filled = min(max(with_ri, 0), 100)
    parts = [
        Markup('<use href="#person" class="{}" x="{}" y="{}"/>').format(
            "who-present" if index < filled else "who-absent",
            index % 20 * 18,
            index // 20 * 27,
        )
        for index in range(100)
    ]
    return Markup('<svg class="people" viewBox="-1 -1 360 135" aria-hidden="true">{}</svg>').format(
        Markup("").join(parts)
    )


# --- charts -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One curve of a chart: its points, its colour class, and its words for the legend."""

    curve: Curve
    css: str
    label: Sentence
    point: tuple[float, float] | None = None  # the operating point


def roc(lines: Sequence[Line]) -> Markup:
    """Sensitivity over 1 - specificity, with the diagonal of chance and the operating points."""
    plot = _Plot((0, 1), (0, 1))
    plot.axes(
        _share_ticks(),
        _share_ticks(),
        Sentence(pt="indício por engano, sem IR", en="indication by mistake, without RI"),
        Sentence(pt="indício certo, com IR", en="right indication, with RI"),
    )
    plot.path([(0, 0), (1, 1)], "diagonal")
    for line in lines:
        points = _thin(plot, list(zip(line.curve.x, line.curve.y, strict=False)))
        plot.path(points, f"curve {line.css}")
    for line in lines:
        if line.point is not None:
            plot.dot(line.point, f"dot {line.css}", 5.5)
    plot.legend([(line.css, line.label) for line in lines], corner="low")
    return plot.svg()


def calibration(series: Sequence[tuple[str, Sentence, Sequence[CalibrationBin]]]) -> Markup:
    """Observed share over predicted probability, a bin a point with its interval."""
    plot = _Plot((0, 1), (0, 1))
    plot.axes(
        _share_ticks(),
        _share_ticks(),
        Sentence(pt="probabilidade prevista", en="predicted probability"),
        Sentence(pt="proporção com IR", en="share with RI"),
    )
    plot.path([(0, 0), (1, 1)], "diagonal")
    for css, _, bins in series:
        known = [bin_ for bin_ in bins if bin_.observed.value is not None]
        for bin_ in known:
            low, high = bin_.observed.low, bin_.observed.high
            if low is not None and high is not None:
                plot.path([(bin_.predicted, low), (bin_.predicted, high)], f"error {css}")
        points = [(bin_.predicted, bin_.observed.value or 0.0) for bin_ in known]
        plot.path(points, f"curve thin {css}")
        for point in points:
            plot.dot(point, f"dot {css}", 4)
    plot.legend([(css, label) for css, label, _ in series], corner="high")
    return plot.svg()


def distribution(
    edges: Sequence[float],
    present: Sequence[int],
    absent: Sequence[int],
    *,
    threshold: float,
    band: Interval,
    counted: Sentence,
) -> Markup:
    """Counts by calibrated probability: with RI above the line, without RI below it.

    edges     [n + 1] ends of the bins, rising within 0..1
    present   [n] how many have the label present; absent likewise
    band      the inconclusive band, shaded; `threshold` lies in it
    counted   what is counted, people or recordings
    """
    most = _ceiling(1.1 * max([1, *present, *absent]))
    plot = _Plot((0, 1), (-most, most))
    ticks = [tick for tick in _nice(0, most, 3) if tick == int(tick)]
    mirrored = sorted({-tick for tick in ticks} | set(ticks))
    plot.axes(
        _share_ticks(),
        [(tick, decimal(abs(tick), 0)) for tick in mirrored],
        Sentence(pt="probabilidade calibrada", en="calibrated probability"),
        counted,
    )
    if band[1] > band[0]:
        plot.box(band[0], -most, band[1], most, "band")
    for number, (left, right) in enumerate(pairwise(edges)):
        plot.box(left, 0, right, present[number], "bar who-present")
        plot.box(left, -absent[number], right, 0, "bar who-absent")
    plot.path([(0, 0), (1, 0)], "axis")
    plot.path([(threshold, -most), (threshold, most)], "limit")
    # Each word in the corner that scores of the other people fill.
    plot.text(_LEFT + 6, _TOP + 14, word("present"), "start", "key present")
    plot.text(_WIDTH - _RIGHT - 4, _HEIGHT - _BOTTOM - 7, word("absent"), "end", "key absent")
    return plot.svg()


def losses(
    epochs: Sequence[int],
    train: Sequence[float | None],
    validation: Sequence[float | None],
    kept: int | None,
) -> Markup:
    """Training and validation loss by epoch; the kept epoch is marked. None is a gap."""
    known = [loss for loss in (*train, *validation) if loss is not None]
    highest = max(known, default=1.0)
    first, last = min(epochs, default=0), max(epochs, default=1)
    if last == first:
        last = first + 1
    ceiling = _ceiling(highest)
    plot = _Plot((first, last), (0, ceiling))
    plot.axes(
        [(tick, decimal(tick, 0)) for tick in _nice(first, last, 5) if tick == int(tick)],
        [(tick, _loss(tick, ceiling)) for tick in _nice(0, ceiling, 4)],
        Sentence(pt="época", en="epoch"),
        Sentence(pt="perda", en="loss"),
    )
    if kept is not None and first <= kept <= last:
        plot.path([(kept, 0), (kept, ceiling)], "limit")
    for values, css in ((train, "c-train"), (validation, "c-clean")):
        points = list(zip(epochs, values, strict=False))
        for piece in _pieces(points):
            plot.path(_thin(plot, piece), f"curve {css}")
            if len(piece) == 1:
                plot.dot(piece[0], f"dot {css}", 3)
    plot.legend([("c-train", word("train")), ("c-clean", word("validation"))], corner="right")
    return plot.svg()


class _Plot:
    """A field with two linear axes; collects SVG elements in drawing order."""

    def __init__(self, x: Interval, y: Interval) -> None:
        self._x_range, self._y_range = x, y
        self._parts: list[Markup] = []

    def x(self, value: float) -> float:
        low, high = self._x_range
        share = min(max((value - low) / (high - low), 0.0), 1.0)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self._y_range
        share = min(max((value - low) / (high - low), 0.0), 1.0)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    def axes(
        self,
        x_ticks: Sequence[tuple[float, Sentence]],
        y_ticks: Sequence[tuple[float, Sentence]],
        x_title: Sentence,
        y_title: Sentence,
    ) -> None:
        floor, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
        for value, text in y_ticks:
            at = self.y(value)
            self._line(_LEFT, at, right, at, "grid")
            self.text(_LEFT - 7, at + 4, text, "end", "tick")
        for value, text in x_ticks:
            at = self.x(value)
            self._line(at, floor, at, floor + 4, "axis")
            self.text(at, floor + 17, text, "middle", "tick")
        self._line(_LEFT, floor, right, floor, "axis")
        self.text((_LEFT + right) / 2, _HEIGHT - 7, x_title, "middle", "title")
        middle = (_TOP + floor) / 2
        self._parts.append(
            Markup('<g transform="translate(11 {}) rotate(-90)">{}</g>').format(
                _f(middle), _svg_text("0", "0", y_title, "middle", "title")
            )
        )

    def path(self, points: Sequence[tuple[float, float]], css: str) -> None:
        if len(points) < 2:
            return
        steps = " L".join(f"{_f(self.x(x))} {_f(self.y(y))}" for x, y in points)
        self._parts.append(Markup('<path class="{}" d="M{}"/>').format(css, steps))

    def dot(self, point: tuple[float, float], css: str, radius: float) -> None:
        self._parts.append(
            Markup('<circle class="{}" cx="{}" cy="{}" r="{}"/>').format(
                css, _f(self.x(point[0])), _f(self.y(point[1])), _f(radius)
            )
        )

    def box(self, left: float, low: float, right: float, high: float, css: str) -> None:
        x, y = self.x(left), self.y(high)
        width, height = self.x(right) - x, self.y(low) - y
        if width > 0 and height > 0:
            self._parts.append(
                Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>').format(
                    css, _f(x), _f(y), _f(width), _f(height)
                )
            )

    def text(self, x: float, y: float, words: Sentence, anchor: str, css: str) -> None:
        self._parts.append(_svg_text(_f(x), _f(y), words, anchor, css))

    def legend(self, entries: Sequence[tuple[str, Sentence]], corner: str) -> None:
        """Entries one under the other; corner "low" right, "high" left or "right" (high)."""
        step = 19
        x = _LEFT + 12 if corner == "high" else _WIDTH - _RIGHT - (178 if corner == "low" else 114)
        top = _TOP + 16
        if corner == "low":
            top = _HEIGHT - _BOTTOM - 14 - step * (len(entries) - 1)
        width = 175 if corner == "low" else 112
        self._parts.append(
            Markup('<rect class="legend" x="{}" y="{}" width="{}" height="{}"/>').format(
                _f(x - 6), _f(top - 17), _f(width), _f(step * len(entries) + 4)
            )
        )
        for number, (css, words) in enumerate(entries):
            y = top + step * number
            self._parts.append(
                Markup('<path class="curve {}" d="M{} {} h22"/>').format(css, _f(x), _f(y - 4))
            )
            self.text(x + 29, y, words, "start", "key")

    def svg(self) -> Markup:
        return Markup('<svg class="chart" viewBox="0 0 {} {}" aria-hidden="true">{}</svg>').format(
            _f(_WIDTH), _f(_HEIGHT), Markup("").join(self._parts)
        )

    def _line(self, x1: float, y1: float, x2: float, y2: float, css: str) -> None:
        self._parts.append(
            Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
                css, _f(x1), _f(y1), _f(x2), _f(y2)
            )
        )


def _svg_text(x: str, y: str, words: Sentence, anchor: str, css: str = "tick") -> Markup:
    shape = Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>')
    if words.pt == words.en:
        return shape.format(css, x, y, anchor, words.pt)
    return Markup("").join(
        shape.format(f"{css} {language}", x, y, anchor, spoken(words, language))
        for language in ("pt", "en")
    )


def _f(number: float) -> str:
    """At most two decimals: the same bytes wherever the last bits of a float differ."""
    text = f"{number:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _placed(scale: Interval) -> Callable[[float], float]:
    """Where a value lies on a scale, in per cent; outside values at its end."""
    low, high = scale

    def place(value: float) -> float:
        return 100 * min(max((value - low) / (high - low), 0.0), 1.0)

    return place


def _share_ticks() -> list[tuple[float, Sentence]]:
    return [(share, percent(share)) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]


def _nice(low: float, high: float, about: int) -> list[float]:
    """Round numbers in [low, high], roughly `about` of them."""
    raw = (high - low) / about
    power = 10 ** math.floor(math.log10(raw))
    step = next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


def _ceiling(highest: float) -> float:
    """The first round tick at or above the highest value."""
    if highest < 1e-9:
        return 1.0
    ticks = _nice(0, highest * 2, 8)
    return next(tick for tick in ticks if tick >= highest)


def _loss(tick: float, ceiling: float) -> Sentence:
    """A tick of an axis from 0 to `ceiling`, with as many decimals as tell its ticks apart."""
    if ceiling >= 1e4 or ceiling < 1e-3:
        return Sentence(pt=f"{tick:.1e}".replace(".", ","), en=f"{tick:.1e}")
    return decimal(tick, max(0, 1 - math.floor(math.log10(ceiling))))


def _thin(plot: _Plot, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points that differ on the page: a curve of a million steps costs no more than the page."""
    kept: list[tuple[float, float]] = []
    last = (-1.0, -1.0)
    for x, y in points:
        here = (round(plot.x(x), 1), round(plot.y(y), 1))
        if here != last:
            kept.append((x, y))
            last = here
    return kept


def _pieces(
    points: Sequence[tuple[int, float | None]],
) -> list[list[tuple[float, float]]]:
    """Runs of known values, broken where one is missing."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is None:
            pieces.append([])
        else:
            pieces[-1].append((x, y))
    return [piece for piece in pieces if piece]
