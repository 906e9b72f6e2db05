"""Time of a decode step over layer programs of growing length, on whatever device there is.

Steps are timed as the engine runs them: through the backend, with the token read back by the host each time, programs
interleaved so that a drift of the machine touches all of them alike. Medians.
"""

import statistics
import time
from dataclasses import asdict, dataclass

import torch

from layerroute.backbone.config import BackboneConfig, read_config, resolve_checkpoint
from layerroute.backbone.kv_cache import visits_of
from layerroute.backbone.model import Backbone
from layerroute.backbone.stepper import Stepper, make_stepper, select_stepper
from layerroute.backbone.weights import load_weights, random_weights
from layerroute.errors import RequestError
from layerroute.flops import decode_step_bytes
from layerroute.program import LayerProgram


def _qwen25(hidden: int, intermediate: int, blocks: int, heads: int, kv_heads: int, tied: bool) -> BackboneConfig:
    return BackboneConfig(
        vocab_size=151936 if hidden < 3000 else 152064,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_blocks=blocks,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=hidden // heads,
        rms_eps=1e-6,
        rope_theta=1e6,
        max_positions=32768,
        tied=tied,
    )


SHAPES = {
    "Qwen2.5-0.5B": _qwen25(896, 4864, 24, 14, 2, True),
    "Qwen2.5-1.5B": _qwen25(1536, 8960, 28, 12, 2, True),
    "Qwen2.5-3B": _qwen25(2048, 11008, 36, 16, 2, True),
    "Qwen2.5-7B": _qwen25(3584, 18944, 28, 28, 4, False),
}
"""Shapes that can be timed with random weights."""


@dataclass(frozen=True, slots=True)
class ProgramTime:
    """Decode time of one program.

    Attributes:
        us_per_token: median microseconds from a token's feeding to the next token on the host.
        us_p10, us_p90: 10th and 90th percentile.
        gigabytes_per_second: bytes that the step must move (weights and KV) over the median time.
    """

    num_visits: int
    program: str
    us_per_token: float
    us_p10: float
    us_p90: float
    tokens_per_second: float
    gigabytes_per_second: float


@dataclass(frozen=True, slots=True)
class DecodeBenchmark:
    """Result of `run`, with its conditions.

    Attributes:
        saved_per_block_us: slope of the least-squares line of time over visits, microseconds; r_squared: its fit.
        linearity: at half depth, share of the full time saved over share of the visits skipped; 1 is proportional.
    """

    model: str
    device: str
    torch_version: str
    dtype: str
    backend: str
    backend_reason: str
    threads: int
    context: int
    steps: int
    saved_per_block_us: float
    linearity: float
    r_squared: float
    programs: tuple[ProgramTime, ...]

    def to_dict(self) -> dict[str, object]:
        """Plain data, for JSON."""
        return asdict(self)


def run(
    model: str = "embedded",
    shape: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    context: int = 512,
    steps: int = 200,
    backend: str = "auto",
) -> DecodeBenchmark:
    """Time decode steps of a checkpoint, or of a named shape with random weights.

    `backend` is "auto" for the one that the engine would use, or the name of one.

    Raises:
        RequestError: an unknown shape, a context that leaves no room, or a backend that is unknown or cannot serve.
        BackboneError: the model cannot be found or read.
    """
    from layerroute.engine.loading import resolve_device, resolve_dtype

    where = resolve_device(device)
    kind = resolve_dtype(dtype, where)
    if shape is None:
        folder = resolve_checkpoint(model)
        config = read_config(folder)
        weights = load_weights(folder, config, where, kind)
    elif shape in SHAPES:
        model, config = f"{shape} (random weights)", SHAPES[shape]
        weights = random_weights(config, where, kind)
    else:
        raise RequestError(f"unknown shape {shape!r}: use one of {', '.join(SHAPES)}")
    if context + steps >= config.max_positions:
        raise RequestError(f"context {context} and {steps} steps exceed the window of {config.max_positions}")
    backbone = Backbone(config, weights)
    stepper = select_stepper(backbone) if backend == "auto" else make_stepper(backbone, backend)
    samples = _time_programs(backbone, stepper, _programs(config.num_blocks), context, steps)
    return _summarise(model, backbone, stepper, context, steps, samples)


def _programs(num_blocks: int) -> list[LayerProgram]:
    """Programs of all lengths that matter, their blocks spread evenly."""
    lengths = sorted({0, num_blocks // 4, num_blocks // 2, 3 * num_blocks // 4, num_blocks - 1, num_blocks})
    return [LayerProgram(tuple(i * num_blocks // n for i in range(n)) if n else (), num_blocks) for n in lengths]


@torch.inference_mode()
def _time_programs(
    backbone: Backbone, stepper: Stepper, programs: list[LayerProgram], context: int, steps: int
) -> dict[LayerProgram, list[float]]:
    num_blocks = backbone.config.num_blocks
    cache = backbone.new_cache(num_blocks, min(backbone.config.max_positions, max(1024, 2 * (context + 16))))
    ids_T = torch.arange(context, device=backbone.device) % backbone.config.vocab_size
    backbone.forward(ids_T, 0, visits_of(LayerProgram.identity(num_blocks), "generation"), cache)
    visits = {program: visits_of(program, "generation") for program in programs}
    for program in programs:
        for _ in range(5):
            stepper.step([1], context, visits[program], cache).argmax().item()
    samples: dict[LayerProgram, list[float]] = {program: [] for program in programs}
    token = 1
    for _ in range(steps):
        for program in programs:
            started = time.perf_counter()
            token = int(stepper.step([token], context, visits[program], cache).argmax().item())
            samples[program].append(1e6 * (time.perf_counter() - started))
    return samples


def _summarise(
    model: str, backbone: Backbone, stepper: Stepper, context: int, steps: int, samples: dict[LayerProgram, list[float]]
) -> DecodeBenchmark:
    shape = backbone.config.shape(backbone.dtype)
    times = []
    for program, microseconds in samples.items():
        median = statistics.median(microseconds)
        deciles = statistics.quantiles(microseconds, n=10)
        moved = decode_step_bytes(shape, program.num_visits, context)
        times.append(
            ProgramTime(
                num_visits=program.num_visits,
                program=str(program),
                us_per_token=round(median, 1),
                us_p10=round(deciles[0], 1),
                us_p90=round(deciles[-1], 1),
                tokens_per_second=round(1e6 / median, 1),
                gigabytes_per_second=round(moved / median / 1e3, 1),
            )
        )
    visits = [entry.num_visits for entry in times]
    medians = [entry.us_per_token for entry in times]
    slope, _ = statistics.linear_regression(visits, medians)
    full = times[-1]
    half = next(entry for entry in times if entry.num_visits == full.num_visits // 2)
    is_cuda = backbone.device.type == "cuda"
    return DecodeBenchmark(
        model=model,
        device=torch.cuda.get_device_name(backbone.device) if is_cuda else "cpu",
        torch_version=torch.__version__,
        dtype=str(backbone.dtype).removeprefix("torch."),
        backend=stepper.name,
        backend_reason=stepper.reason,
        threads=torch.get_num_threads(),
        context=context,
        steps=steps,
        saved_per_block_us=round(slope, 2),
        linearity=round(
            (full.us_per_token - half.us_per_token) / full.us_per_token / (1 - half.num_visits / full.num_visits),
            3,
        ),
        r_squared=round(statistics.correlation(visits, medians) ** 2, 5),
        programs=tuple(times),
    )
