"""The parts of a benchmark, each measured on its own: one that fails leaves the others' numbers alone."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain

import torch
import transformers

from layerroute.backbone.batch import select_batch_stepper
from layerroute.backbone.model import Backbone
from layerroute.backbone.stepper import Stepper
from layerroute.benchmark.answers import time_generation
from layerroute.benchmark.measure import Subject
from layerroute.benchmark.programs import line_through, program_times, programs_of_all_lengths
from layerroute.benchmark.rates import copy_bandwidth, matrix_rate
from layerroute.benchmark.results import Benchmark, EngineTime, GenerationTime, ProgramTime, PromptTime
from layerroute.benchmark.stock import stock_answer, stock_model
from layerroute.benchmark.whole_engine import Read, WholeEngine, masked_everywhere
from layerroute.engine.request import Sampling
from layerroute.errors import DeviceError
from layerroute.parts import Parts
from layerroute.program import LayerProgram

NEW_TOKENS = 100
"""Tokens that follow the cached history of the next turn."""
MAX_ANSWER_TOKENS = 64
_MASKS = "a grammar's mask for each token"
_STOCK: Mapping[str, str | None] = {
    "transformers, dynamic cache": None,
    "transformers, static cache, compiled": "static",
}

Stream = Callable[[WholeEngine, LayerProgram, int, int], Read]
"""From an engine, a program, and the lengths of prompt and answer to what reads such an answer in its own way."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is timed, as `suite.run` describes it."""

    context: int
    steps: int
    prompts: tuple[int, ...]
    batches: tuple[int, ...]
    compare: bool
    streams: Mapping[str, Stream]


@contextmanager
def within_memory(device: torch.device) -> Iterator[None]:
    """Say what to do where a device has too little memory.

    Raises:
        DeviceError: in place of torch's error.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            f"the memory of {device} is too small for this model, context, prompts and batches: name smaller ones, "
            "or free memory that other programs hold"
        ) from error


class Timing:
    """One model's timing.

    Args:
        backbone: the model; stepper: how its decode steps run.
        work: what is timed.
    """

    def __init__(self, backbone: Backbone, stepper: Stepper, work: Work) -> None:
        self._backbone, self._stepper, self._work = backbone, stepper, work
        lengths = (2 * (work.context + NEW_TOKENS), *work.prompts)
        self._subject = Subject(backbone, stepper, min(backbone.config.max_positions, max(1024, *lengths)))
        self._programs = programs_of_all_lengths(backbone.config.num_blocks)
        self._num_tokens = min(work.steps, MAX_ANSWER_TOKENS)
        self._parts = Parts(lambda: within_memory(backbone.device))
        self._left_out: dict[str, str] = {}

    def run(self, name: str) -> Benchmark:
        """Time all parts, and say of those that gave nothing why.

        Args:
            name: of the model.
        """
        device, config, work = self._backbone.device, self._backbone.config, self._work
        copied = self._parts.attempt("copy", lambda: copy_bandwidth(device))
        multiplied = self._parts.attempt("matrix product", lambda: matrix_rate(device, self._backbone.dtype))
        programs = self._parts.attempt("steps", lambda: self._steps(copied)) or ()
        saved, linearity, r_squared = line_through(programs)
        batch_reason, batches = self._batches(copied)
        prompts = [self._prompt(f"prompt of {length} tokens", 0, length, multiplied) for length in work.prompts]
        next_turn = self._prompt("next turn", work.context, NEW_TOKENS, multiplied)
        engine = self._engine()
        generation = self._generation()  # last: compilers keep the host busy for a while
        return Benchmark(
            model=name,
            shape=config,
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            torch_version=torch.__version__,
            transformers_version=transformers.__version__,
            dtype=str(self._backbone.dtype).removeprefix("torch."),
            backend=self._stepper.name,
            backend_reason=self._subject.reason,
            batch_reason=batch_reason,
            threads=torch.get_num_threads(),
            blocks=config.num_blocks,
            context=work.context,
            steps=work.steps,
            steps_at_once=self._subject.steps_at_once,
            copy_gigabytes_per_second=None if copied is None else round(copied, 3),
            matrix_teraflops_per_second=None if multiplied is None else round(multiplied, 3),
            saved_per_block_us=saved,
            linearity=linearity,
            r_squared=r_squared,
            programs=programs,
            batches=batches,
            prompts=tuple(prompt for prompt in prompts if prompt is not None),
            next_turn=next_turn,
            engine=engine,
            generation=generation,
            left_out=self._left_out,
            failed=self._parts.failed,
        )

    def _steps(self, copied: float | None) -> tuple[ProgramTime, ...]:
        samples = self._subject.time_programs(self._programs, self._work.context, self._work.steps)
        return program_times(self._backbone, self._stepper.name, 1, self._work.context, copied, samples)

    def _batches(self, copied: float | None) -> tuple[str | None, tuple[ProgramTime, ...]]:
        """What steps several rows, and the times for each number of rows."""
        work, backbone = self._work, self._backbone
        if not work.batches:
            return None, ()
        batched = self._parts.attempt("steps of several rows", lambda: select_batch_stepper(backbone, self._stepper))
        if batched is None:
            return None, ()

        def steps_of(rows: int) -> tuple[ProgramTime, ...]:
            samples = self._subject.time_batch(batched, rows, self._programs, work.context, work.steps)
            return program_times(backbone, batched.name, rows, work.context, copied, samples)

        times = [self._parts.attempt(f"steps of {rows} rows", partial(steps_of, rows)) or () for rows in work.batches]
        return batched.reason, tuple(chain.from_iterable(times))

    def _prompt(self, name: str, cached: int, new: int, multiplied: float | None) -> PromptTime | None:
        return self._parts.attempt(name, lambda: self._subject.time_prompt(cached, new, multiplied))

    def _engine(self) -> tuple[EngineTime, ...]:
        """The whole engine at half and, in all modes, at full depth."""
        capacity, ids = self._work.context + NEW_TOKENS, self._subject.ids(self._work.context)
        engine = self._parts.attempt("whole engine", lambda: WholeEngine(self._backbone, self._stepper, capacity))
        if engine is None:
            return ()
        times: list[EngineTime] = []
        for program in self._programs:
            if program.is_identity:
                times += self._time_engine(engine, program, self._modes(engine, ids, program))
            elif program.num_visits == program.num_blocks // 2 and program.num_visits:
                half = {"greedy": engine.deltas(ids, program, self._num_tokens)}
                times += self._time_engine(engine, program, half)
        return tuple(times)

    def _modes(self, engine: WholeEngine, ids: tuple[int, ...], full: LayerProgram) -> dict[str, Read]:
        """The ways to draw and to read an answer; those that the vocabulary or a stream does not admit are named."""
        context, num_tokens, streams = self._work.context, self._num_tokens, self._work.streams
        modes: dict[str, Read | None] = {
            "greedy": engine.deltas(ids, full, num_tokens),
            "top-p 0.9": engine.deltas(ids, full, num_tokens, Sampling(1.0, top_p=0.9, seed=0)),
        }
        if engine.knows_chat:
            masks = masked_everywhere(num_tokens)
            modes[_MASKS] = engine.deltas(ids, full, num_tokens, constraint=masks)
            for name, stream in streams.items():
                modes[name] = self._parts.attempt(name, partial(stream, engine, full, context, num_tokens))
        else:
            why = f"a vocabulary of {self._backbone.config.vocab_size} has no chat format"
            self._left_out |= dict.fromkeys((_MASKS, *streams), why)
        return {name: read for name, read in modes.items() if read is not None}

    def _time_engine(
        self, engine: WholeEngine, program: LayerProgram, modes: Mapping[str, Read]
    ) -> tuple[EngineTime, ...]:
        def timed() -> tuple[EngineTime, ...]:
            context = self._work.context
            return self._subject.time_engine(engine, modes, program, context, self._num_tokens, self._parts)

        return self._parts.attempt(f"whole engine, {program.num_visits} blocks", timed) or ()

    def _generation(self) -> tuple[GenerationTime, ...]:
        """This engine's answers and those of transformers."""
        prompt, num_tokens = self._subject.ids(self._work.context), self._num_tokens
        ours = f"layerroute, {self._stepper.name}"
        answer = self._subject.answer(self._work.context)
        timed = self._parts.attempt(ours, lambda: time_generation(ours, answer, num_tokens, None))
        times, tokens = ([], list[int]()) if timed is None else ([timed[0]], timed[1])
        if not self._work.compare:
            self._left_out |= dict.fromkeys(_STOCK, "not asked for: --compare-transformers")
            return tuple(times)
        for name, cache in _STOCK.items():
            if cache == "static" and self._backbone.device.type != "cuda":
                self._left_out[name] = "transformers compiles its static cache's step on a GPU only"
                continue

            def stock(name: str = name, cache: str | None = cache) -> GenerationTime:
                generate = stock_answer(stock_model(self._backbone), prompt, cache)
                return time_generation(name, generate, num_tokens, tokens)[0]

            theirs = self._parts.attempt(name, stock)
            times += [] if theirs is None else [theirs]
        return tuple(times)
