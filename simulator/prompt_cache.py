"""DeepSeek's prompt cache: prefixes in blocks of 64 tokens, kept apart by account and model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from itertools import islice

from simulator.tokens import TENTHS_PER_TOKEN, count_tenths, split_every

BLOCK_TOKENS = 64
# Longer prefixes are ignored: this is the largest context of any model.
MOST_BLOCKS = 2048


def prefix_blocks(account: str, model: str, text: str) -> list[bytes]:
    """Digests of a prompt's complete blocks, each covering the prompt up to its end.

    Roles are not part of a prefix here: two prompts with equal text share it whoever speaks. Blocks are
    cut at characters, so a block holds up to half a token less than 64; it is counted as 64 only where
    the prompt is that long.
    """
    whole = min(count_tenths(text) // (BLOCK_TOKENS * TENTHS_PER_TOKEN), MOST_BLOCKS)
    if not whole:
        return []
    digest, blocks = blake2b(f"{account}\0{model}".encode(), digest_size=16).digest(), []
    for piece in islice(split_every(text, BLOCK_TOKENS), whole):
        digest = blake2b(digest + piece.encode(), digest_size=16).digest()
        blocks.append(digest)
    return blocks


class PromptCache:
    """Remembers prefixes of answered prompts; evicts the least recently used blocks."""

    __slots__ = ("_blocks", "_capacity")

    def __init__(self, capacity: int) -> None:
        """`capacity` is in blocks, over all accounts; 0 turns the cache off."""
        self._capacity = capacity
        self._blocks: OrderedDict[bytes, None] = OrderedDict()

    def hit_tokens(self, prefix: Sequence[bytes]) -> int:
        """The number of cached tokens at the start of this prompt, a multiple of 64."""
        hits = 0
        for block in prefix:
            if block not in self._blocks:
                break
            self._blocks.move_to_end(block)
            hits += BLOCK_TOKENS
        return hits

    def remember(self, prefix: Sequence[bytes]) -> None:
        """Keep the blocks of an answered prompt."""
        for block in prefix:
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self._capacity:
            self._blocks.popitem(last=False)
