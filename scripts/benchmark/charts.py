"""The kinds of pictures that the benchmark's figures become: stacked bars, percentiles, curves.

Figures in, SVG out; all of them look alike: a title, a legend, and below each other a panel per
scenario with a row per peer, whose figures also stand there as text. Bars and marks are medians
over rounds, and a line shows their range.

Pure. Knows neither JSON nor files (plots.py), nor how shapes are written (svg.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from .svg import Picture, decades, steps

WIDTH = 760
LEFT, RIGHT = 100, 180
TOP = 76
PERCENTILES = ("p50", "p99", "p99.9")
# Below a panel: its axis' figures, and room before the next one.
_AXIS, _HEADING = 52, 22
_BAR_ROW, _LATE_ROW = 26, 34
# The same process has the same colour in every picture.
_COLOURS = {name: at for at, name in enumerate(("front-end", "runner", "sshd", "ssh", "nginx"))}
# A peer that costs this many times what most do is cut off, so that those can be seen; never ours.
_CUT = 3.0
_FRONT_END = "front-end"

_NOTE = "medians and ranges of rounds; \N{DAGGER} with errors"


@dataclass(frozen=True)
class Bar:
    """A peer's cost in parts, by process; each round by round."""

    peer: str
    parts: Mapping[str, Sequence[float]]

    @property
    def totals(self) -> list[float]:
        return [sum(each) for each in zip(*self.parts.values(), strict=True)]


@dataclass(frozen=True)
class Late:
    """A peer's percentiles of latency, in ms; each round by round."""

    peer: str
    late_ms: Mapping[str, Sequence[float]]


# --- Bars ---------------------------------------------------------------------------------------


def bars(title: str, unit: str, panels: Mapping[str, Sequence[Bar]]) -> str:
    """What each peer costs, stacked by process; each panel has an axis of its own."""
    names = list(
        dict.fromkeys(part for panel in panels.values() for bar in panel for part in bar.parts)
    )
    names.sort(key=lambda name: _COLOURS.get(name, len(_COLOURS)))
    height = TOP + sum(_HEADING + _BAR_ROW * len(panel) + _AXIS for panel in panels.values())
    picture = Picture(WIDTH, height, title)
    picture.text(16, 26, title, "title")
    picture.text(WIDTH - 16, 26, _NOTE, "faint", "end")
    _legend(picture, [(name, _colour(name, names)) for name in names])
    y = float(TOP)
    for scenario, panel in panels.items():
        picture.text(16, y + 10, scenario, "strong")
        _bars_panel(picture, y + _HEADING, unit, panel, names)
        y += _HEADING + _BAR_ROW * len(panel) + _AXIS
    return picture.render()


def _bars_panel(
    picture: Picture, top: float, unit: str, panel: Sequence[Bar], names: Sequence[str]
) -> None:
    ticks = steps(_highest_shown(panel))
    limit = ticks[-1]
    bottom = top + _BAR_ROW * len(panel) + 2

    def x_of(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * max(0.0, min(value, limit)) / limit

    for tick in ticks:
        picture.line(x_of(tick), top, x_of(tick), bottom, "grid")
        picture.text(x_of(tick), bottom + 15, f"{tick:,g}", "faint", "middle")
    picture.text(x_of(limit) + 24, bottom + 15, unit, "faint")
    for number, bar in enumerate(panel):
        y = top + _BAR_ROW * number + 5
        total = median(bar.totals)
        picture.text(LEFT - 8, y + 13, bar.peer, "", "end")
        # Medians of parts do not add up to the median of their sums, which the bar is to show.
        scale = total / (sum(median(values) for values in bar.parts.values()) or 1.0)
        reached = 0.0
        for name in names:
            if name in bar.parts:
                value = median(bar.parts[name])
                start, reached = reached, reached + value * scale
                said = f"{bar.peer}, {name}: {figure(value)}"
                width = max(0.0, x_of(reached) - x_of(start))
                picture.bar(x_of(start), y, width, 18, _colour(name, names), said)
        if total > limit:
            cut = x_of(limit) - 24
            picture.path([(cut - 4, y + 20), (cut + 4, y - 2)], "cut")
        else:
            _range(picture, x_of(min(bar.totals)), x_of(max(bar.totals)), y + 9)
        end = max(x_of(total), x_of(max(bar.totals)))
        picture.text(end + 8, y + 13, spread(bar.totals))
    picture.line(LEFT, top, LEFT, bottom, "axis")


def _highest_shown(panel: Sequence[Bar]) -> float:
    """The highest total of those that are not cut off."""
    totals = sorted(median(bar.totals) for bar in panel)
    # Of two in the middle the lesser one: of two peers, one may be the one that is cut off.
    most = _CUT * totals[(len(totals) - 1) // 2]
    return max(
        max(bar.totals) for bar in panel if median(bar.totals) <= most or _FRONT_END in bar.parts
    )


# --- Latency ------------------------------------------------------------------------------------


def latencies(title: str, panels: Mapping[str, Sequence[Late]]) -> str:
    """Marks at the percentiles of each peer; all panels share one logarithmic axis."""
    every = [
        ms
        for panel in panels.values()
        for late in panel
        for of in late.late_ms.values()
        for ms in of
    ]
    ticks = decades(min(every), max(every))
    low, high = math.log10(ticks[0]), math.log10(ticks[-1])
    height = TOP + sum(_HEADING + _LATE_ROW * len(panel) + _AXIS for panel in panels.values())
    picture = Picture(WIDTH, height, title)
    picture.text(16, 26, title, "title")
    picture.text(WIDTH - 16, 26, _NOTE, "faint", "end")
    _legend(picture, [(name, at) for at, name in enumerate(PERCENTILES)], marks=True)

    def x_of(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (math.log10(value) - low) / (high - low)

    y = float(TOP)
    for scenario, panel in panels.items():
        picture.text(16, y + 10, scenario, "strong")
        picture.text(WIDTH - RIGHT + 16, y + 10, " / ".join(PERCENTILES), "faint")
        top, bottom = y + _HEADING, y + _HEADING + _LATE_ROW * len(panel)
        for tick in ticks:
            picture.line(x_of(tick), top, x_of(tick), bottom, "grid")
            # Over many powers of ten there is room for those alone.
            if high - low < 3 or math.log10(tick) == round(math.log10(tick)):
                picture.text(x_of(tick), bottom + 15, f"{tick:,g}", "faint", "middle")
        picture.line(LEFT, top, LEFT, bottom, "axis")
        for number, late in enumerate(panel):
            middle = top + _LATE_ROW * number + _LATE_ROW / 2
            picture.text(LEFT - 8, middle + 4, late.peer, "", "end")
            for name, values in late.late_ms.items():
                at = PERCENTILES.index(name)
                # One above the other, so that none hides what is near it.
                level = middle + 9 * (at - 1)
                _range(picture, x_of(min(values)), x_of(max(values)), level)
                picture.mark(x_of(median(values)), level, at, at)
            figures = " / ".join(figure(median(values)) for values in late.late_ms.values())
            picture.text(WIDTH - RIGHT + 16, middle + 4, figures)
        y = bottom + _AXIS
    return picture.render()


# --- Curves -------------------------------------------------------------------------------------


def curves(
    title: str, x_unit: str, y_unit: str, at: Sequence[float], held: Mapping[str, Sequence[float]]
) -> str:
    """What each process held, over what was done; both axes begin at zero."""
    names = list(held)
    left, right, bottom = 60, WIDTH - 120, 320
    picture = Picture(WIDTH, 368, title)
    picture.text(16, 26, title, "title")
    _legend(picture, [(name, _colour(name, names)) for name in names])
    x_ticks = steps(max(at))
    y_ticks = steps(max(max(values) for values in held.values()))

    def x_of(value: float) -> float:
        return left + (right - left) * value / x_ticks[-1]

    def y_of(value: float) -> float:
        return bottom - (bottom - TOP) * value / y_ticks[-1]

    for tick in y_ticks:
        picture.line(left, y_of(tick), right, y_of(tick), "grid")
        picture.text(left - 8, y_of(tick) + 4, f"{tick:,g}", "faint", "end")
    for tick in x_ticks:
        picture.line(x_of(tick), bottom, x_of(tick), bottom + 4, "axis")
        picture.text(x_of(tick), bottom + 19, f"{tick:,g}", "faint", "middle")
    picture.line(left, bottom, right, bottom, "axis")
    picture.text((left + right) / 2, bottom + 38, x_unit, "faint", "middle")
    picture.text(left - 8, TOP - 10, y_unit, "faint", "end")
    free = bottom + 20.0
    for name, values in sorted(held.items(), key=lambda each: each[1][-1]):
        colour = _colour(name, names)
        points = [(x_of(x), y_of(y)) for x, y in zip(at, values, strict=True)]
        picture.curve(points, colour)
        for x, y in points:
            picture.mark(x, y, names.index(name) % 4, colour)
        # From below upwards, no label on another.
        free = min(free - 16, points[-1][1] + 4)
        picture.text(points[-1][0] + 10, free, f"{name} {figure(values[-1])}")
    return picture.render()


# --- What they share ----------------------------------------------------------------------------


def _colour(name: str, names: Sequence[str]) -> int:
    others = [each for each in names if each not in _COLOURS]
    return _COLOURS[name] if name in _COLOURS else len(_COLOURS) + others.index(name)


def _legend(picture: Picture, entries: Sequence[tuple[str, int]], *, marks: bool = False) -> None:
    x, y = 16.0, 50.0
    for name, colour in entries:
        if marks:
            picture.mark(x + 6, y - 4, colour, colour)
        else:
            picture.bar(x, y - 10, 12, 12, colour, name)
        picture.text(x + 18, y, name)
        x += 18 + 7.5 * len(name) + 22


def _range(picture: Picture, x1: float, x2: float, y: float) -> None:
    if x1 == x2:
        return
    picture.line(x1, y, x2, y, "range")
    for x in (x1, x2):
        picture.line(x, y - 3, x, y + 3, "range")


def spread(values: Sequence[float]) -> str:
    """The median, with the range if there is one."""
    least, most = figure(min(values)), figure(max(values))
    text = figure(median(values))
    return text if least == most else f"{text} ({least} to {most})"


def figure(value: float) -> str:
    """Three digits that say something."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
