"""Timed work: prompts and decode steps, each as the engine runs it."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from layerroute.backbone.batch import BatchStepper, Row
from layerroute.backbone.kv_cache import KVCache, Visit, visits_of
from layerroute.backbone.model import Backbone
from layerroute.backbone.prompt import select_prompt_runner
from layerroute.backbone.stepper import Stepper
from layerroute.benchmark.answers import Generate
from layerroute.benchmark.rates import wait
from layerroute.benchmark.results import EngineTime, PromptTime
from layerroute.benchmark.whole_engine import Read, WholeEngine
from layerroute.engine.accounting import Meter, Stopwatch
from layerroute.engine.prefill import Prefill, Prefilled
from layerroute.engine.prefix_cache import Conversation, PrefixCache
from layerroute.engine.request import Sampling
from layerroute.engine.token_loop import TokenLoops
from layerroute.flops import BackboneShape, forward_flops
from layerroute.parts import Parts
from layerroute.program import LayerProgram
from layerroute.report import StepReport
from layerroute.routers.fixed import FullRouter

PROMPT_RUNS = 5
ENGINE_RUNS = 5
WARM_UP_STEPS = 5
STEPS_AT_ONCE = {"cpu": 1, "cuda": 16}
"""Steps that follow each other before the host reads a token, by type of device: answers are read behind a GPU, and
what the host does for a step passes while the GPU works."""

Step = Callable[[list[int], tuple[Visit, ...]], Tensor]
"""A decode step: from one token of each row to the logits of the next ones, valid until the next step."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Microseconds a step in each timed run of steps of a program.

    Attributes:
        visits: block visits that the backbone counted meanwhile; steps: of all runs.
    """

    microseconds: list[float]
    visits: int
    steps: int


class Subject:
    """The engine's prefill, decode steps and decode loop over one conversation, whose KV memory stays in place.

    Args:
        backbone: the model; stepper: how its decode steps run.
        capacity: most tokens of the conversation.

    Attributes:
        reason: which backends serve, and why.
        steps_at_once: steps that are timed together.
    """

    def __init__(self, backbone: Backbone, stepper: Stepper, capacity: int) -> None:
        self.backbone = backbone
        self.steps_at_once = STEPS_AT_ONCE.get(backbone.device.type, 1)
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

    def time_prompt(self, cached: int, new: int, matrix_rate: float | None) -> PromptTime:
        """Time prompts of `cached` tokens whose KV is there and `new` tokens that run.

        Args:
            cached, new: numbers of tokens.
            matrix_rate: teraflops per second to hold the prompt's against, if there are any.
        """
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
        flops, median_ms = causal_flops(self._shape, cached, new), statistics.median(prefill_ms)
        return PromptTime(
            cached_tokens=cached,
            new_tokens=new,
            prefill_ms=round(median_ms, 3),
            first_token_ms=round(statistics.median(first_token_ms), 3),
            flops=flops,
            matrix_share=None if matrix_rate is None else round(flops / median_ms / 1e9 / matrix_rate, 4),
        )

    def time_programs(self, programs: Iterable[LayerProgram], context: int, steps: int) -> dict[LayerProgram, Samples]:
        """Time decode steps of one row after `context` tokens."""
        cache = self._cache(context)

        def step(tokens: list[int], visits: tuple[Visit, ...]) -> Tensor:
            return self._stepper.step(tokens, context, visits, cache)

        return self._time_steps(step, 1, programs, steps)

    def time_batch(
        self, stepper: BatchStepper, rows: int, programs: Iterable[LayerProgram], context: int, steps: int
    ) -> dict[LayerProgram, Samples]:
        """Time decode steps of several rows after `context` tokens each, in memory of their own."""
        caches = self._copies(context, rows)

        def step(tokens: list[int], visits: tuple[Visit, ...]) -> Tensor:
            batch = [Row(token, context, cache) for token, cache in zip(tokens, caches, strict=True)]
            return stepper.step(batch, visits)

        return self._time_steps(step, rows, programs, steps)

    @torch.inference_mode()
    def _time_steps(
        self, step: Step, rows: int, programs: Iterable[LayerProgram], steps: int
    ) -> dict[LayerProgram, Samples]:
        """Programs are interleaved, so that a drift of the machine touches all of them alike."""
        visits = {program: visits_of(program, "generation") for program in programs}
        tokens = [1] * rows

        def run(visits: tuple[Visit, ...]) -> list[int]:
            for _ in range(self.steps_at_once):
                logits = step(tokens, visits)
            return [int(token) for token in logits.view(rows, -1).argmax(dim=1).tolist()]

        for program in visits:
            for _ in range(WARM_UP_STEPS):
                run(visits[program])
        microseconds: dict[LayerProgram, list[float]] = {program: [] for program in visits}
        counted = dict.fromkeys(visits, 0)
        for _ in range(steps):
            for program in visits:
                before = sum(self.backbone.executed_L)
                started = time.perf_counter()
                tokens = run(visits[program])
                microseconds[program].append(1e6 * (time.perf_counter() - started) / self.steps_at_once)
                counted[program] += sum(self.backbone.executed_L) - before
        return {
            program: Samples(microseconds[program], counted[program], steps * self.steps_at_once) for program in visits
        }

    def time_engine(
        self,
        engine: WholeEngine,
        modes: Mapping[str, Read],
        program: LayerProgram,
        context: int,
        num_tokens: int,
        parts: Parts,
    ) -> tuple[EngineTime, ...]:
        """Time answers of `num_tokens` tokens through the whole engine and, in turns with them, their steps alone.

        A mode whose answer fails is one of the `parts`, and not in the result.
        """
        cache = self._cache(context)
        bare: list[float] = []
        whole: dict[str, list[tuple[float, StepReport]]] = {mode: [] for mode in modes}
        for run in range(-1, ENGINE_RUNS):  # the first captures and warms up
            if not whole:
                break
            seconds = self._bare_steps(program, context, num_tokens - 1, cache)
            if run >= 0:
                bare.append(1e6 * seconds / (num_tokens - 1))
            for mode in list(whole):
                answer = parts.attempt(f"{mode}, {program.num_visits} blocks", partial(engine.answer, modes[mode]))
                if answer is None:
                    del whole[mode]
                elif run >= 0:
                    arrivals, report = answer
                    whole[mode].append((1e6 * (arrivals[-1] - arrivals[0]) / (report.generated_tokens - 1), report))
        return tuple(_engine_time(mode, program, bare, answers) for mode, answers in whole.items())

    @torch.inference_mode()
    def _bare_steps(self, program: LayerProgram, context: int, steps: int, cache: KVCache) -> float:
        """Seconds of steps at growing positions, given to the device one after the other, nothing read between."""
        visits = visits_of(program, "generation")
        wait(self.backbone.device)
        started = time.perf_counter()
        for position in range(context, context + steps):
            self._stepper.step([1], position, visits, cache)
        wait(self.backbone.device)
        return time.perf_counter() - started

    def _cache(self, context: int) -> KVCache:
        return self.prefill(context, 0).conversation.cache

    @torch.inference_mode()
    def _copies(self, context: int, count: int) -> list[KVCache]:
        cache = self._cache(context)
        copies = [self.backbone.new_cache(cache.num_slots, context + 1) for _ in range(count)]
        for copy in copies:
            copy.keys_SKTH[:, :, :context] = cache.keys_SKTH[:, :, :context]
            copy.values_SKTH[:, :, :context] = cache.values_SKTH[:, :, :context]
        return copies

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


def _engine_time(
    mode: str, program: LayerProgram, bare: Sequence[float], answers: Sequence[tuple[float, StepReport]]
) -> EngineTime:
    fed = sum(report.generated_tokens - 1 for _, report in answers)
    return EngineTime(
        mode=mode,
        blocks=program.num_visits,
        tokens=answers[0][1].generated_tokens,
        visits_per_token=sum(report.decode.executed for _, report in answers) / fed,
        bare_us_per_token=round(statistics.median(bare), 1),
        us_per_token=round(statistics.median(whole for whole, _ in answers), 1),
        mask_us_per_token=round(1e3 * sum(report.milliseconds.mask for _, report in answers) / fed, 1),
        ratio=round(statistics.median(whole / step for (whole, _), step in zip(answers, bare, strict=True)), 4),
    )


def causal_flops(shape: BackboneShape, cached: int, new: int) -> int:
    """FLOPs that a prompt takes of any implementation: those of `forward_flops` without the upper half of attention.

    A query's products with later keys, which a report counts as part of the rectangle, are work that the best kernels
    leave out.
    """
    later_keys = new * (new - 1) // 2
    return forward_flops(shape, shape.num_blocks, new, cached, 1) - 4 * shape.num_blocks * shape.query_size * later_keys
