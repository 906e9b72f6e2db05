"""Timed work: copies, prompts, decode steps and answers, each as the engine runs it."""

import statistics
import time
from collections.abc import Callable, Iterable
from itertools import pairwise

import torch

from layerroute.backbone.kv_cache import visits_of
from layerroute.backbone.model import Backbone
from layerroute.backbone.prompt import select_prompt_runner
from layerroute.backbone.stepper import Stepper
from layerroute.benchmark.results import GenerationTime, PromptTime
from layerroute.engine.accounting import Meter, Stopwatch
from layerroute.engine.prefill import Prefill, Prefilled
from layerroute.engine.prefix_cache import Conversation, PrefixCache
from layerroute.engine.request import Sampling
from layerroute.engine.token_loop import TokenLoops
from layerroute.program import LayerProgram
from layerroute.routers.fixed import FullRouter

COPY_BYTES = {"cpu": 2**28, "cuda": 2**30}
"""Far more than any cache of the device holds."""
PROMPT_RUNS = 5
GENERATION_RUNS = 3
WARM_UP_STEPS = 5

Generate = Callable[[int, Callable[[], None] | None], list[int]]
"""Answers a prompt with so many tokens, and says when each of them has reached the host."""


def copy_bandwidth(device: torch.device) -> float:
    """Gigabytes per second, read and written, of copies within the device's memory; median of five times four."""
    size, copies = COPY_BYTES[device.type], 4
    if device.type == "cuda":
        size = min(size, torch.cuda.mem_get_info(device)[0] // 4)
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    seconds = []
    for _ in range(5):
        wait(device)
        started = time.perf_counter()
        for _ in range(copies):
            target.copy_(source)
        wait(device)
        seconds.append(time.perf_counter() - started)
    return 2 * copies * size / statistics.median(seconds) / 1e9


def wait(device: torch.device) -> None:
    """Return when the device has done all work that was given to it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Subject:
    """The engine's prefill, decode steps and decode loop over one conversation, whose KV memory stays in place.

    Args:
        backbone: the model; stepper: how its decode steps run.
        capacity: most tokens of the conversation.

    Attributes:
        reason: which backends serve, and why.
    """

    def __init__(self, backbone: Backbone, stepper: Stepper, capacity: int) -> None:
        self.backbone = backbone
        self._stepper = stepper
        prompts, self._loops = select_prompt_runner(backbone, stepper.name), TokenLoops(backbone, stepper, frozenset())
        self.reason = f"{stepper.reason}; prompts: {prompts.reason}; {self._loops.reason}"
        self._prefill = Prefill(backbone, PrefixCache(1, lambda slots: backbone.new_cache(slots, capacity)), prompts)
        self._router = FullRouter(backbone.config.num_blocks)
        self._shape = backbone.config.shape(backbone.dtype)
        self._conversation: Conversation | None = None

    def ids(self, length: int) -> tuple[int, ...]:
        """A prompt."""
        return tuple(token % self.backbone.config.vocab_size for token in range(length))

    @torch.inference_mode()
    def prefill(self, length: int, cached: int) -> Prefilled:
        """Run the prompt of a length, of which the last run left at least `cached` tokens."""
        if self._conversation is not None:
            self._conversation.truncate(cached)
        prefilled = self._prefill.run(
            self.ids(length), self._router, "generation", Meter(self._shape), Stopwatch(), lambda: None
        )
        self._conversation = prefilled.conversation
        return prefilled

    def time_prompt(self, cached: int, new: int) -> PromptTime:
        """Time prompts of `cached` tokens whose KV is there and `new` tokens that run."""
        prefill_ms, first_token_ms = [], []
        if cached:
            self.prefill(cached, 0)
        for run in range(-2, PROMPT_RUNS):  # the first two compile, capture and warm up
            wait(self.backbone.device)
            started = time.perf_counter()
            logits_V = self.prefill(cached + new, cached).logits_V
            wait(self.backbone.device)
            prefilled = time.perf_counter()
            logits_V.argmax().item()
            if run >= 0:
                prefill_ms.append(1e3 * (prefilled - started))
                first_token_ms.append(1e3 * (time.perf_counter() - started))
        return PromptTime(
            cached, new, round(statistics.median(prefill_ms), 3), round(statistics.median(first_token_ms), 3)
        )

    @torch.inference_mode()
    def time_programs(
        self, programs: Iterable[LayerProgram], context: int, steps: int
    ) -> dict[LayerProgram, list[float]]:
        """Microseconds of decode steps after `context` tokens, the token read by the host each time.

        Programs are interleaved, so that a drift of the machine touches all of them alike.
        """
        cache = self.prefill(context, 0).conversation.cache
        visits = {program: visits_of(program, "generation") for program in programs}
        for program in visits:
            for _ in range(WARM_UP_STEPS):
                self._stepper.step([1], context, visits[program], cache).argmax().item()
        samples: dict[LayerProgram, list[float]] = {program: [] for program in visits}
        token = 1
        for _ in range(steps):
            for program in visits:
                started = time.perf_counter()
                token = int(self._stepper.step([token], context, visits[program], cache).argmax().item())
                samples[program].append(1e6 * (time.perf_counter() - started))
        return samples

    def answer(self, context: int) -> Generate:
        """This engine's greedy answer at full depth to an uncached prompt of `context` tokens."""

        @torch.inference_mode()
        def generate(num_tokens: int, on_token: Callable[[], None] | None) -> list[int]:
            prefilled = self.prefill(context, 0)
            cache = prefilled.conversation.cache
            loop = self._loops.start(Sampling(), prefilled.logits_V, context, prefilled.visits, cache)
            tokens, drawn = list[int](), 0
            while len(tokens) < num_tokens:
                while drawn < min(len(tokens) + loop.ahead + 1, num_tokens):
                    loop.sample(None)
                    drawn += 1
                    if drawn < num_tokens:  # the last token never needs to be fed
                        loop.step()
                tokens.append(loop.take())
                if on_token is not None:
                    on_token()
            return tokens

        return generate


def time_generation(
    name: str, generate: Generate, num_tokens: int, expected: list[int] | None
) -> tuple[GenerationTime, list[int]]:
    """Time answers of 1 and of `num_tokens` tokens; also returns the longer one.

    Args:
        name: what generates.
        generate: returns when the host has the answer.
        num_tokens: at least 2.
        expected: tokens to count the equal ones against; None for the answer itself.
    """
    generate(1, None)
    tokens = generate(num_tokens, None)  # both warm up; what is compiled or captured is so now
    one_ms = statistics.median(_milliseconds(generate, 1) for _ in range(GENERATION_RUNS))
    all_ms = statistics.median(_milliseconds(generate, num_tokens) for _ in range(GENERATION_RUNS))
    arrivals: list[float] = []
    generate(num_tokens, lambda: arrivals.append(time.perf_counter()))
    gaps = [1e6 * (later - earlier) for earlier, later in pairwise(arrivals)]
    equal = [token == other for token, other in zip(tokens, expected or tokens, strict=True)]
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
