"""Which runner a call goes to.

By load: the runner with the fewest calls in flight, for its weight and its success (standing.py).
By affinity: the one that had the conversation before, and so has its beginning in its cache, unless
it has more than its share. Pure: no clock and no state of its own.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import islice
from typing import NamedTuple

from .spec import RunnerSpec
from .standing import Standing

# Among more runners than this the better of two random ones is taken: nearly as even as the best of
# all (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001), and for a
# fraction of the cost. Some are picked in vain: full, out, or for other calls.
MANY = 16
_PICKS = 12

# How far above its share a runner's load may go before a conversation moves to another (Mirrokni,
# Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2018).
_BOUND = 1.25


class Ask(NamedTuple):
    """What a call asks for.

    Attributes:
        model: as the client names it; None for a request that is about none.
        group: of runners; None for any.
        client: whose call it is, for a fair queue.
        conversation: the same for all calls of a conversation; empty if that is of no interest.
    """

    model: str | None
    group: str | None = None
    client: str = ""
    conversation: bytes = b""

    def fits(self, spec: RunnerSpec) -> bool:
        """Whether a runner is for such calls."""
        return (self.group is None or self.group in spec.groups) and (
            self.model is None or spec.serves(self.model)
        )


def choose(
    ask: Ask,
    standings: Sequence[Standing],
    now_s: float,
    random: random.Random,
    tried: Collection[str] = (),
) -> Standing | None:
    """The runner for a call; None if there is none with a free place.

    Runners that keep failing are left out, unless all do: then an honest error of upstream's is
    worth more than a 503 of ours, and the first call that goes well ends it.

    Args:
        tried: names of runners that have failed this call.
    """
    if len(standings) > MANY and not ask.conversation:
        # As often as its weight says: one with half of all weight could not get its half otherwise.
        weights = [standing.spec.weight for standing in standings]
        picked = dict.fromkeys(random.choices(standings, weights, k=_PICKS))
        free = (s for s in fitting(ask, picked, tried) if s.has_room and s.breaker.allows(now_s))
        two = list(islice(free, 2))
        if len(two) == 2:
            return min(two, key=lambda each: each.cost(now_s))
    ready = list(fitting(ask, standings, tried))
    candidates = [standing for standing in ready if standing.breaker.allows(now_s)] or ready
    if ask.conversation:
        return _by_affinity(ask.conversation, candidates)
    with_room = [standing for standing in candidates if standing.has_room]
    if len(with_room) < 2:
        return with_room[0] if with_room else None
    return min(with_room, key=lambda each: (each.cost(now_s), random.random()))


def fitting(ask: Ask, standings: Iterable[Standing], tried: Collection[str]) -> Iterator[Standing]:
    """The ready runners that are for such a call and have not failed it, full or not."""
    return (s for s in standings if s.ready and s.spec.name not in tried and ask.fits(s.spec))


def _by_affinity(conversation: bytes, candidates: Sequence[Standing]) -> Standing | None:
    """The first in the conversation's own order that has a place and not more than its share."""
    free = [standing for standing in candidates if standing.has_room]
    calls = sum(standing.in_flight for standing in candidates) + 1
    weights = sum(standing.spec.weight for standing in candidates)
    within = [s for s in free if s.in_flight < math.ceil(_BOUND * calls * s.spec.weight / weights)]
    # Where those within their share are full, the bound would leave places free and calls waiting.
    return max(within or free, key=lambda each: _rank(conversation, each), default=None)


def _rank(conversation: bytes, standing: Standing) -> float:
    """Rendezvous hashing with weights: a runner that comes or goes moves its own share alone.

    Thaler, Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", 1998; the logarithm
    makes a runner first as often as its weight says.
    """
    # Not keyed: that would hash a block more, for each runner there is.
    digest = blake2b(conversation + standing.spec.name.encode(), digest_size=8).digest()
    # Of 52 bits, so that no fraction is rounded to 1, whose logarithm is 0.
    fraction = ((int.from_bytes(digest, "big") >> 12) + 0.5) / 2**52
    return -standing.spec.weight / math.log(fraction)
