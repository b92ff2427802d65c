"""Seconds that a part of the work takes, added up over its calls."""

import time
from dataclasses import dataclass, field
from types import TracebackType


@dataclass
class Clock:
    """Seconds of the wall, and of the processor in all threads together, spent in its `with` blocks."""

    wall: float = 0.0
    processor: float = 0.0
    _begin: tuple[float, float] = field(default=(0.0, 0.0), repr=False)

    def __enter__(self) -> "Clock":
        self._begin = time.perf_counter(), time.process_time()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wall += time.perf_counter() - self._begin[0]
        self.processor += time.process_time() - self._begin[1]
