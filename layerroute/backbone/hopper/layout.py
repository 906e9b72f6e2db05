"""How the hopper kernel cuts a model's shape over its CTAs: the constants that are compiled in."""

from dataclasses import dataclass, fields

from layerroute.backbone.config import BackboneConfig

MULTIPROCESSORS = 132
"""Of an H100 or H200; the device's own number is used where there is one."""
SHARED_LIMIT = 232_448
"""Bytes of shared memory that a CTA may have at compute capability 9.0."""
WARPS = 10
"""That multiply: with the one that copies, a scheduler has three or fewer, and a thread 168 registers."""
SPREAD = 2
MAX_VISITS = 256
"""Longest program that fits beside the ring of weights in shared memory."""
SPLITS = {1280: 2, 3072: 8, 3840: 12, 1 << 30: 16}
"""Positions up to which attention is split in so many parts. Two are the work of CTAs that have no rows of the
matrices; a CTA attends to 320 positions at once."""
MAX_SPLITS = max(SPLITS.values())


@dataclass(frozen=True, slots=True)
class Layout:
    """Constants of the kernel, under the names (in upper case) that `decode.cu` uses; sizes of the model come first.

    Attributes:
        grid: CTAs, one on each multiprocessor.
        qkv_rows, hidden_rows: rows of a CTA in the query/key/value projection, and in the output and down projections.
        gate_up_count: entries of the intermediate vector that a CTA makes, an even number.
        down_chunks: chunks of 32 columns in a slice of the down projection, which one warp takes; a slot has two.
        slot_bytes, slots: the ring of weights in shared memory.
        in_flight: slots that may be under way at once.
        copies: copies of the hand-off buffers, so that fewer CTAs read the same memory.
        spread: how many times as far apart as they are long hand-off words lie that are read together.
        evict_first: whether weights are the first to leave the L2 cache.
        spin_looks: looks at a hand-off before the step is given up; about half a second.
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
    in_flight: int = 2
    copies: int = 2
    spread: int = SPREAD
    evict_first: int = 1
    spin_looks: int = 1 << 20
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


def why_not_shape(config: BackboneConfig, grid: int) -> str | None:
    """Why the kernel does not serve a shape on so many multiprocessors, or None if it does."""
    c = config
    if c.head_dim != 64:
        return f"head_dim is {c.head_dim}, the kernel is written for 64"
    if c.num_heads // c.num_kv_heads > 8:
        return f"{c.num_heads // c.num_kv_heads} query heads share a KV head, the kernel takes up to 8"
    if c.hidden_size % 32 or c.intermediate_size % 32:
        return "hidden and intermediate size must be multiples of 32"
    if -(-c.hidden_size // grid) > 8:
        return f"hidden size {c.hidden_size} gives more than 8 rows to each of {grid} multiprocessors"
    if c.num_kv_heads * MAX_SPLITS > grid:
        return f"{c.num_kv_heads} KV heads need {c.num_kv_heads * MAX_SPLITS} multiprocessors, {grid} are there"
    if _ring(c)[1] < WARPS + 3:
        return f"rows of {max(c.hidden_size, c.num_heads * 64)} entries leave no room for a ring of weights"
    if -(-c.qkv_size // grid) > 32 * WARPS:
        return f"{c.qkv_size} rows of queries, keys and values are too many for {grid} multiprocessors"
    return None


def choose_layout(config: BackboneConfig, grid: int = MULTIPROCESSORS) -> Layout:
    """Rows are dealt out in equal shares: at 132 CTAs the 0.5B shape leaves four without rows, which take attention."""
    c = config
    slot_bytes, slots = _ring(c)
    hidden_rows, chunks = -(-c.hidden_size // grid), c.intermediate_size // 32
    slices = -(-chunks // ((slot_bytes // hidden_rows - 64) // 64 // 2))  # two in a slot
    slices = -(-slices // WARPS) * WARPS  # each warp takes as many
    heads = c.num_heads * MAX_SPLITS
    words = 2 * c.hidden_size + c.qkv_size + c.intermediate_size // 2 + heads + heads * c.head_dim // 2
    return Layout(
        d=c.hidden_size, q=c.num_heads, kv=c.num_kv_heads, i=c.intermediate_size, v=c.vocab_size, eps=c.rms_eps,
        grid=grid, qkv_rows=-(-c.qkv_size // grid), hidden_rows=hidden_rows,
        gate_up_count=_even(-(-c.intermediate_size // grid)), down_chunks=-(-chunks // slices),
        slot_bytes=slot_bytes, slots=slots, words=SPREAD * -(-words // 16) * 16,
    )  # fmt: skip


def _ring(config: BackboneConfig) -> tuple[int, int]:
    """Bytes of a slot, 8 rows of the hidden size, and how many slots fit beside all else."""
    c = config
    longest = max(8 * stride_of(c.hidden_size), 8 * stride_of(c.num_heads * c.head_dim), 8 * 576)
    slot_bytes = -(-longest // 128) * 128
    vector = max(4 * max(c.hidden_size, c.num_heads * 64) + 384, 2 * c.intermediate_size + 128)
    vectors = max(2 * vector, WARPS * c.num_heads // c.num_kv_heads * 68 * 4)
    sums = (-(-c.qkv_size // MULTIPROCESSORS) + 7) // 8 * WARPS * 64
    rest = vectors + sums + 128 + 8 * 128 + 256 + 2 * WARPS * 32 + 4 * MAX_VISITS + 16 * 16 + 16
    return slot_bytes, min(16, (SHARED_LIMIT - rest) // slot_bytes)


def _even(n: int) -> int:
    return n + n % 2
