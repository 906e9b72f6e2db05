"""What a benchmark found, with its conditions: plain data, as the JSON line shows it."""

from dataclasses import asdict, dataclass

from layerroute.backbone.config import BackboneConfig


@dataclass(frozen=True, slots=True)
class ProgramTime:
    """Decode time of one program.

    Attributes:
        backend: what ran it.
        batch: rows that a step serves.
        blocks: block visits of each token, by the program.
        visits_per_token: the same, as the backbone counted them while it was timed.
        us_per_token: median microseconds of a step for all rows, those of `Benchmark.steps_at_once` steps together from
            the feeding of the first token to the next ones on the host.
        us_p10, us_p90: 10th and 90th percentile.
        tokens_per_second: of all rows together.
        gigabytes_per_second: bytes that the step must move (weights and KV) over the median time.
        copy_share: that over the bandwidth of a plain copy in the same run, None if that failed.
        saved_per_skipped_block_us: time saved against full depth over blocks skipped; None at full depth.
        saved_share: that over an even share of what all blocks cost, (full depth - no blocks) / blocks.
    """

    backend: str
    batch: int
    blocks: int
    program: str
    visits_per_token: float
    us_per_token: float
    us_p10: float
    us_p90: float
    tokens_per_second: float
    gigabytes_per_second: float
    copy_share: float | None
    saved_per_skipped_block_us: float | None
    saved_share: float | None


@dataclass(frozen=True, slots=True)
class PromptTime:
    """Time of a prompt at full depth, medians.

    Attributes:
        cached_tokens, new_tokens: prompt tokens whose KV was there, and those that ran.
        prefill_ms: until the device has the logits of the first token.
        first_token_ms: until the host has the first token, greedily chosen.
        flops: of its matrix products and of attention on the causal half, LM head at one position.
        matrix_share: these over `prefill_ms`, as a share of the matrix rate in the same run; None if that failed.
    """

    cached_tokens: int
    new_tokens: int
    prefill_ms: float
    first_token_ms: float
    flops: int
    matrix_share: float | None


@dataclass(frozen=True, slots=True)
class EngineTime:
    """Time per token through the whole engine beside the decode steps alone, at the same positions, in turns; medians.

    Attributes:
        mode: how tokens are drawn and who reads them.
        blocks: block visits of each token, by the program; visits_per_token: as the engine's report counts them.
        tokens: length of each answer.
        bare_us_per_token: decode steps alone, none of them waited for by the host.
        us_per_token: from one token's text in the hands of another thread to the next one's: drawing, detokenising and
            streaming included.
        mask_us_per_token: of that, what the host spent on grammar masks, while the device stepped.
        ratio: of the two times, in the same turn.
    """

    mode: str
    blocks: int
    tokens: int
    visits_per_token: float
    bare_us_per_token: float
    us_per_token: float
    mask_us_per_token: float
    ratio: float


@dataclass(frozen=True, slots=True)
class GenerationTime:
    """Time of greedy answers of a fixed length to one uncached prompt, by one implementation, medians.

    Attributes:
        tokens: length of the answer.
        one_token_ms, all_tokens_ms: whole calls that generate 1 token and `tokens` tokens, prefill included.
        us_per_token_with_prefill: all_tokens_ms over `tokens`.
        us_per_token: decoding alone, (all_tokens_ms - one_token_ms) / (tokens - 1).
        us_per_token_streamed: median time between two tokens where each is handed to the host as soon as it is there.
        equal_leading_tokens: how many tokens are this engine's before the first that differs.
    """

    name: str
    tokens: int
    one_token_ms: float
    all_tokens_ms: float
    us_per_token_with_prefill: float
    us_per_token: float
    us_per_token_streamed: float
    equal_leading_tokens: int


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Result of a run, with its conditions.

    Attributes:
        model: name, folder or hub id; shape: its sizes.
        blocks: of the model.
        batch_reason: what steps several rows, and why; None if no batch was asked for or that failed.
        context: cached tokens before each timed step and of the next turn.
        steps: timed runs per program; steps_at_once: steps of a run.
        copy_gigabytes_per_second: bytes read and written by a copy within the device's memory, over its time.
        matrix_teraflops_per_second: of a large product of square matrices of the model's dtype.
        saved_per_block_us: slope of the least-squares line of time over blocks, microseconds; r_squared: its fit.
        linearity: least `saved_share` of the programs that skip some blocks and keep some; 1 is proportional.
        programs: one row, by number of blocks; the last is full depth.
        batches: several rows, likewise for each number of rows.
        prompts: uncached; next_turn: its first `context` tokens are cached.
        engine: the whole engine, by number of blocks and mode.
        generation: this engine first, then what it is compared with.
        left_out: what was not to be timed, and why.
        failed: what was to be timed and gave nothing, and why; such numbers are None above, or not in the lists.
    """

    model: str
    shape: BackboneConfig
    device: str
    torch_version: str
    transformers_version: str
    dtype: str
    backend: str
    backend_reason: str
    batch_reason: str | None
    threads: int
    blocks: int
    context: int
    steps: int
    steps_at_once: int
    copy_gigabytes_per_second: float | None
    matrix_teraflops_per_second: float | None
    saved_per_block_us: float | None
    linearity: float | None
    r_squared: float | None
    programs: tuple[ProgramTime, ...]
    batches: tuple[ProgramTime, ...]
    prompts: tuple[PromptTime, ...]
    next_turn: PromptTime | None
    engine: tuple[EngineTime, ...]
    generation: tuple[GenerationTime, ...]
    left_out: dict[str, str]
    failed: dict[str, str]

    def to_dict(self) -> dict[str, object]:
        """Plain data, for JSON."""
        return asdict(self)
