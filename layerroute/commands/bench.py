"""Time decode steps, prompts and answers; the last line of stdout is one JSON document.

A part that fails is named with the reason, the others are shown all the same, and the exit code is 1.
"""

import argparse
import json
from typing import TYPE_CHECKING

from rich.table import Table

from layerroute.commands.shared import tell_failed
from layerroute.console import PlainConsole

if TYPE_CHECKING:  # torch loads only when something is timed
    from layerroute.benchmark.results import Benchmark
    from layerroute.benchmark.timing import Stream

HELP = "time decode steps by number of blocks, prompts, and answers beside those of transformers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--model", default="embedded", help='"embedded", a checkpoint folder or a hub id')
    source.add_argument("--shape", help="time a shape with random weights, such as Qwen2.5-0.5B")
    parser.add_argument("--device", default="auto", help='"auto", "cpu", "cuda" or "cuda:N"')
    parser.add_argument("--dtype", default="auto", help='"auto", "float32", "bfloat16" or "float16"')
    parser.add_argument("--context", type=int, default=512, help="tokens cached before a step")
    parser.add_argument("--steps", type=int, default=200, help="timed runs of steps per program, at least 10")
    parser.add_argument(
        "--prompts",
        type=int,
        nargs="+",
        default=(),
        metavar="TOKENS",
        help="lengths of the timed prompts; the context if not given, and on a GPU 8192 too",
    )
    parser.add_argument(
        "--batch", type=int, nargs="+", default=(), metavar="ROWS", help="time steps of so many rows, too"
    )
    parser.add_argument("--backend", default="auto", help='"auto", "hopper", "triton", "graph" or "eager"')
    parser.add_argument(
        "--compare-transformers",
        action=argparse.BooleanOptionalAction,
        help="time transformers' generate() on the same weights, too (on a GPU this is done unless switched off)",
    )
    parser.add_argument(
        "--agent-turn",
        action="store_true",
        help="time a tool-call turn of the front-desk agent instead, with and without routing and fast-forward",
    )
    parser.add_argument("--json", action="store_true", help="print the JSON document alone")


def run(args: argparse.Namespace) -> int:
    """Measure, show tables on stderr, and print the document; 0, or 1 if a part failed, or 130 if interrupted."""
    from layerroute import benchmark

    console = PlainConsole(stderr=True, quiet=args.json)
    if args.agent_turn:
        return _agent_turn(args, console)
    streams, missing = _streams()
    with console.status("timing"):
        result = benchmark.run(
            args.model,
            args.shape,
            args.device,
            args.dtype,
            args.context,
            args.steps,
            args.prompts,
            args.batch,
            args.backend,
            args.compare_transformers,
            streams,
        )
    result.left_out.update(missing)
    console.print(_card(result), markup=False)
    for table in (_programs(result), _prompts(result), _generation(result)):
        if table.row_count:
            console.print(table)
    for name, why in result.left_out.items():
        console.print(f"left out: {name} ({why})", markup=False)
    print(json.dumps(result.to_dict()))
    return tell_failed(result.failed, console)


def _streams() -> "tuple[dict[str, Stream], dict[str, str]]":
    """What reads answers as an application of LangChain does, and why it cannot."""
    name = "streamed to a LangChain callback"
    try:
        from langchain_layerroute.benchmark import stream
    except ImportError as error:
        return {}, {name: str(error)}
    return {name: stream}, {}


def _agent_turn(args: argparse.Namespace, console: PlainConsole) -> int:
    from langchain_layerroute.benchmark import time_agent_turns

    with console.status("timing"):
        found = time_agent_turns(args.model, args.shape, args.device, args.dtype)
    if args.shape:
        console.print(
            "random weights: the call is forced, its arguments are noise, the program is fixed; without fast-forward "
            "the same form is spelled in other tokens"
        )
    table = _table(
        "router", "fast-forward", "turn, ms", "prefill", "decode", "prompt", "generated", "forced", "skipped"
    )
    for turn in found.turns:
        skipped = turn.visits_skipped / (turn.visits_skipped + turn.visits_executed)
        table.add_row(
            turn.router.partition(":")[0],
            "on" if turn.fast_forward else "off",
            f"{turn.turn_ms:.1f}",
            f"{turn.prefill_ms:.1f}",
            f"{turn.decode_ms:.1f}",
            str(turn.prompt_tokens),
            str(turn.generated_tokens),
            str(turn.fast_forwarded_tokens),
            f"{skipped:.0%}",
        )
    if table.row_count:
        console.print(table)
    print(json.dumps(found.to_dict()))
    return tell_failed(found.failed, console)


def _runs(steps: int) -> str:
    return "steps, token read back each step" if steps == 1 else f"runs of {steps} steps, token read back each run"


def _card(result: "Benchmark") -> str:
    lines = [
        f"{result.model} on {result.device}, {result.dtype}, {result.threads} CPU threads, "
        f"torch {result.torch_version}",
        f"backend {result.backend} ({result.backend_reason}); context {result.context}, "
        f"median of {result.steps} {_runs(result.steps_at_once)}",
        *([f"several rows: {result.batch_reason}"] if result.batch_reason else []),
        f"a block costs {_number(result.saved_per_block_us, '.1f')} us (line through all programs, "
        f"R² {_number(result.r_squared, '.4f')}); "
        f"a skipped one saves at least {_number(result.linearity, '.0%')} of an even share",
        f"a plain copy moves {_number(result.copy_gigabytes_per_second, '.0f')} GB/s, read and written; "
        f"a large matrix product runs at {_number(result.matrix_teraflops_per_second, '.3g')} TFLOP/s",
        *(
            f"{entry.blocks} blocks through the whole engine, {entry.mode}: {entry.us_per_token:.0f} us per token, "
            f"bare steps {entry.bare_us_per_token:.0f} us, ratio {entry.ratio:.3f}"
            for entry in result.engine
        ),
    ]
    return "\n".join(lines)


def _programs(result: "Benchmark") -> Table:
    columns = ("rows", "blocks", "us per token", "10 % to 90 %", "tokens/s", "GB/s", "of a copy", "us saved a block")
    table = _table(*columns)
    for entry in (*result.programs, *result.batches):
        saved = entry.saved_per_skipped_block_us
        table.add_row(
            str(entry.batch),
            str(entry.blocks),
            f"{entry.us_per_token:.0f}",
            f"{entry.us_p10:.0f} to {entry.us_p90:.0f}",
            f"{entry.tokens_per_second:.0f}",
            f"{entry.gigabytes_per_second:.0f}",
            _number(entry.copy_share, ".0%"),
            "" if saved is None else f"{saved:.1f} ({entry.saved_share:.0%})",
        )
    return table


def _prompts(result: "Benchmark") -> Table:
    table = _table("prompt", "cached", "prefill, ms", "of the matrix rate", "first token, ms")
    for entry in (*result.prompts, *filter(None, [result.next_turn])):
        table.add_row(
            str(entry.new_tokens),
            str(entry.cached_tokens),
            f"{entry.prefill_ms:.2f}",
            _number(entry.matrix_share, ".0%"),
            f"{entry.first_token_ms:.2f}",
        )
    return table


def _generation(result: "Benchmark") -> Table:
    several = " and ".join({f"{entry.tokens} tokens, ms": None for entry in result.generation})
    table = _table("full depth, greedy", "1 token, ms", several, "us per token", "streamed", "equal")
    table.columns[0].justify = "left"
    for entry in result.generation:
        table.add_row(
            entry.name,
            f"{entry.one_token_ms:.1f}",
            f"{entry.all_tokens_ms:.1f}",
            f"{entry.us_per_token:.0f}",
            f"{entry.us_per_token_streamed:.0f}",
            f"{entry.equal_leading_tokens} of {entry.tokens}",
        )
    return table


def _number(value: float | None, form: str) -> str:
    """A number as text; of one that could not be measured a question mark."""
    return "?" if value is None else format(value, form)


def _table(*columns: str) -> Table:
    table = Table(*columns)
    for column in table.columns:
        column.justify = "right"
    return table
