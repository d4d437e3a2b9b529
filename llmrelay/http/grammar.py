"""The grammar that many headers share, as regular expressions (RFC 9110, section 5.6).

Text, in which `\\xNN` is the character that stands for that byte (Latin-1); who matches bytes
encodes it. Pure; used wherever something of a header is read or written.
"""

from __future__ import annotations

from typing import Final

# Section 5.6.2.
TOKEN: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # noqa: S105 - a word of headers, no secret
# Section 5.6.4.
QUOTED_STRING: Final = r'"(?:[\t\x20\x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*"'
