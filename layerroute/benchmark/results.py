"""What a benchmark found, with its conditions: plain data, as the JSON line shows it."""

from dataclasses import asdict, dataclass

from layerroute.backbone.config import BackboneConfig


@dataclass(frozen=True, slots=True)
class ProgramTime:
    """Decode time of one program.

    Attributes:
        blocks: block visits of each token.
        us_per_token: median microseconds from a token's feeding to the next token on the host.
        us_p10, us_p90: 10th and 90th percentile.
        gigabytes_per_second: bytes that the step must move (weights and KV) over the median time.
        copy_share: that over the bandwidth of a plain copy in the same run.
        saved_per_skipped_block_us: time saved against full depth over blocks skipped; None at full depth.
        saved_share: that over an even share of what all blocks cost, (full depth - no blocks) / blocks.
    """

    blocks: int
    program: str
    us_per_token: float
    us_p10: float
    us_p90: float
    tokens_per_second: float
    gigabytes_per_second: float
    copy_share: float
    saved_per_skipped_block_us: float | None
    saved_share: float | None


@dataclass(frozen=True, slots=True)
class PromptTime:
    """Time of a prompt at full depth, medians.

    Attributes:
        cached_tokens, new_tokens: prompt tokens whose KV was there, and those that ran.
        prefill_ms: until the device has the logits of the first token.
        first_token_ms: until the host has the first token, greedily chosen.
    """

    cached_tokens: int
    new_tokens: int
    prefill_ms: float
    first_token_ms: float


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
        batch: conversations that a step serves; blocks: of the model.
        context: cached tokens before each timed step, tokens of the timed prompt, cached tokens of the next turn.
        steps: timed steps per program.
        copy_gigabytes_per_second: bytes read and written by a copy within the device's memory, over its time.
        saved_per_block_us: slope of the least-squares line of time over blocks, microseconds; r_squared: its fit.
        linearity: least `saved_share` of the programs that skip some blocks and keep some; 1 is proportional.
        programs: by number of blocks; the last is full depth.
        prompt, next_turn: an uncached prompt, and one whose first `context` tokens are cached.
        generation: this engine first, then what it is compared with.
        left_out: comparisons that were not made, and why.
    """

    model: str
    shape: BackboneConfig
    device: str
    torch_version: str
    transformers_version: str
    dtype: str
    backend: str
    backend_reason: str
    threads: int
    batch: int
    blocks: int
    context: int
    steps: int
    copy_gigabytes_per_second: float
    saved_per_block_us: float
    linearity: float
    r_squared: float
    programs: tuple[ProgramTime, ...]
    prompt: PromptTime
    next_turn: PromptTime
    generation: tuple[GenerationTime, ...]
    left_out: dict[str, str]

    def to_dict(self) -> dict[str, object]:
        """Plain data, for JSON."""
        return asdict(self)
