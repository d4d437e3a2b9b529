"""Which form of an answer a client wants: its Accept header, against what there is.

Pure (RFC 9110, section 12.5.1).
"""

from __future__ import annotations

from collections.abc import Sequence


def preferred(accept: str | None, offered: Sequence[str]) -> str:
    """The media type in `offered` that the client likes best; the first if it does not care.

    One that accepts none of them gets the first, too, as "the server can ... disregard the header
    field": an answer in another form is worth more than none.
    """
    if not accept or accept == "*/*":  # most say nothing, and curl says that
        return offered[0]
    likes = _parse(accept)
    return max(offered, key=lambda each: _quality(each, likes))  # the first of several


def _parse(accept: str) -> dict[str, float]:
    """Media range -> quality, from 0 to 1."""
    likes: dict[str, float] = {}
    for item in accept.lower().split(","):
        media_range, *parameters = (part.strip() for part in item.split(";"))
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                try:
                    quality = min(1.0, max(0.0, float(value)))
                except ValueError:
                    quality = 0.0
        likes[media_range] = quality
    return likes


def _quality(media_type: str, likes: dict[str, float]) -> float:
    """By the most specific range that it is in."""
    for media_range in (media_type, f"{media_type.partition('/')[0]}/*", "*/*"):
        if media_range in likes:
            return likes[media_range]
    return 0.0
