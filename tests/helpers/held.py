"""A context that is made of others: what it took until it was there, it gives back as it ends."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Self


class Held:
    """`with` it, and `_take` has been called; what that puts on the stack ends with the block.

    Should `_take` fail, what it had taken until then is given back at once.
    """

    def _take(self, cleanup: contextlib.ExitStack) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as cleanup:
            self._take(cleanup)
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._cleanup.close()
