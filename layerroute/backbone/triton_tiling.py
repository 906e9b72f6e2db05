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
    """How a kernel for several rows cuts a matrix: `rows` at a time, in steps of `columns`, `stages` under way."""

    rows: int
    columns: int = 128
    warps: int = 4
    stages: int = 4

    @property
    def sizes(self) -> dict[str, int]:
        """Constants of a matrix kernel and its launch."""
        return {"N": self.rows, "BK": self.columns, "num_warps": self.warps, "num_stages": self.stages}


@dataclass(frozen=True, slots=True)
class BatchTiling:
    """Launch shape of every kernel for several rows.

    All numbers of rows share it, so that a row's sums do not depend on how many others there are.

    Attributes:
        output: its columns are those of `output_heads` query heads, all in one step.
        output_heads: in one part of the attention's output projection.
        down_parts: programs that share the columns of a tile of the down projection.
        attention: the same for every row.
    """

    qkv: BatchTile
    output: BatchTile
    gate_up: BatchTile
    down: BatchTile
    lm_head: BatchTile
    output_heads: int
    down_parts: int
    attention: AttentionTile = AttentionTile(8, 64)

    def down_length(self, intermediate: int) -> int:
        """Columns of one part of the down projection: whole steps."""
        return -(-intermediate // (self.down_parts * self.down.columns)) * self.down.columns


def choose_batch_tiling(config: BackboneConfig, multiprocessors: int = MULTIPROCESSORS) -> BatchTiling:
    """The fastest tried on an H100 at the 0.5B shape, for 8 and for 32 rows; its instructions take 64 weight rows."""
    tiles = -(-config.hidden_size // 64)
    return BatchTiling(
        qkv=BatchTile(min(32, config.head_dim)),
        output=BatchTile(128, warps=8),
        gate_up=BatchTile(64),
        down=BatchTile(64),
        lm_head=BatchTile(128, columns=64),
        output_heads=max(1, min(128 // config.head_dim, config.num_heads & -config.num_heads)),
        down_parts=max(1, multiprocessors // tiles),
    )
