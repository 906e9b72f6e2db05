"""One run: decode steps over programs of growing length, prompts, and answers beside those of transformers."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
import transformers

from layerroute.backbone.batch import MAX_ROWS, select_batch_stepper
from layerroute.backbone.config import BackboneConfig, read_config, resolve_checkpoint
from layerroute.backbone.model import Backbone
from layerroute.backbone.stepper import Stepper, make_stepper, select_stepper
from layerroute.backbone.weights import load_weights, random_weights
from layerroute.benchmark.answers import time_generation
from layerroute.benchmark.measure import Subject
from layerroute.benchmark.programs import program_times, programs_of_all_lengths
from layerroute.benchmark.rates import copy_bandwidth, matrix_rate
from layerroute.benchmark.results import Benchmark, EngineTime, GenerationTime, ProgramTime
from layerroute.benchmark.shapes import SHAPES
from layerroute.benchmark.stock import stock_answer, stock_model
from layerroute.benchmark.whole_engine import Read, WholeEngine, masked_everywhere
from layerroute.engine.loading import resolve_device, resolve_dtype
from layerroute.engine.request import Sampling
from layerroute.errors import DeviceError, RequestError
from layerroute.program import LayerProgram

MIN_STEPS = 10
"""Fewer have no deciles."""
NEW_TOKENS = 100
"""Tokens that follow the cached history of the next turn."""
MAX_ANSWER_TOKENS = 64
LONG_PROMPT = 8192
"""Tokens of the prompt that a GPU is also timed with, where the window holds it."""
_STATIC = "transformers, static cache, compiled"


@dataclass(frozen=True, slots=True)
class _Work:
    """What is timed, as `run` describes it."""

    context: int
    steps: int
    prompts: tuple[int, ...]
    batches: tuple[int, ...]
    compare: bool
    streams: Mapping[str, "Stream"]


Stream = Callable[[WholeEngine, LayerProgram, int, int], Read]
"""From an engine, a program, and the lengths of prompt and answer to what reads such an answer in its own way."""


def run(
    model: str = "embedded",
    shape: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    context: int = 512,
    steps: int = 200,
    prompts: Sequence[int] = (),
    batches: Sequence[int] = (),
    backend: str = "auto",
    compare: bool | None = None,
    streams: Mapping[str, Stream] = MappingProxyType({}),
) -> Benchmark:
    """Time a checkpoint, or a named shape with random weights.

    Args:
        model: "embedded", a checkpoint folder or a hub id; not looked at where a shape is named.
        shape: one of `SHAPES`.
        device, dtype: as the engine names them.
        context: cached tokens before a step, and cached tokens of the next turn.
        steps: timed runs of steps per program; as many tokens, but at most 64, are generated through the whole engine
            and beside transformers.
        prompts: lengths of uncached prompts; empty for `context`, and on a GPU also 8,192 where the window holds it.
        batches: numbers of rows to time steps of, too.
        backend: "auto" for the one that the engine would use, or the name of one.
        compare: whether to time transformers, too; None for a GPU only, where that takes a minute.
        streams: further readers of answers through the whole engine, by name.

    Raises:
        RequestError: an unknown shape, too few steps, a context or prompt that leaves no room, a batch of too many
            rows, or a backend that is unknown or cannot serve.
        BackboneError: the model cannot be found or read, or does not fit the device.
    """
    where = resolve_device(device)
    kind = resolve_dtype(dtype, where)
    if shape is not None and shape not in SHAPES:
        raise RequestError(f"unknown shape {shape!r}: use one of {', '.join(SHAPES)}")
    folder = resolve_checkpoint(model) if shape is None else None
    config = read_config(folder) if folder else SHAPES[str(shape)]
    if compare is None:
        compare = where.type == "cuda"
    prompts = prompts or default_prompts(context, config.max_positions, where)
    work = _Work(context, steps, tuple(prompts), tuple(batches), compare, streams)
    _check(config, work)
    try:
        weights = load_weights(folder, config, where, kind) if folder else random_weights(config, where, kind)
        name = model if folder else f"{shape} (random weights)"
        backbone = Backbone(config, weights)
        stepper = select_stepper(backbone) if backend == "auto" else make_stepper(backbone, backend)
        return _measure(name, backbone, stepper, work)
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            f"the memory of {where} is too small for this model, context, prompts and batches: name smaller ones, "
            "or free memory that other programs hold"
        ) from error


def default_prompts(context: int, window: int, device: torch.device) -> list[int]:
    """Lengths of the prompts that are timed if none are named."""
    takes_long = device.type == "cuda" and window >= LONG_PROMPT
    return sorted({context, LONG_PROMPT}) if takes_long else [context]


def _check(config: BackboneConfig, work: _Work) -> None:
    if work.steps < MIN_STEPS:
        raise RequestError(f"{work.steps} steps are too few for percentiles: use at least {MIN_STEPS}")
    if min(work.context, *work.prompts) < 1:
        raise RequestError(f"a context or prompt has at least 1 token, not {min(work.context, *work.prompts)}")
    if work.context + NEW_TOKENS > config.max_positions:
        raise RequestError(
            f"context {work.context} and {NEW_TOKENS} tokens after it exceed the window of {config.max_positions}: "
            "use a smaller context"
        )
    if max(work.prompts) > config.max_positions:
        raise RequestError(
            f"a prompt of {max(work.prompts)} tokens exceeds the window of {config.max_positions}: use a shorter one"
        )
    for rows in work.batches:
        if not 1 <= rows <= MAX_ROWS:
            raise RequestError(f"a batch holds 1 to {MAX_ROWS} rows, not {rows}: use another number of rows")


def _measure(name: str, backbone: Backbone, stepper: Stepper, work: _Work) -> Benchmark:
    config, device, context = backbone.config, backbone.device, work.context
    capacity = min(config.max_positions, max(1024, 2 * (context + NEW_TOKENS), *work.prompts))
    subject = Subject(backbone, stepper, capacity)
    copied, multiplied = copy_bandwidth(device), matrix_rate(device, backbone.dtype)
    lengths = programs_of_all_lengths(config.num_blocks)
    samples = subject.time_programs(lengths, context, work.steps)
    programs = program_times(backbone, stepper.name, 1, context, copied, samples)
    blocks = [entry.blocks for entry in programs]
    medians = [entry.us_per_token for entry in programs]
    batch_reason, batches = _time_batches(subject, stepper, lengths, work, copied)
    prompts = tuple(subject.time_prompt(0, length, multiplied) for length in work.prompts)
    next_turn = subject.time_prompt(context, NEW_TOKENS, multiplied)
    engine, not_timed = _time_engine(subject, stepper, lengths, work)
    generation, left_out = _compare(subject, stepper.name, work)  # last: compilers keep the host busy for a while
    return Benchmark(
        model=name,
        shape=config,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        torch_version=torch.__version__,
        transformers_version=transformers.__version__,
        dtype=str(backbone.dtype).removeprefix("torch."),
        backend=stepper.name,
        backend_reason=subject.reason,
        batch_reason=batch_reason,
        threads=torch.get_num_threads(),
        blocks=config.num_blocks,
        context=context,
        steps=work.steps,
        steps_at_once=subject.steps_at_once,
        copy_gigabytes_per_second=round(copied, 3),
        matrix_teraflops_per_second=round(multiplied, 3),
        saved_per_block_us=round(statistics.linear_regression(blocks, medians).slope, 2),
        linearity=min((entry.saved_share or 0.0 for entry in programs[1:-1]), default=1.0),
        r_squared=round(statistics.correlation(blocks, medians) ** 2, 5),
        programs=programs,
        batches=batches,
        prompts=prompts,
        next_turn=next_turn,
        engine=engine,
        generation=generation,
        left_out=not_timed | left_out,
    )


def _time_batches(
    subject: Subject, stepper: Stepper, programs: Sequence[LayerProgram], work: _Work, copied: float
) -> tuple[str | None, tuple[ProgramTime, ...]]:
    """What steps several rows, and the times for each number of rows."""
    if not work.batches:
        return None, ()
    backbone = subject.backbone
    batched = select_batch_stepper(backbone, stepper)
    times: list[ProgramTime] = []
    for rows in work.batches:
        samples = subject.time_batch(batched, rows, programs, work.context, work.steps)
        times += program_times(backbone, batched.name, rows, work.context, copied, samples)
    return batched.reason, tuple(times)


def _time_engine(
    subject: Subject, stepper: Stepper, programs: Sequence[LayerProgram], work: _Work
) -> tuple[tuple[EngineTime, ...], dict[str, str]]:
    """The whole engine at half and, in all modes, at full depth; and the modes left out."""
    num_blocks, context = subject.backbone.config.num_blocks, work.context
    num_tokens = min(work.steps, MAX_ANSWER_TOKENS)
    engine = WholeEngine(subject.backbone, stepper, work.context + NEW_TOKENS)
    ids, full = subject.ids(context), LayerProgram.identity(num_blocks)
    modes = {
        "greedy": engine.deltas(ids, full, num_tokens),
        "top-p 0.9": engine.deltas(ids, full, num_tokens, Sampling(1.0, top_p=0.9, seed=0)),
    }
    left_out = {}
    if engine.knows_chat:
        modes["a grammar's mask for each token"] = engine.deltas(
            ids, full, num_tokens, constraint=masked_everywhere(num_tokens)
        )
        modes |= {name: stream(engine, full, context, num_tokens) for name, stream in work.streams.items()}
    else:
        names = ("a grammar's mask for each token", *work.streams)
        left_out = dict.fromkeys(names, f"a vocabulary of {subject.backbone.config.vocab_size} has no chat format")
    times: list[EngineTime] = []
    for program in programs:
        if program.is_identity:
            times += subject.time_engine(engine, modes, full, context, num_tokens)
        elif program.num_visits == num_blocks // 2 and program.num_visits:
            half = {"greedy": engine.deltas(ids, program, num_tokens)}
            times += subject.time_engine(engine, half, program, context, num_tokens)
    return tuple(times), left_out


def _compare(subject: Subject, backend: str, work: _Work) -> tuple[tuple[GenerationTime, ...], dict[str, str]]:
    """This engine's answers and those of transformers, and what was left out for which reason."""
    num_tokens = min(work.steps, MAX_ANSWER_TOKENS)
    ours, tokens = time_generation(f"layerroute, {backend}", subject.answer(work.context), num_tokens, None)
    caches: dict[str, str | None] = {"transformers, dynamic cache": None, _STATIC: "static"}
    if not work.compare:
        return (ours,), dict.fromkeys(caches, "not asked for: --compare-transformers")
    timed, left_out = [ours], {}
    for name, cache in caches.items():
        if name == _STATIC and subject.backbone.device.type != "cuda":
            left_out[name] = "transformers compiles its static cache's step on a GPU only"
            continue
        try:
            generate = stock_answer(stock_model(subject.backbone), subject.ids(work.context), cache)
            timed.append(time_generation(name, generate, num_tokens, tokens)[0])
        except Exception as error:  # a compiler, driver or memory error of another library ends no benchmark of ours
            left_out[name] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
    return tuple(timed), left_out
