"""Programs whose steps are timed, and what their times say."""

import statistics
from collections.abc import Sequence

from layerroute.backbone.model import Backbone
from layerroute.benchmark.measure import Samples
from layerroute.benchmark.results import ProgramTime
from layerroute.flops import BackboneShape, decode_step_bytes
from layerroute.program import LayerProgram


def programs_of_all_lengths(num_blocks: int) -> list[LayerProgram]:
    """Programs of all lengths that matter, their blocks spread evenly."""
    lengths = sorted({0, num_blocks // 4, num_blocks // 2, 3 * num_blocks // 4, num_blocks - 1, num_blocks})
    return [LayerProgram(tuple(i * num_blocks // n for i in range(n)) if n else (), num_blocks) for n in lengths]


def program_times(
    backbone: Backbone,
    backend: str,
    batch: int,
    context: int,
    copied: float | None,
    samples: dict[LayerProgram, Samples],
) -> tuple[ProgramTime, ...]:
    """What the samples of programs of all lengths say.

    Args:
        backbone: the model; backend: what ran its steps, of `batch` rows after `context` tokens each.
        copied: gigabytes per second of a plain copy, if it was measured.
        samples: of each program.
    """
    shape = backbone.config.shape(backbone.dtype)
    medians = {program.num_visits: statistics.median(timed.microseconds) for program, timed in samples.items()}
    none, full = medians[0], medians[shape.num_blocks]
    times = []
    for program, timed in samples.items():
        median = medians[program.num_visits]
        deciles = statistics.quantiles(timed.microseconds, n=10, method="inclusive")
        speed = _step_bytes(shape, program.num_visits, context, batch) / median / 1e3
        skipped = shape.num_blocks - program.num_visits
        saved = (full - median) / skipped if skipped else None
        times.append(
            ProgramTime(
                backend=backend,
                batch=batch,
                blocks=program.num_visits,
                program=str(program),
                visits_per_token=timed.visits / timed.steps / batch,
                us_per_token=round(median, 1),
                us_p10=round(deciles[0], 1),
                us_p90=round(deciles[-1], 1),
                tokens_per_second=round(1e6 * batch / median, 1),
                gigabytes_per_second=round(speed, 3),
                copy_share=None if copied is None else round(speed / copied, 4),
                saved_per_skipped_block_us=None if saved is None else round(saved, 2),
                saved_share=None if saved is None else round(saved * shape.num_blocks / (full - none), 3),
            )
        )
    return tuple(times)


def line_through(programs: Sequence[ProgramTime]) -> tuple[float | None, float | None, float | None]:
    """What the times of one row say together, as `Benchmark` has it: saved_per_block_us, linearity, r_squared.

    None stands for each of them without times.
    """
    if not programs:
        return None, None, None
    blocks, medians = [entry.blocks for entry in programs], [entry.us_per_token for entry in programs]
    return (
        round(statistics.linear_regression(blocks, medians).slope, 2),
        min((entry.saved_share or 0.0 for entry in programs[1:-1]), default=1.0),
        round(statistics.correlation(blocks, medians) ** 2, 5),
    )


def _step_bytes(shape: BackboneShape, num_visits: int, context: int, batch: int) -> int:
    """Bytes that a step must move: the weights once, the keys and values of every row."""
    one_row = decode_step_bytes(shape, num_visits, context)
    weights = decode_step_bytes(shape, num_visits, -1)  # not even the new token's keys and values
    return weights + batch * (one_row - weights)
