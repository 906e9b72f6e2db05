"""Time decode steps over programs of growing length; the last line of stdout is one JSON document."""

import argparse
import json
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:  # torch loads only when something is timed
    from layerroute.benchmark import DecodeBenchmark

HELP = "time decode steps by number of blocks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--model", default="embedded", help='"embedded", a checkpoint folder or a hub id')
    source.add_argument("--shape", help="time a shape with random weights, such as Qwen2.5-0.5B")
    parser.add_argument("--device", default="auto", help='"auto", "cpu", "cuda" or "cuda:N"')
    parser.add_argument("--dtype", default="auto", help='"auto", "float32", "bfloat16" or "float16"')
    parser.add_argument("--context", type=int, default=512, help="cached tokens before the step")
    parser.add_argument("--steps", type=int, default=200, help="timed steps per program")
    parser.add_argument("--backend", default="auto", help='"auto", "triton", "graph" or "eager"')
    parser.add_argument("--json", action="store_true", help="print the JSON document alone")


def run(args: argparse.Namespace) -> int:
    """Measure, show a table on stderr, and print the document."""
    from layerroute import benchmark

    console = Console(stderr=True, quiet=args.json)
    with console.status("timing decode steps"):
        result = benchmark.run(args.model, args.shape, args.device, args.dtype, args.context, args.steps, args.backend)
    console.print(_card(result))
    console.print(_table(result))
    print(json.dumps(result.to_dict()))
    return 0


def _card(result: "DecodeBenchmark") -> str:
    return (
        f"{result.model} on {result.device}, {result.dtype}, {result.threads} CPU threads, "
        f"torch {result.torch_version}\n"
        f"backend {result.backend} ({result.backend_reason}); batch 1, context {result.context}, "
        f"median of {result.steps} steps, token read back each step\n"
        f"a block costs {result.saved_per_block_us:.1f} us (line through all programs, R² {result.r_squared:.4f}); "
        f"half the blocks save {result.linearity:.0%} of half the time"
    )


def _table(result: "DecodeBenchmark") -> Table:
    table = Table("blocks", "us per token", "10 % to 90 %", "tokens/s", "GB/s")
    for column in table.columns:
        column.justify = "right"
    for entry in result.programs:
        table.add_row(
            str(entry.num_visits),
            f"{entry.us_per_token:.0f}",
            f"{entry.us_p10:.0f} to {entry.us_p90:.0f}",
            f"{entry.tokens_per_second:.0f}",
            f"{entry.gigabytes_per_second:.0f}",
        )
    return table
