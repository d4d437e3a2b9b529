"""How an option of the command line is declared: beside the field of Config that it sets.

An Option says all that the command line (cli.py) and docs/options.md need, so that neither knows
any option by name. It takes one value, or several when it is repeated, or none (a switch).

Knows neither Config nor argparse. Declared with `option` and `switch` in config.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .values import KIB, MIB

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Option:
    """How a Config field is given on the command line.

    Attributes:
        flag: the option's name, with its dashes.
        metavar: what stands for the value in the help; None for a switch, which has no value and
            sets its field to True.
        parse: text -> value; raises ValueError with the reason in words.
        help: one line: what it does, and why the default is what it is.
        group: the heading that it stands under.
        repeated: it can be given several times; the field is a tuple, and the values that are given
            replace those of the default.
    """

    flag: str
    metavar: str | None
    parse: Callable[[str], Any]
    help: str
    group: str
    repeated: bool = False

    @property
    def usage(self) -> str:
        """`--flag VALUE`, or the flag alone."""
        return self.flag if self.metavar is None else f"{self.flag} {self.metavar}"

    @property
    def description(self) -> str:
        """The help, and whether there may be several."""
        return f"{self.help} Can be given several times." if self.repeated else self.help

    def written(self, value: Any) -> str:
        """A value as it is given on the command line; empty for what stands for "not given"."""
        if value is None or value is False:
            return ""
        if self.repeated:
            return " ".join(str(each) for each in value)
        if self.metavar == "BYTES":
            unit, name = (MIB, "MiB") if value % MIB == 0 else (KIB, "KiB")
            return f"{value // unit}{name}" if value % unit == 0 else str(value)
        if self.metavar == "MODE":
            return f"{value:o}"
        if self.metavar == "TIME":
            return f"{value:g}s"
        return f"{value:g}" if isinstance(value, float) else str(value)


def option(
    flag: str,
    metavar: str,
    parse: Callable[[str], T],
    default: Any,
    help: str,
    group: str,
    *,
    repeated: bool = False,
) -> Any:
    """A field of Config that an option sets; its default is a tuple if the option is repeated."""
    declared = Option(flag, metavar, parse, help, group, repeated)
    return field(default=default, metadata={"option": declared})


def switch(flag: str, help: str, group: str) -> Any:
    """A field of Config that is False unless the option is there."""
    return field(default=False, metadata={"option": Option(flag, None, bool, help, group)})
