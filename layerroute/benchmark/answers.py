"""Timed answers of a fixed length, by whatever generates them."""

import statistics
import time
from collections.abc import Callable
from itertools import pairwise

from layerroute.benchmark.results import GenerationTime

GENERATION_RUNS = 3

Generate = Callable[[int, Callable[[], None] | None], list[int]]
"""Answers a prompt with so many tokens, and says when each of them has reached the host."""


def time_generation(
    name: str, generate: Generate, num_tokens: int, expected: list[int] | None
) -> tuple[GenerationTime, list[int]]:
    """Time answers of 1 and of `num_tokens` tokens; also returns the longer one.

    Args:
        name: what generates.
        generate: returns when the host has the answer.
        num_tokens: at least 2.
        expected: tokens to count the equal ones against, none if there are none; None for the answer itself.
    """
    generate(1, None)
    tokens = generate(num_tokens, None)  # both warm up; what is compiled or captured is so now
    one_ms = statistics.median(_milliseconds(generate, 1) for _ in range(GENERATION_RUNS))
    all_ms = statistics.median(_milliseconds(generate, num_tokens) for _ in range(GENERATION_RUNS))
    arrivals: list[float] = []
    generate(num_tokens, lambda: arrivals.append(time.perf_counter()))
    gaps = [1e6 * (later - earlier) for earlier, later in pairwise(arrivals)]
    equal = [token == other for token, other in zip(tokens, tokens if expected is None else expected, strict=False)]
    timed = GenerationTime(
        name=name,
        tokens=num_tokens,
        one_token_ms=round(one_ms, 3),
        all_tokens_ms=round(all_ms, 3),
        us_per_token_with_prefill=round(1e3 * all_ms / num_tokens, 1),
        us_per_token=round(1e3 * (all_ms - one_ms) / (num_tokens - 1), 1),
        us_per_token_streamed=round(statistics.median(gaps), 1),
        equal_leading_tokens=[*equal, False].index(False),
    )
    return timed, tokens


def _milliseconds(generate: Generate, num_tokens: int) -> float:
    started = time.perf_counter()
    generate(num_tokens, None)
    return 1e3 * (time.perf_counter() - started)
