"""What a person gives to be asked, as the messages of a question: text, files and pipes of images.

What an image is, its first bytes say, whatever its name is. Knows no connection and no terminal.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from ..peer_text import one_line

# Of a file or a pipe; what the front-end takes of it is up to its --max-body.
MAX_INPUT_BYTES = 64 * 1024 * 1024

# Stands for standard input in place of a file's name.
STDIN = "-"

_IMAGE_TYPES = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
}

Message = dict[str, Any]


class UnusableInput(Exception):
    """What was given cannot be asked; says why in a sentence."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image, as a URL: of the web, or with all of it inside."""

    url: str


def user_message(text: str, images: Sequence[Image] = ()) -> Message:
    """A person's message: the text alone, or with images behind it."""
    if not images:
        return {"role": "user", "content": text}
    parts: list[Message] = [{"type": "text", "text": text}]
    parts += [{"type": "image_url", "image_url": {"url": image.url}} for image in images]
    return {"role": "user", "content": parts}


def read_text(pipe: BinaryIO) -> str:
    """The text of a pipe, to its end, as it is.

    Raises:
        UnusableInput: it is no text.
    """
    data = _read(pipe, "Standard input")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        hint = "; give an image as -i -" if _image_type(data) else ""
        raise UnusableInput(
            f"Standard input is not UTF-8: byte {data[error.start]:#04x} at {error.start}{hint}."
        ) from None


def read_image(name: str, pipe: BinaryIO) -> Image:
    """The image of a file, a URL, or the pipe (`-`).

    Raises:
        UnusableInput: it cannot be read, or is no image.
    """
    if name.lower().startswith(("http://", "https://")):
        return Image(name)
    shown = "Standard input" if name == STDIN else one_line(name)
    try:
        if name == STDIN:
            data = _read(pipe, shown)
        else:
            with open(name, "rb") as file:
                data = _read(file, shown)
    except OSError as error:
        raise UnusableInput(f"{shown} cannot be read: {error.strerror}.") from error
    kind = _image_type(data)
    if kind is None:
        raise UnusableInput(f"{shown} is no PNG, JPEG, GIF or WebP image.")
    return Image(f"data:{kind};base64,{base64.b64encode(data).decode()}")


def _read(file: BinaryIO, shown: str) -> bytes:
    data = file.read(MAX_INPUT_BYTES + 1)
    if len(data) > MAX_INPUT_BYTES:
        raise UnusableInput(f"{shown} is longer than {MAX_INPUT_BYTES >> 20} MiB.")
    return data


def _image_type(data: bytes) -> str | None:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for begin, kind in _IMAGE_TYPES.items() if data.startswith(begin)), None)
