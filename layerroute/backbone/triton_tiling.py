"""Launch shapes of the Triton kernels, from a model's shape."""

from dataclasses import dataclass

from layerroute.backbone.config import BackboneConfig

MULTIPROCESSORS = 132
"""Of a Hopper GPU; the device's own number is used where there is one."""

_RESIDENT_WARPS = 20
"""Of kernels that loop over rows of weights: as many as the registers of a multiprocessor hold."""


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
class AttentionTile:
    """How attention cuts the positions: in `splits` parts, each in steps of `block` positions, by `warps` warps."""

    splits: int
    block: int
    warps: int = 4

    @property
    def sizes(self) -> dict[str, int]:
        """Constants of the kernel and its launch."""
        return {"S": self.splits, "BN": self.block, "num_warps": self.warps, "num_stages": 1}


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
    attention: dict[int, AttentionTile]
    """By the positions up to which it serves."""


def choose_tiling(config: BackboneConfig, multiprocessors: int = MULTIPROCESSORS, itemsize: int = 2) -> Tiling:
    """For weights of `itemsize` bytes.

    A lane holds at most 32 entries of a row. How many warps a multiprocessor keeps, and how many rows the down
    projection takes at a time, was measured on Hopper GPUs at the 0.5B shape.
    """
    columns = power_of_two(config.hidden_size)
    warps_per_row = max(1, columns // 1024)
    rows = min(4, max(1, 8 // warps_per_row), config.head_dim // 2)
    hidden = Tile(rows, columns, rows * warps_per_row)
    attended = power_of_two(config.num_heads) * config.head_dim
    share = min(4, max(1, attended // 1024))
    down_columns = min(2048, power_of_two(config.intermediate_size))

    def programs(num_rows: int, rows: int, warps: int) -> int:
        groups = -(-num_rows // rows)
        resident = multiprocessors * max(1, _RESIDENT_WARPS // hidden.warps)
        rounds = max(round(groups / (multiprocessors * warps / hidden.warps)), -(-groups // resident))
        return -(-groups // rounds)

    return Tiling(
        qkv=hidden,
        output=Tile(4 * share, attended, 4 * share),
        gate_up=hidden,
        down=Tile(2, down_columns, 2 * max(1, down_columns // 512)),
        lm_head=hidden,
        gate_up_programs=programs(config.intermediate_size, rows, warps=16),
        lm_head_programs=programs(config.vocab_size, 2 * rows, warps=_RESIDENT_WARPS),
        attention=_attention_tiles(config.head_dim * itemsize),
    )


def _attention_tiles(key_bytes: int) -> dict[int, AttentionTile]:
    """As few splits as can take all their positions in one step, which is fetched before the new query is there.

    A second step costs more time than its bytes; a further split makes every program of the next kernel read more.
    """
    block = max(16, min(64, 8192 // key_bytes))  # positions whose keys and values lie well in the registers of 4 warps
    tiles = [AttentionTile(4, 2 * block)] + [AttentionTile(splits, 4 * block, warps=8) for splits in (4, 8, 16, 32)]
    # The new position is no part of a step.
    reach = [tile.splits * tile.block + 1 for tile in tiles[:-1]] + [1 << 30]
    return dict(zip(reach, tiles, strict=True))


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
