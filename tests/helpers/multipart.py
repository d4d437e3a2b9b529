"""multipart/form-data as an upload arrives: bytes in, the form's fields out, or a ValueError.

Strict, so that a byte that was lost, added or moved on the way is seen; written for what OpenAI's
clients and curl send (RFC 7578), without nested parts. Knows no HTTP connection; openai_api.py
reads the uploads of the simulated upstream with it. Standard library only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """One field of a form.

    Attributes:
        filename: None in a field that is no file.
    """

    name: str
    data: bytes
    filename: str | None = None
    content_type: str | None = None

    @property
    def text(self) -> str:
        return self.data.decode()


def parse_form(content_type: str, body: bytes) -> list[Part]:
    """The form's fields in their order."""
    boundary = re.fullmatch(r'multipart/form-data;\s*boundary="?([^";]{1,70})"?', content_type)
    if boundary is None:
        raise ValueError(f"not a form with a boundary: {content_type!r}")
    mark = b"\r\n--" + boundary[1].encode()
    before, *pieces, end = (b"\r\n" + body).split(mark)
    if before or end.rstrip(b"\r\n") != b"--":
        raise ValueError("not from the first boundary to the last")
    return [_part(piece) for piece in pieces]


def _part(piece: bytes) -> Part:
    head, blank, data = piece.partition(b"\r\n\r\n")
    if not blank or not head.startswith(b"\r\n"):
        raise ValueError(f"not a part: {piece[:80]!r}")
    lines = [line.partition(":") for line in head[2:].decode().split("\r\n")]
    headers = {name.lower(): value.strip() for name, _, value in lines}
    disposition = headers.get("content-disposition", "")
    name = re.search(r'\bname="([^"]*)"', disposition)
    if not disposition.startswith("form-data;") or name is None:
        raise ValueError(f"not a field of a form: {disposition!r}")
    filename = re.search(r'\bfilename="([^"]*)"', disposition)
    return Part(name[1], data, filename and filename[1], headers.get("content-type"))
