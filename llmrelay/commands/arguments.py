"""Config's options as arguments of a command, and back: no option is declared twice.

Knows argparse and Config, and no command.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from ..config import Config, options
from ..option import Option

T = TypeVar("T")
if TYPE_CHECKING:
    Subparsers: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]


def add_options(
    parser: argparse.ArgumentParser, wanted: Callable[[str, Option], bool] = lambda *_: True
) -> None:
    """Config's options, in their groups: all, or those that are wanted by field and option."""
    groups: dict[str, Any] = {}
    for field, option in options():
        if wanted(field.name, option):
            if option.group not in groups:
                groups[option.group] = parser.add_argument_group(option.group)
            add_option(groups[option.group], field.name, option, field.default)


def add_option(group: Any, name: str, option: Option, default: Any) -> None:
    written = option.written(default)
    text = f"{option.description} [{written}]" if written else option.description
    given: dict[str, Any] = {"dest": name, "default": default, "help": text.replace("%", "%%")}
    if option.metavar is None:
        group.add_argument(option.flag, action="store_true", **given)
        return
    group.add_argument(
        option.flag,
        action=_Repeated if option.repeated else "store",
        metavar=option.metavar,
        type=checked(option.parse),
        **given,
    )


class _Repeated(argparse.Action):
    """Collects a tuple: the first use takes the place of the default, each further one adds."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        given = getattr(namespace, self.dest)
        before = () if given is self.default else given
        setattr(namespace, self.dest, (*before, values))


def checked(parse: Callable[[str], T]) -> Callable[[str], T]:
    """argparse shows a ValueError's text only if it comes as its own exception."""

    def convert(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


def require_runners(arguments: argparse.Namespace) -> None:
    """Ends a command that was told of no runner, as argparse ends a wrong one."""
    if not arguments.runners and arguments.inventory is None:
        arguments.refuse("give --runner [USER@]HOST or --inventory FILE")


def config_of(arguments: argparse.Namespace, **given: Any) -> Config:
    """The Config that the arguments say; what a command does not take is as by default.

    Raises:
        UnusableConfig: arguments that do not go together.
    """
    names = {field.name for field in dataclasses.fields(Config)}
    said = {name: value for name, value in vars(arguments).items() if name in names}
    return Config(**(said | given))


def run(main: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine on uvloop where there is one (not on Windows)."""
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)
