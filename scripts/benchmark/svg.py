"""A picture in SVG: lines, bars, marks and words, readable on a light page and on a dark one.

Colours are classes, so that the picture's own style can choose them by the reader's preference; it
has its own ground, as a page need not share that. No script, no font of its own, and the same
picture is always the same text, a shape a line, so that a change is a small diff.

Pure. Knows nothing of what is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape, quoteattr

# Can be told apart with any sight of colours, after Okabe and Ito: on a light page, on a dark one.
COLOURS = (
    ("#0072b2", "#4aa8e0"),
    ("#e69f00", "#f0b429"),
    ("#7a7f87", "#a5abb3"),
    ("#009e73", "#2fc497"),
    ("#cc79a7", "#e09cc2"),
    ("#d55e00", "#ef8345"),
    ("#8a6d00", "#e5d84a"),
)
_STYLE = """\
svg { color: #1f2328; --ground: #ffffff; }
text { fill: currentColor; font: 13px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
.title { font-size: 15px; font-weight: 600; }
.strong { font-weight: 600; }
.faint { fill-opacity: 0.75; font-size: 12px; }
.ground { fill: var(--ground); }
.grid { stroke: currentColor; stroke-opacity: 0.15; }
.axis { stroke: currentColor; stroke-opacity: 0.6; }
.range { stroke: currentColor; stroke-width: 1.5; }
.cut { stroke: var(--ground); stroke-width: 4; fill: none; }
.drawn { fill: none; stroke-width: 2; stroke-linejoin: round; }
"""


class Picture:
    """What is drawn, from back to front; lengths are pixels at the picture's own size."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self._size = f"{_number(width)} {_number(height)}"
        self._title = title
        self._shapes = [
            f'<rect class="ground" width="{_number(width)}" height="{_number(height)}"/>'
        ]

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        ends = zip(("x1", "y1", "x2", "y2"), (x1, y1, x2, y2), strict=True)
        where = " ".join(f'{name}="{_number(value)}"' for name, value in ends)
        self._shapes.append(f'<line class="{kind}" {where}/>')

    def bar(self, x: float, y: float, width: float, height: float, colour: int, says: str) -> None:
        """A rectangle; `says` is what a pointer on it shows."""
        self._shapes.append(
            f'<rect class="fill{colour % len(COLOURS)}" x="{_number(x)}" y="{_number(y)}"'
            f' width="{_number(width)}" height="{_number(height)}">'
            f"<title>{escape(says)}</title></rect>"
        )

    def text(self, x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> None:
        self._shapes.append(
            f'<text class="{kind}" x="{_number(x)}" y="{_number(y)}"'
            f' text-anchor="{anchor}">{escape(words)}</text>'
        )

    def path(
        self, points: Sequence[tuple[float, float]], kind: str, *, closed: bool = False
    ) -> None:
        steps = " L".join(f"{_number(x)} {_number(y)}" for x, y in points)
        self._shapes.append(f'<path class="{kind}" d="M{steps}{"Z" if closed else ""}"/>')

    def curve(self, points: Sequence[tuple[float, float]], colour: int) -> None:
        """A line through all points."""
        self.path(points, f"drawn stroke{colour % len(COLOURS)}")

    def mark(self, x: float, y: float, shape: int, colour: int) -> None:
        """A square, a diamond or a triangle, or else a circle."""
        kind = f"fill{colour % len(COLOURS)}"
        if shape == 0:
            self._shapes.append(
                f'<circle class="{kind}" cx="{_number(x)}" cy="{_number(y)}" r="4.5"/>'
            )
            return
        corners = {
            1: ((-5.5, 0), (0, -5.5), (5.5, 0), (0, 5.5)),
            2: ((-4, -4), (4, -4), (4, 4), (-4, 4)),
        }.get(shape, ((-5, 4), (0, -5), (5, 4)))
        self.path([(x + dx, y + dy) for dx, dy in corners], kind, closed=True)

    def render(self) -> str:
        shapes = "\n".join(self._shapes)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self._size}"'
            f' width="{self._size.split()[0]}" role="img" aria-label={quoteattr(self._title)}>\n'
            f"<title>{escape(self._title)}</title>\n<style>\n{_style()}</style>\n{shapes}\n</svg>\n"
        )


def _style() -> str:
    def classes(column: int) -> str:
        return "".join(
            f".fill{i} {{ fill: {both[column]}; }} .stroke{i} {{ stroke: {both[column]}; }}\n"
            for i, both in enumerate(COLOURS)
        )

    dark = f"svg {{ color: #e6edf3; --ground: #0d1117; }}\n{classes(1)}"
    return f"{_STYLE}{classes(0)}@media (prefers-color-scheme: dark) {{\n{dark}}}\n"


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


# --- Axes ---------------------------------------------------------------------------------------


def steps(highest: float, most: int = 6) -> list[float]:
    """Round values from 0 to `highest` or a little more, at most so many besides 0."""
    if highest <= 0:
        return [0.0, 1.0]
    rough = highest / most
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * each for each in (1, 2, 2.5, 5, 10) if power * each >= rough * 0.999999)
    return [step * number for number in range(math.ceil(highest / step - 1e-9) + 1)]


def decades(lowest: float, highest: float) -> list[float]:
    """1, 2 and 5 of every power of ten, from no more than `lowest` to no less than `highest`."""
    first, last = math.floor(math.log10(lowest)), math.ceil(math.log10(highest))
    every = [digit * 10.0**power for power in range(first, last + 1) for digit in (1, 2, 5)]
    below = max(each for each in every if each <= lowest * 1.000001)
    above = min(each for each in every if each >= highest * 0.999999)
    return [each for each in every if below <= each <= max(above, below * 10)]
