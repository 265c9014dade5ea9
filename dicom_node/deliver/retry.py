"""How long to wait before the next attempt: a pure function, so a replayed workflow waits the same."""

from __future__ import annotations


def next_wait(attempt: int, first: float, longest: float) -> float:
    """Seconds to wait after ``attempt`` failed attempts (1-based): ``first``, doubled each time, at most ``longest``.

    Raises:
        ValueError: ``attempt`` is below 1.
    """
    if attempt < 1:
        raise ValueError(f"attempt must be 1 or more, not {attempt}")
    # 2.0 ** 1024 overflows, and an outage of days must not: 64 doublings exceed any wait that is meant.
    return min(longest, first * 2.0 ** min(attempt - 1, 64))
