"""What stands in a form's Content-Type and in the heads of its parts (RFC 7578, section 4).

Sans-IO, for multipart.py, which is what others import. Knows header lines and no bodies.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_BOUNDARY_CHARS = 70

_TCHARS = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# A value that is not quoted is a token; boundaries with these four besides are seen, and nobody
# reads them in another way.
_BARE = r"[!#$%&'*+\-.^_`|~0-9A-Za-z=/:?]+"
_PARAMETER = re.compile(rf'[ \t]*;[ \t]*(?:({_TCHARS})=(?:"((?:[^"\\]|\\.)*)"|({_BARE})))?')
_MEDIA_TYPE = re.compile(rf"{_TCHARS}/{_TCHARS}")
_BCHARS = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
_HEADER = re.compile(rf"({_TCHARS}):(.*)")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_ESCAPED = re.compile(r'\\(["\\])')
_LENGTH = re.compile(r"[0-9]{1,18}")
# What browsers write for what would break the quotes (WHATWG HTML, section 4.10.21.8).
_PERCENT = {"%22": '"', "%0D": "\r", "%0A": "\n"}
_PERCENT_ENCODED = re.compile("%22|%0D|%0A")


class InvalidMultipart(Exception):
    """The bytes are no form. One sentence, for the client."""


@dataclass(frozen=True, slots=True)
class PartBegun:
    """A part's head.

    Attributes:
        filename: None for a field that is no file.
        content_type: as it came, parameters and all.
        head: the header lines as they came, without the blank line behind them.
    """

    name: str
    filename: str | None
    content_type: str | None
    head: bytes


def boundary_of(content_type: str) -> bytes:
    """The boundary that a request's Content-Type names.

    Raises:
        InvalidMultipart: it is not multipart/form-data with one boundary of RFC 2046's.
    """
    media_type = _MEDIA_TYPE.match(content_type.strip(" \t"))
    if media_type is None or media_type[0].lower() != "multipart/form-data":
        raise InvalidMultipart("The Content-Type is not multipart/form-data.")
    parameters = _parameters(content_type.strip(" \t"), media_type.end())
    boundary = None if parameters is None else parameters.get("boundary")
    if boundary is None or _BCHARS.fullmatch(boundary) is None:
        raise InvalidMultipart(
            "The Content-Type multipart/form-data needs one boundary of 1 to"
            f" {MAX_BOUNDARY_CHARS} letters, digits and the like."
        )
    return boundary.encode()


def read_head(head: bytes) -> tuple[PartBegun, int | None]:
    """A part's header lines -> its begin, and how long it says it is."""
    fields = _fields(head)
    # RFC 7578, section 4.8: all others "MUST be ignored".
    disposition = fields.get("content-disposition", "")
    kind, _, _ = disposition.partition(";")
    parameters = _parameters(disposition, len(kind.rstrip(" \t")))
    if kind.strip(" \t").lower() != "form-data" or parameters is None or "name" not in parameters:
        raise InvalidMultipart(
            'A part of the form has no header `Content-Disposition: form-data; name="…"`.'
        )
    if fields.get("content-transfer-encoding", "binary").lower() not in ("7bit", "8bit", "binary"):
        raise InvalidMultipart("A part of the form has a Content-Transfer-Encoding: send it as is.")
    declared = fields.get("content-length")
    if declared is not None and _LENGTH.fullmatch(declared) is None:
        raise InvalidMultipart("A part of the form has a Content-Length that is no number.")
    # `filename*` is another parameter: RFC 7578, section 4.2, says not to use it.
    filename = parameters.get("filename")
    begun = PartBegun(
        name=_unescaped(parameters["name"]),
        filename=None if filename is None else _unescaped(filename),
        content_type=fields.get("content-type"),
        head=head,
    )
    return begun, None if declared is None else int(declared)


def _fields(head: bytes) -> dict[str, str]:
    """Header lines -> their values by lower-case name."""
    try:
        lines = head.decode().split("\r\n")
    except UnicodeDecodeError:
        raise InvalidMultipart("A part of the form has headers that are not UTF-8.") from None
    fields: dict[str, str] = {}
    for line in lines:
        field = _HEADER.fullmatch(line) if _CONTROL.search(line) is None else None
        if field is None:
            raise InvalidMultipart("A part of the form has a header line that is none.")
        name = field[1].lower()
        if name in fields:
            raise InvalidMultipart("A part of the form has a header twice.")
        fields[name] = field[2].strip(" \t")
    return fields


def _parameters(text: str, at: int) -> dict[str, str] | None:
    """`; name=value; …` from `at` to the end, quotes taken off; None if it is anything else."""
    found: dict[str, str] = {}
    while at < len(text):
        parameter = _PARAMETER.match(text, at)
        if parameter is None:
            return None
        at = parameter.end()
        if parameter[1] is None:  # nothing between two semicolons, or behind the last
            continue
        name = parameter[1].lower()
        if name in found:
            return None
        quoted = parameter[2]
        found[name] = parameter[3] if quoted is None else _ESCAPED.sub(r"\1", quoted)
    return found


def _unescaped(value: str) -> str:
    return _PERCENT_ENCODED.sub(lambda found: _PERCENT[found[0]], value)


def escaped(value: str) -> bytes:
    """As browsers write it, but with backslashes doubled, which most servers take as escapes."""
    value = value.replace("\\", "\\\\")
    for written, meant in _PERCENT.items():
        value = value.replace(meant, written)
    return value.encode()
