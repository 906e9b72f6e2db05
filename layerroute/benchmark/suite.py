"""One run: decode steps over programs of growing length, prompts, and answers beside those of transformers."""

import statistics

import torch
import transformers

from layerroute.backbone.config import BackboneConfig, read_config, resolve_checkpoint
from layerroute.backbone.model import Backbone
from layerroute.backbone.stepper import make_stepper, select_stepper
from layerroute.backbone.weights import load_weights, random_weights
from layerroute.benchmark.measure import Subject, copy_bandwidth, time_generation
from layerroute.benchmark.results import Benchmark, GenerationTime, ProgramTime
from layerroute.benchmark.shapes import SHAPES
from layerroute.benchmark.stock import stock_answer, stock_model
from layerroute.engine.loading import resolve_device, resolve_dtype
from layerroute.errors import DeviceError, RequestError
from layerroute.flops import decode_step_bytes
from layerroute.program import LayerProgram

MIN_STEPS = 10
"""Fewer have no deciles."""
NEW_TOKENS = 100
"""Tokens that follow the cached history of the next turn."""
MAX_ANSWER_TOKENS = 64
_STATIC = "transformers, static cache, compiled"


def run(
    model: str = "embedded",
    shape: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    context: int = 512,
    steps: int = 200,
    backend: str = "auto",
    compare: bool | None = None,
) -> Benchmark:
    """Time a checkpoint, or a named shape with random weights.

    Args:
        model: "embedded", a checkpoint folder or a hub id; not looked at where a shape is named.
        shape: one of `SHAPES`.
        device, dtype: as the engine names them.
        context: cached tokens before a step, tokens of a prompt, and cached tokens of the next turn.
        steps: timed steps per program; as many tokens, but at most 64, are generated beside transformers.
        backend: "auto" for the one that the engine would use, or the name of one.
        compare: whether to time transformers, too; None for a GPU only, where that takes a minute.

    Raises:
        RequestError: an unknown shape, too few steps, a context that leaves no room, or a backend that is unknown or
            cannot serve.
        BackboneError: the model cannot be found or read, or does not fit the device.
    """
    where = resolve_device(device)
    kind = resolve_dtype(dtype, where)
    if shape is not None and shape not in SHAPES:
        raise RequestError(f"unknown shape {shape!r}: use one of {', '.join(SHAPES)}")
    folder = resolve_checkpoint(model) if shape is None else None
    config = read_config(folder) if folder else SHAPES[str(shape)]
    _check(config, context, steps)
    try:
        weights = load_weights(folder, config, where, kind) if folder else random_weights(config, where, kind)
        name = model if folder else f"{shape} (random weights)"
        return _measure(name, Backbone(config, weights), context, steps, backend, compare)
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            f"the memory of {where} is too small for this model and context: name a smaller shape or context, "
            "or free memory that other programs hold"
        ) from error


def _check(config: BackboneConfig, context: int, steps: int) -> None:
    if steps < MIN_STEPS:
        raise RequestError(f"{steps} steps are too few for percentiles: use at least {MIN_STEPS}")
    if context < 1:
        raise RequestError(f"context must be at least 1 token, not {context}")
    if context + NEW_TOKENS > config.max_positions:
        raise RequestError(
            f"context {context} and {NEW_TOKENS} tokens after it exceed the window of {config.max_positions}: "
            "use a smaller context"
        )


def _measure(name: str, backbone: Backbone, context: int, steps: int, backend: str, compare: bool | None) -> Benchmark:
    config, device = backbone.config, backbone.device
    stepper = select_stepper(backbone) if backend == "auto" else make_stepper(backbone, backend)
    subject = Subject(backbone, stepper, min(config.max_positions, max(1024, 2 * (context + NEW_TOKENS))))
    copied = copy_bandwidth(device)
    samples = subject.time_programs(_programs(config.num_blocks), context, steps)
    programs = _program_times(backbone, context, copied, samples)
    blocks = [entry.blocks for entry in programs]
    medians = [entry.us_per_token for entry in programs]
    prompt, next_turn = subject.time_prompt(0, context), subject.time_prompt(context, NEW_TOKENS)
    generation, left_out = _compare(subject, stepper.name, context, min(steps, MAX_ANSWER_TOKENS), compare)
    return Benchmark(
        model=name,
        shape=config,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        torch_version=torch.__version__,
        transformers_version=transformers.__version__,
        dtype=str(backbone.dtype).removeprefix("torch."),
        backend=stepper.name,
        backend_reason=subject.reason,
        threads=torch.get_num_threads(),
        batch=1,
        blocks=config.num_blocks,
        context=context,
        steps=steps,
        copy_gigabytes_per_second=round(copied, 1),
        saved_per_block_us=round(statistics.linear_regression(blocks, medians).slope, 2),
        linearity=min((entry.saved_share or 0.0 for entry in programs[1:-1]), default=1.0),
        r_squared=round(statistics.correlation(blocks, medians) ** 2, 5),
        programs=programs,
        prompt=prompt,
        next_turn=next_turn,
        generation=generation,
        left_out=left_out,
    )


def _programs(num_blocks: int) -> list[LayerProgram]:
    """Programs of all lengths that matter, their blocks spread evenly."""
    lengths = sorted({0, num_blocks // 4, num_blocks // 2, 3 * num_blocks // 4, num_blocks - 1, num_blocks})
    return [LayerProgram(tuple(i * num_blocks // n for i in range(n)) if n else (), num_blocks) for n in lengths]


def _program_times(
    backbone: Backbone, context: int, copied: float, samples: dict[LayerProgram, list[float]]
) -> tuple[ProgramTime, ...]:
    shape = backbone.config.shape(backbone.dtype)
    medians = {program.num_visits: statistics.median(times) for program, times in samples.items()}
    none, full = medians[0], medians[shape.num_blocks]
    times = []
    for program, microseconds in samples.items():
        median = medians[program.num_visits]
        deciles = statistics.quantiles(microseconds, n=10, method="inclusive")
        speed = decode_step_bytes(shape, program.num_visits, context) / median / 1e3
        skipped = shape.num_blocks - program.num_visits
        saved = (full - median) / skipped if skipped else None
        times.append(
            ProgramTime(
                blocks=program.num_visits,
                program=str(program),
                us_per_token=round(median, 1),
                us_p10=round(deciles[0], 1),
                us_p90=round(deciles[-1], 1),
                tokens_per_second=round(1e6 / median, 1),
                gigabytes_per_second=round(speed, 1),
                copy_share=round(speed / copied, 4),
                saved_per_skipped_block_us=None if saved is None else round(saved, 2),
                saved_share=None if saved is None else round(saved * shape.num_blocks / (full - none), 3),
            )
        )
    return tuple(times)


def _compare(
    subject: Subject, backend: str, context: int, num_tokens: int, compare: bool | None
) -> tuple[tuple[GenerationTime, ...], dict[str, str]]:
    """This engine's answers and those of transformers, and what was left out for which reason."""
    is_cuda = subject.backbone.device.type == "cuda"
    ours, tokens = time_generation(f"layerroute, {backend}", subject.answer(context), num_tokens, None)
    caches: dict[str, str | None] = {"transformers, dynamic cache": None, _STATIC: "static"}
    if not (is_cuda if compare is None else compare):
        return (ours,), dict.fromkeys(caches, "not asked for: --compare-transformers")
    timed, left_out = [ours], {}
    for name, cache in caches.items():
        if name == _STATIC and not is_cuda:
            left_out[name] = "transformers compiles its static cache's step on a GPU only"
            continue
        try:
            generate = stock_answer(stock_model(subject.backbone), subject.ids(context), cache)
            timed.append(time_generation(name, generate, num_tokens, tokens)[0])
        except Exception as error:  # a compiler, driver or memory error of another library ends no benchmark of ours
            left_out[name] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
    return tuple(timed), left_out
