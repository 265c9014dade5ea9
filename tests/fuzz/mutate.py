"""Mutations of a corpus, the same for the same seed: what runs where there is no coverage-guided fuzzer."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Final

_MOST_CHANGES: Final = 5
_EDGES: Final = (0, 1, 2, 8, 0x7F, 0x80, 0xFF, 0xFFFE, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


def mutants(corpus: Sequence[bytes], count: int, seed: int, longest: int) -> Iterator[bytes]:
    """So many inputs, each made of one or two of the corpus."""
    chance = random.Random(seed)
    for _ in range(count):
        data = bytearray(chance.choice(corpus))
        for _ in range(chance.randint(1, _MOST_CHANGES)):
            _change(data, corpus, chance)
        yield bytes(data[:longest])


def _change(data: bytearray, corpus: Sequence[bytes], chance: random.Random) -> None:
    at = chance.randint(0, len(data))
    end = min(len(data), at + chance.choice((1, 2, 4, 8, 40, 400)))
    what = chance.randrange(7)
    if what == 0 and at < len(data):
        data[at] ^= 1 << chance.randrange(8)
    elif what == 1:
        data[at:end] = chance.randbytes(end - at)
    elif what == 2:
        width = chance.choice((2, 4))
        edge = chance.choice(_EDGES) & (1 << 8 * width) - 1
        data[at : at + width] = edge.to_bytes(width, chance.choice(("little", "big")))
    elif what == 3:
        del data[at:end]
    elif what == 4:
        data[at:at] = data[at:end] * chance.choice((1, 2, 30))
    elif what == 5:
        other = chance.choice(corpus)
        start = chance.randint(0, len(other))
        data[at:at] = other[start : start + chance.choice((4, 40, 400))]
    else:
        del data[max(1, at) :]
