"""Launch shapes of the Triton kernels, from a model's shape."""

from dataclasses import dataclass, field

from layerroute.backbone.config import BackboneConfig

MULTIPROCESSORS = 132
"""Of a Hopper GPU; the device's own number is used where there is one."""


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least `n`."""
    return 1 << (n - 1).bit_length()


@dataclass(frozen=True, slots=True)
class Tile:
    """How a kernel cuts a matrix: `rows` at a time, in steps of `columns` columns, by `warps` warps."""

    rows: int
    columns: int
    warps: int

    @property
    def sizes(self) -> dict[str, int]:
        """Constants of a matrix kernel: in one load of 8 entries a lane, the warps that share a row cover BK of it."""
        chunk = min(self.columns, 256 * max(1, self.warps // self.rows))
        return {"R": self.rows, "C": self.columns // chunk, "BK": chunk}


@dataclass(frozen=True, slots=True)
class Tiling:
    """Launch shape of every kernel. A `programs` of a kernel loops over its rows; the others cover them all at once."""

    qkv: Tile
    output: Tile
    gate_up: Tile
    down: Tile
    lm_head: Tile
    gate_up_programs: int
    lm_head_programs: int
    attention_block: int = 64
    attention_warps: int = 4
    splits: dict[int, int] = field(default_factory=lambda: {1024: 8, 4096: 16, 1 << 30: 32})
    """Positions up to which attention is split in so many parts."""


def choose_tiling(config: BackboneConfig, multiprocessors: int = MULTIPROCESSORS) -> Tiling:
    """A lane holds at most 32 entries of a row; how many warps a multiprocessor keeps was measured on an H200."""
    columns = power_of_two(config.hidden_size)
    warps_per_row = max(1, columns // 1024)
    rows = min(4, max(1, 8 // warps_per_row), config.head_dim // 2)
    hidden = Tile(rows, columns, rows * warps_per_row)
    attended = power_of_two(config.num_heads) * config.head_dim
    share = min(4, max(1, attended // 1024))
    down_columns = min(2048, power_of_two(config.intermediate_size))

    def programs(num_rows: int, rows: int, warps: int) -> int:
        groups = -(-num_rows // rows)
        rounds = max(1, round(groups / (multiprocessors * warps / hidden.warps)))
        return -(-groups // rounds)

    return Tiling(
        qkv=hidden,
        output=Tile(4 * share, attended, 4 * share),
        gate_up=hidden,
        down=Tile(4, down_columns, 4 * max(1, down_columns // 1024)),
        lm_head=hidden,
        gate_up_programs=programs(config.intermediate_size, rows, warps=12),
        lm_head_programs=programs(config.vocab_size, 2 * rows, warps=20),
    )


@dataclass(frozen=True, slots=True)
class BatchTile:
    """How a kernel for several rows cuts a matrix: `rows` at a time, by `warps` warps, one for each chunk at best."""

    rows: int
    warps: int = 8
    most_columns: int = 1024

    def sizes(self, width: int) -> dict[str, int]:
        """Constants of a matrix kernel over rows of `width` columns."""
        columns = min(self.most_columns, power_of_two(width))
        chunks = min(self.warps, max(1, columns // 16))
        return {"N": self.rows, "C": chunks, "BK": columns // chunks}


@dataclass(frozen=True, slots=True)
class BatchTiling:
    """Launch shape of every kernel for several rows.

    Attributes:
        residual: of both projections into the residual stream.
        splits: parts of the positions in attention; the same for every row, so that no row's sums depend on another's.
    """

    qkv: BatchTile
    residual: BatchTile
    gate_up: BatchTile
    lm_head: BatchTile
    lm_head_programs: int
    attention_block: int = 64
    attention_warps: int = 4
    splits: int = 16


def choose_batch_tiling(config: BackboneConfig, multiprocessors: int = MULTIPROCESSORS) -> BatchTiling:
    """Tiles whose sums fit in registers: the fastest tried on an H200 at the 0.5B shape, for 8 and for 32 rows.

    All numbers of rows share it, so that a row's sums do not depend on how many others there are.
    """
    rows = 16
    return BatchTiling(
        qkv=BatchTile(min(rows, config.head_dim), warps=4),
        residual=BatchTile(8),
        gate_up=BatchTile(2 * rows, warps=4),
        lm_head=BatchTile(rows, warps=4),
        lm_head_programs=min(2 * multiprocessors, -(-config.vocab_size // rows)),
        splits=8,
    )
