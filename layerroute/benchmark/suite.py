"""One run: decode steps over programs of growing length, prompts, and answers beside those of transformers.

Each of its parts stands alone: one that fails is named with the reason, and the others are measured all the same.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch

from layerroute.backbone.batch import MAX_ROWS
from layerroute.backbone.config import BackboneConfig, read_config, resolve_checkpoint
from layerroute.backbone.model import Backbone
from layerroute.backbone.stepper import make_stepper, select_stepper
from layerroute.backbone.weights import load_weights, random_weights
from layerroute.benchmark.results import Benchmark
from layerroute.benchmark.shapes import SHAPES
from layerroute.benchmark.timing import NEW_TOKENS, Stream, Timing, Work, within_memory
from layerroute.engine.loading import resolve_device, resolve_dtype
from layerroute.errors import RequestError

MIN_STEPS = 10
"""Fewer have no deciles."""
LONG_PROMPT = 8192
"""Tokens of the prompt that a GPU is also timed with, where the window holds it."""


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
    """Time a checkpoint, or a named shape with random weights. Ctrl-C ends it with what is measured until then.

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
    work = Work(context, steps, tuple(prompts), tuple(batches), compare, streams)
    _check(config, work)
    with within_memory(where):
        weights = load_weights(folder, config, where, kind) if folder else random_weights(config, where, kind)
        backbone = Backbone(config, weights)
        stepper = select_stepper(backbone) if backend == "auto" else make_stepper(backbone, backend)
        timing = Timing(backbone, stepper, work)
    return timing.run(model if folder else f"{shape} (random weights)")


def default_prompts(context: int, window: int, device: torch.device) -> list[int]:
    """Lengths of the prompts that are timed if none are named."""
    takes_long = device.type == "cuda" and window >= LONG_PROMPT
    return sorted({context, LONG_PROMPT}) if takes_long else [context]


def _check(config: BackboneConfig, work: Work) -> None:
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
