"""How the hopper kernel cuts a model's shape over its CTAs: the constants that are compiled in."""

from dataclasses import dataclass, fields

from layerroute.backbone.config import BackboneConfig

MULTIPROCESSORS = 132
"""Of an H100 or H200; the device's own number is used where there is one."""
SHARED_LIMIT = 232_448
"""Bytes of shared memory that a CTA may have at compute capability 9.0."""
WARPS = 8
MAX_VISITS = 256
"""Longest program that fits beside the ring of weights in shared memory."""
SPLITS = {1024: 4, 2048: 8, 1 << 30: 16}
"""Positions up to which attention is split in so many parts."""
MAX_SPLITS = max(SPLITS.values())
_DATA = 7  # numbers in a word of 128 bits


@dataclass(frozen=True, slots=True)
class Layout:
    """Constants of the kernel, under the names (in upper case) that `decode.cu` uses; sizes of the model come first.

    Attributes:
        grid: CTAs, one on each multiprocessor.
        qkv_rows, hidden_rows: rows of a CTA in the query/key/value projection, and in the output and down projections.
        gate_up_count: entries of the intermediate vector that a CTA makes.
        down_chunks: chunks of 32 columns in a slice of the down projection.
        slot_bytes, slots: the ring of weights in shared memory.
        in_flight: slots that may be under way at once.
        copies: copies of the hand-off buffers, so that fewer CTAs read the same memory.
        evict_first: whether weights are the first to leave the L2 cache.
        spin_cycles: how long a wait may take before the step is given up; about half a second.
        trace: clock readings that each CTA keeps, for measurements.
    """

    d: int
    q: int
    kv: int
    i: int
    v: int
    eps: float
    grid: int
    qkv_rows: int
    hidden_rows: int
    gate_up_count: int
    down_chunks: int
    slot_bytes: int
    slots: int
    words: int
    warps: int = WARPS
    max_visits: int = MAX_VISITS
    max_splits: int = MAX_SPLITS
    shared_limit: int = SHARED_LIMIT
    in_flight: int = 3
    copies: int = 1
    evict_first: int = 0
    spin_cycles: int = 1_000_000_000
    trace: int = 0

    @property
    def threads(self) -> int:
        """Threads of a CTA: the warps that multiply and the one that copies."""
        return 32 * (self.warps + 1)

    def defines(self) -> dict[str, str]:
        """Constants of the source, by name."""
        sizes = {field.name.upper(): str(getattr(self, field.name)) for field in fields(self)}
        return sizes | {"EPS": f"{self.eps!r}f", "THREADS": str(self.threads)}


def stride_of(columns: int) -> int:
    """Bytes from one row of a slot to the next: 64 modulo 128."""
    return 2 * columns + (0 if 2 * columns % 128 == 64 else 64)


def _output_stride(columns: int) -> int:
    """The same for the output projection, whose rows are read 8 bytes at a time: 32 modulo 128."""
    return -(-2 * columns // 128) * 128 + 32


def why_not_shape(config: BackboneConfig, grid: int) -> str | None:
    """Why the kernel does not serve a shape on so many multiprocessors, or None if it does."""
    c = config
    if c.head_dim != 64:
        return f"head_dim is {c.head_dim}, the kernel is written for 64"
    if c.num_heads // c.num_kv_heads > _DATA:
        return f"{c.num_heads // c.num_kv_heads} query heads share a KV head, the kernel takes up to {_DATA}"
    if c.hidden_size % 32 or c.intermediate_size % 32:
        return "hidden and intermediate size must be multiples of 32"
    if -(-c.hidden_size // grid) > 8:
        return f"hidden size {c.hidden_size} gives more than 8 rows to each of {grid} multiprocessors"
    if c.num_kv_heads * MAX_SPLITS > grid:
        return f"{c.num_kv_heads} KV heads need {c.num_kv_heads * MAX_SPLITS} multiprocessors, {grid} are there"
    if _ring(c)[1] < 3:
        return f"rows of {max(c.hidden_size, c.num_heads * 64)} entries leave no room for a ring of weights"
    if -(-c.intermediate_size // grid) > _DATA * WARPS or -(-c.qkv_size // grid) > 8 * WARPS:
        return f"intermediate size {c.intermediate_size} gives too many rows to each of {grid} multiprocessors"
    return None


def choose_layout(config: BackboneConfig, grid: int = MULTIPROCESSORS) -> Layout:
    """Rows are dealt out in equal shares: at 132 CTAs the 0.5B shape leaves four without rows, which take attention."""
    c = config
    slot_bytes, slots = _ring(c)
    hidden_rows, gate_up_count = -(-c.hidden_size // grid), -(-c.intermediate_size // grid)
    gate_up_count += gate_up_count % 2  # of the 0.5B shape: 38, which leaves CTAs free where 37 would not
    chunks, fitting = c.intermediate_size // 32, (slot_bytes // 8 - 64) // 64
    wide = 2 * _words_of(hidden_rows) * grid
    wide += grid * _words_of(gate_up_count) + MAX_SPLITS * c.num_kv_heads * 64
    words = 2 * wide + MAX_SPLITS * c.num_kv_heads * 8 + c.qkv_size
    return Layout(
        d=c.hidden_size, q=c.num_heads, kv=c.num_kv_heads, i=c.intermediate_size, v=c.vocab_size, eps=c.rms_eps,
        grid=grid, qkv_rows=-(-c.qkv_size // grid), hidden_rows=hidden_rows,
        gate_up_count=gate_up_count, down_chunks=-(-chunks // -(-chunks // fitting)),
        slot_bytes=slot_bytes, slots=slots, words=-(-words // 16) * 16,
    )  # fmt: skip


def _ring(config: BackboneConfig) -> tuple[int, int]:
    """Bytes of a slot, 8 rows of the hidden size, and how many slots fit beside all else."""
    c = config
    longest = max(8 * stride_of(c.hidden_size), 8 * _output_stride(c.num_heads * c.head_dim), 8 * 576)
    slot_bytes = -(-longest // 128) * 128
    each = max(4 * (c.hidden_size // WARPS + 128), 4 * (c.num_heads * c.head_dim // WARPS + 512))
    vector = WARPS * max(each, 2 * (c.intermediate_size // WARPS + 128))
    tiles = max(-(-c.qkv_size // MULTIPROCESSORS // 16), -(-c.intermediate_size // MULTIPROCESSORS // 7)) + 1
    parts = WARPS * 8 * (68 + 2) * 4
    rest = vector + 2 * tiles * 16 * (WARPS + 2) * 4 + parts + 8 * MAX_VISITS + 4096
    return slot_bytes, min(16, (SHARED_LIMIT - rest) // slot_bytes)


def _words_of(numbers: int) -> int:
    return -(-numbers // _DATA)
