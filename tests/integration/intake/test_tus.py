"""What a kill may cost of an upload: no more than the last second."""

import asyncio
from typing import Any

from spira.intake import tus


class Slow:
    """A request whose body comes in drops, as from the end of a corridor."""

    def __init__(self, drops: int, every_s: float) -> None:
        self._left = drops
        self._every_s = every_s

    async def receive(self) -> dict[str, Any]:
        """The next drop."""
        await asyncio.sleep(self._every_s)
        self._left -= 1
        return {"type": "http.request", "body": b"drop", "more_body": self._left > 0}


def test_what_comes_slowly_and_steadily_is_put_down_every_second(monkeypatch: Any) -> None:
    """Not only when a piece is full: at 4 kB a second that takes a minute."""
    monkeypatch.setattr(tus, "_FLUSH_S", 0.1)
    flushed: list[int] = []

    def append(at: int, data: bytes) -> int:
        flushed.append(len(data))
        return at + len(data)

    taking = tus._Taking(Slow(40, 0.02), append, 0, 10_000)  # type: ignore[arg-type]

    assert asyncio.run(taking.all())
    assert sum(flushed) == 160
    assert len(flushed) > 4
