"""LayerProgram: the ordered blocks a step visits, and its text form ("0-7,9,12-23").

No torch here: this module and `flops` are the bottom of the import graph.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from layerroute.errors import ProgramError, shown

_PART = re.compile(r"([0-9]{1,18})(?:-([0-9]{1,18}))?")  # int() refuses thousands of digits
_MOST_VISITS = 8  # of each block, on average: every visit takes a KV cache of its own


@dataclass(frozen=True, slots=True)
class LayerProgram:
    """The blocks a step visits, in order. Leaving blocks out skips them, naming them again loops them.

    Attributes:
        blocks: block indices in the order of the visits; may be empty.
        num_blocks: number of blocks `L` of the backbone the program is for.

    Raises:
        ProgramError: a block outside `0..num_blocks-1`, or a backbone without blocks.
    """

    blocks: tuple[int, ...]
    num_blocks: int

    def __post_init__(self) -> None:
        if self.num_blocks < 1:
            raise ProgramError(f"a backbone needs at least one block, not {self.num_blocks}")
        for block in self.blocks:
            if not 0 <= block < self.num_blocks:
                raise ProgramError(f"block {block} does not exist: this backbone has blocks 0 to {self.num_blocks - 1}")

    @classmethod
    def identity(cls, num_blocks: int) -> "LayerProgram":
        """Every block once, in order: the stock model."""
        return cls(tuple(range(num_blocks)), num_blocks)

    @classmethod
    def skipping(cls, skipped: Iterable[int], num_blocks: int) -> "LayerProgram":
        """The identity program without the blocks in `skipped`."""
        left_out = set(skipped)
        return cls(tuple(block for block in range(num_blocks) if block not in left_out), num_blocks)

    @classmethod
    def parse(cls, text: str, num_blocks: int) -> "LayerProgram":
        """Read the text form: comma-separated blocks and inclusive ranges, "all", or "none".

        Raises:
            ProgramError: text that is not of this form, blocks the backbone does not have, or repeats without end.
        """
        text = text.strip()
        if text == "all":
            return cls.identity(num_blocks)
        if text == "none":
            return cls((), num_blocks)
        blocks: list[int] = []
        for part in text.split(","):
            match = _PART.fullmatch(part.strip())
            if match is None:
                raise ProgramError(
                    f"cannot read {shown(part.strip())} in program {shown(text)}: "
                    'write blocks and ranges such as "0-7,9,12-23", or "all"'
                )
            first, last = int(match[1]), int(match[2] or match[1])
            if last < first:
                raise ProgramError(
                    f"range {part.strip()!r} in program {shown(text)} runs backwards: write the lower block first"
                )
            if last >= num_blocks:
                raise ProgramError(f"block {last} does not exist: this backbone has blocks 0 to {num_blocks - 1}")
            blocks.extend(range(first, last + 1))
            if len(blocks) > _MOST_VISITS * num_blocks:
                raise ProgramError(
                    f"program {shown(text)} makes more than {_MOST_VISITS * num_blocks} visits, {_MOST_VISITS} times "
                    "as many as there are blocks: repeat fewer blocks"
                )
        return cls(tuple(blocks), num_blocks)

    def __str__(self) -> str:
        """Return the text form, which `parse` reads back."""
        if not self.blocks:
            return "none"
        parts: list[str] = []
        first = last = self.blocks[0]
        for block in (*self.blocks[1:], None):
            if block is not None and block == last + 1:
                last = block
                continue
            parts.append(str(first) if first == last else f"{first}-{last}")
            if block is not None:
                first = last = block
        return ",".join(parts)

    @property
    def num_visits(self) -> int:
        """Number of block executions per token."""
        return len(self.blocks)

    @property
    def visits_per_block(self) -> tuple[int, ...]:
        """How often each of the `num_blocks` blocks runs: 0 skipped, 1 run, more looped."""
        counts = [0] * self.num_blocks
        for block in self.blocks:
            counts[block] += 1
        return tuple(counts)

    @property
    def skipped(self) -> tuple[int, ...]:
        """Blocks that no visit names, ascending."""
        return tuple(block for block, count in enumerate(self.visits_per_block) if count == 0)

    @property
    def num_looped(self) -> int:
        """Visits beyond the first of each block."""
        return sum(max(count - 1, 0) for count in self.visits_per_block)

    @property
    def is_identity(self) -> bool:
        """Whether this is the stock model."""
        return self.blocks == tuple(range(self.num_blocks))

    @property
    def is_subsequence(self) -> bool:
        """Whether the program only skips: every block at most once, in ascending order."""
        return all(a < b for a, b in zip(self.blocks, self.blocks[1:], strict=False))
