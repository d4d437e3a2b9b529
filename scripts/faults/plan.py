"""The script of faults that a seed stands for: what happens to which runner, when, for how long.

Pure: the same seed is the same script on every machine. Each kind comes as often as the others.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass

RUNNERS = ("a", "b", "c", "d")
# Reached only through it.
BEHIND_BASTION = "d"

RUNNER_KILLED = "runner killed"
ON_A_RUNNER = (
    RUNNER_KILLED,
    "runner stopped",
    "sshd killed",
    "blackhole",
    "upstream refuses",
    "upstream slow",
    "upstream flaps",
)
ON_THE_BASTION = ("bastion's sshd killed", "bastion's blackhole")

# Between the begins of two faults, in seconds.
GAPS_S = (5.0, 12.0)
# What a fault lasts; a runner that is silent is lost after eight seconds, so some are not noticed.
LASTS_S = (4.0, 15.0)
# Then it has so long to come back before anything else happens to it.
REST_S = 15.0
# So many hosts may be broken at once: the others can bear the load.
BROKEN_AT_ONCE = 2


@dataclass(frozen=True)
class Planned:
    """One fault to come; `at_s` from the begin of the script."""

    at_s: float
    kind: str
    runner: str
    lasts_s: float


def plan(seconds: float, seed: int) -> list[Planned]:
    """The faults of so many seconds."""
    chance = random.Random(seed)
    script: list[Planned] = []
    whole_again_at_s = dict.fromkeys(RUNNERS, 0.0)
    kinds: deque[str] = deque()
    at_s = 0.0
    while at_s < seconds:
        whole = [name for name in RUNNERS if whole_again_at_s[name] <= at_s]
        if len(RUNNERS) - len(whole) < BROKEN_AT_ONCE:
            if not kinds:
                every = [*ON_A_RUNNER, *ON_THE_BASTION]
                kinds.extend(chance.sample(every, len(every)))
            if kinds[0] in ON_THE_BASTION and BEHIND_BASTION not in whole:
                kinds.rotate(-1)
            if kinds[0] not in ON_THE_BASTION or BEHIND_BASTION in whole:
                kind = kinds.popleft()
                runner = BEHIND_BASTION if kind in ON_THE_BASTION else chance.choice(whole)
                lasts_s = 0.0 if kind == RUNNER_KILLED else chance.uniform(*LASTS_S)
                whole_again_at_s[runner] = at_s + lasts_s + REST_S
                script.append(Planned(at_s, kind, runner, lasts_s))
        at_s += chance.uniform(*GAPS_S)
    return script
