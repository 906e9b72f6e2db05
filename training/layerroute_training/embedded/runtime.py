"""Which device, number type and attention a run computes with: the fastest that agrees with the plain one.

The choice is made at the start on made-up rows of the real shape, and its reason is printed: a feature that the machine
lacks costs speed and never the run.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from layerroute_training.embedded.network import Mask, Network, Weights, dense_mask, flex_mask, rope_tables

TOLERANCE = 0.3  # relative difference of bf16 gradients: about 0.02 from rounding, about 1 for a wrong mask


@dataclass(frozen=True)
class Runtime:
    """How forward passes are computed."""

    device: torch.device
    dtype: torch.dtype
    make_mask: Callable[[Tensor], Mask]
    row_tokens: int
    rows: int

    def states(
        self, network: Network, weights: Weights, tokens_BT: Tensor, start_BT: Tensor, run_LBT1: Tensor
    ) -> Tensor:
        """Final states of packed rows, whose tokens take the blocks that `run_LBT1` says."""
        position_BT = torch.arange(tokens_BT.shape[1], device=self.device) - start_BT
        rope = rope_tables(network.shape, position_BT, self.dtype)
        states: Tensor = network(weights, tokens_BT, self.make_mask(start_BT), rope, run_LBT1)
        return states

    def full_depth(self, network: Network, start_BT: Tensor) -> Tensor:
        """Run flags [L, B, T, 1] with which every token takes every block."""
        run_BT1 = torch.ones(*start_BT.shape, 1, device=self.device, dtype=self.dtype)
        return run_BT1.expand(network.shape.num_blocks, *run_BT1.shape)


class Journal:
    """Prints events and appends them to a JSONL file."""

    def __init__(self, path: Path) -> None:
        """Append to `path`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._started = monotonic()

    def write(self, event: str, values: Mapping[str, Any]) -> None:
        """Record one event; numbers are rounded to five digits."""
        record = {"event": event, "seconds": round(monotonic() - self._started, 1), **_rounded(values)}
        line = json.dumps(record, ensure_ascii=False)
        print(line, flush=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def choose_runtime(network: Network, rows: int, row_tokens: int, journal: Journal) -> Runtime:
    """Move the network to the best device and settle how it computes.

    On CUDA, in this order: compiled flex attention, compiled SDPA under a dense mask, SDPA without compilation. The
    last two take rows of at most 2,048 tokens (the same tokens per batch): a dense mask costs the square of the row.
    """
    if not torch.cuda.is_available():
        journal.write("runtime", {"device": "cpu", "attention": "sdpa", "reason": "no CUDA device"})
        return Runtime(torch.device("cpu"), torch.float32, dense_mask, row_tokens, rows)
    torch.set_float32_matmul_precision("high")
    torch._dynamo.config.recompile_limit = 64  # with and without gradients
    device = torch.device("cuda")
    network.to(device)
    short = min(row_tokens, 2_048)
    flex = Runtime(device, torch.bfloat16, flex_mask, row_tokens, rows)
    dense = Runtime(device, torch.bfloat16, dense_mask, short, rows * row_tokens // short)
    return first_that_agrees(network, {"flex": flex, "sdpa": dense}, journal) or dense


def first_that_agrees(network: Network, candidates: Mapping[str, Runtime], journal: Journal) -> Runtime | None:
    """Compile the network and return the first runtime whose gradients are the plain ones; else None, uncompiled."""
    rejected = []
    for name, runtime in candidates.items():
        plain = replace(runtime, make_mask=dense_mask, rows=2)
        started = monotonic()
        try:
            network.interpret()
            expected = _gradients(network, plain, runtime.rows)
            network.compile()
            found = _gradients(network, runtime, runtime.rows)
            worst = max(_difference(a, b) for a, b in zip(found, expected, strict=True))
            if not worst < TOLERANCE:
                raise ArithmeticError(f"gradients differ by {worst:.3f}")
        except Exception as error:  # whatever this machine cannot do, the next way can
            rejected.append(f"{name}: {type(error).__name__}: {str(error)[:300]}")
            continue
        result = {"attention": name, "compiled": True, "gradient_difference": worst, "rejected": rejected}
        seconds = monotonic() - started
        journal.write("runtime", {"device": _device_name(runtime.device), **result, "check_seconds": seconds})
        return runtime
    network.interpret()
    journal.write("runtime", {"attention": "sdpa", "compiled": False, "rejected": rejected})
    return None


def _device_name(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return f"{name}, torch {torch.__version__}"


def _gradients(network: Network, runtime: Runtime, drawn_rows: int) -> list[Tensor]:
    """Gradients of a loss over the first two of `drawn_rows` made-up rows, which no other row may change."""
    generator = torch.Generator().manual_seed(0)
    shape = (drawn_rows, runtime.row_tokens)
    tokens = torch.randint(network.shape.vocab_size, shape, generator=generator)
    cuts = torch.randint(runtime.row_tokens, (drawn_rows, 6), generator=generator).sort(-1).values
    index = torch.arange(runtime.row_tokens).expand(shape).contiguous()
    before = torch.searchsorted(cuts, index, right=True)
    start = torch.cat([torch.zeros(drawn_rows, 1, dtype=torch.int64), cuts], dim=1).gather(1, before)
    tokens, start = (x[: runtime.rows].to(runtime.device) for x in (tokens, start))
    weights = _with_sharp_attention(network.weights(runtime.dtype), network.v_weight_LKD.shape[1], generator)
    states = runtime.states(network, weights, tokens, start, runtime.full_depth(network, start))
    loss = network.nll(weights, states, tokens.roll(-1, 1))[:2].mean()
    watched = [network.q_weight_LQD, network.v_weight_LKD, network.down_weight_LDF, network.embed_VD]
    return [gradient.float() for gradient in torch.autograd.grad(loss, watched)]


def _with_sharp_attention(weights: Weights, value_features: int, generator: torch.Generator) -> Weights:
    """Weights with noise on queries and keys.

    At fresh weights attention is nearly uniform, and the gradients of queries and keys are rounding noise.
    """
    blocks = []
    for block in weights.blocks:
        noise = 0.05 * torch.randn(block.qkv_weight.shape, generator=generator)
        noise[-value_features:] = 0.0  # the joined projections are queries, keys, values
        blocks.append(block._replace(qkv_weight=block.qkv_weight + noise.to(block.qkv_weight)))
    return weights._replace(blocks=blocks)


def _difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / (expected.norm() + 1e-12))


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value
