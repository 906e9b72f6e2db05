"""Decode steps of several rows as fused Triton kernels in CUDA graphs.

One captured graph serves every program of its length over any rows: there is one for each number of visits and each
bucket of rows. What it needs of the device beyond the weights stays in place, so the graphs share one small pool.
"""

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from layerroute.backbone import triton_step
from layerroute.backbone.batch import MAX_ROWS, Row, check_rows
from layerroute.backbone.capture import capture
from layerroute.backbone.config import BackboneConfig
from layerroute.backbone.kv_cache import Visit
from layerroute.backbone.model import Backbone
from layerroute.backbone.triton_tiling import MULTIPROCESSORS, BatchTiling, choose_batch_tiling, power_of_two

BUCKETS = (1, 2, 4, 8, 16, 32)
MAX_GRAPHS = 64


def why_not(config: BackboneConfig, dtype: torch.dtype, device: torch.device) -> str | None:
    """Why these kernels cannot serve a model on a device, or None if they can."""
    if dtype != torch.bfloat16:
        # float16 cannot hold the residual stream before its norm; float32 has no tensor cores.
        return f"weights are {dtype}, and the kernels for several rows take bfloat16"
    return triton_step.why_not(config, dtype, device)


@dataclass(slots=True)
class _Captured:
    program: Tensor
    graph: torch.cuda.CUDAGraph | None = None  # without CUDA the kernels are launched one by one
    visits: tuple[Visit, ...] | None = None  # what `program` holds


class BatchKernels:
    """Launches the kernels of one step over buffers that stay in place.

    Attributes:
        state: int64 [MAX_ROWS, 8], the fields that `triton_batch_kernels` names.
        logits_BV: float32, written by `run`.
        idle: the state of a padding row.
    """

    def __init__(self, backbone: Backbone, tiling: BatchTiling, pdl: bool) -> None:
        from layerroute.backbone import triton_batch_kernels, triton_kernels

        self._kernels, self._attention = triton_batch_kernels, triton_kernels.attention_kernel
        self._weights, self._config, self._tiling = backbone.weights, backbone.config, tiling
        self._pdl, self._launch = pdl, {"launch_pdl": True} if pdl else {}
        c, w, device, dtype = backbone.config, backbone.weights, backbone.device, backbone.dtype
        heads = c.num_heads * c.head_dim
        self._gains = torch.cat([torch.stack([w.attn_norm_LD, w.mlp_norm_LD]), w.final_norm_D.expand(2, 1, -1)], dim=1)
        self._output_parts = c.num_heads // tiling.output_heads
        self._down_length = tiling.down_length(c.intermediate_size)
        self._down_parts = -(-c.intermediate_size // self._down_length)

        def zeros(*shape: int, like: torch.dtype = dtype) -> Tensor:
            return torch.zeros(shape, dtype=like, device=device)

        scratch = zeros(2, c.head_dim)
        self._scratch = scratch  # where padding rows put their keys and values: capacity 0 leaves one position
        self.idle = [0, 0, scratch[0].data_ptr(), scratch[1].data_ptr(), 0, 0, 0, 0]
        self.state = torch.tensor([self.idle] * MAX_ROWS, device=device)
        self.logits_BV = zeros(MAX_ROWS, c.vocab_size, like=torch.float32)
        self._hidden_BD = zeros(MAX_ROWS, c.hidden_size, like=torch.float32)
        self._x_BD = zeros(MAX_ROWS, c.hidden_size)
        self._query = zeros(MAX_ROWS, heads)
        self._partial = zeros(MAX_ROWS, tiling.attention.splits, heads)
        self._lse = zeros(MAX_ROWS, c.num_heads, tiling.attention.splits, like=torch.float32)
        self._active_BI = zeros(MAX_ROWS, c.intermediate_size)
        parts = max(self._output_parts, self._down_parts)
        self._parts = zeros(parts, MAX_ROWS, c.hidden_size, like=torch.float32)
        self._rope_PH = triton_step.rope_table(c).to(device)

    def run(self, program: Tensor, rows: int) -> None:
        """Launch one step of `rows` rows over a program [visits + 1, 2] of blocks and slots; its last block is L."""
        k, c, w, t, pdl = self._kernels, self._config, self._weights, self._tiling, self._pdl
        D, B = c.hidden_size, 16 if rows <= 16 else MAX_ROWS
        k.batch_embed_kernel[(rows,)](
            self._x_BD, self._hidden_BD, w.embed_VD, self._gains[0], program, self.state,
            EPS=c.rms_eps, D=D, DP=power_of_two(D), PDL=pdl, num_warps=4,
        )  # fmt: skip
        for visit, following in pairwise(program):
            self._visit(visit, following, rows, B)
        k.batch_lm_head_kernel[(-(-c.vocab_size // t.lm_head.rows),)](
            self.logits_BV, self._x_BD, w.lm_head_VD,
            ROWS=rows, D=D, V=c.vocab_size, B=B, PDL=pdl, **t.lm_head.sizes, **self._launch,
        )  # fmt: skip

    def _visit(self, visit: Tensor, following: Tensor, rows: int, B: int) -> None:
        k, c, w, t = self._kernels, self._config, self._weights, self._tiling
        D, I = c.hidden_size, c.intermediate_size  # noqa: E741 - the shape letters of the kernels
        heads, launch = {"Q": c.num_heads, "H": c.head_dim}, {"PDL": self._pdl, **self._launch}
        common = {"D": D, "B": B, **launch}
        attention_gains, mlp_gains = self._gains
        tiles = -(-D // t.down.rows)

        def add(parts: int, gains: Tensor, gain_of: Tensor) -> None:
            k.batch_add_kernel[(rows,)](
                self._x_BD, self._hidden_BD, self._parts, gains, gain_of,
                EPS=c.rms_eps, DP=power_of_two(D), PARTS=parts, num_warps=4, **common,
            )  # fmt: skip

        k.batch_qkv_kernel[(c.qkv_size // t.qkv.rows,)](
            self._query, self._x_BD, w.qkv_LED, w.qkv_bias_LE, self._rope_PH, visit, self.state,
            KV=c.num_kv_heads, **heads, **t.qkv.sizes, **common,
        )  # fmt: skip
        self._attention[(c.num_kv_heads, t.attention.splits, rows)](
            self._partial, self._lse, self._query, visit, self.state,
            KV=c.num_kv_heads, GP=max(16, power_of_two(c.num_heads // c.num_kv_heads)),
            **t.attention.sizes, **heads, **launch,
        )  # fmt: skip
        k.batch_output_kernel[(-(-D // t.output.rows), self._output_parts)](
            self._parts, self._partial, self._lse, w.o_LDH, visit,
            S=t.attention.splits, N=t.output.rows, HEADS=t.output_heads, num_warps=t.output.warps, **heads, **common,
        )  # fmt: skip
        add(self._output_parts, mlp_gains, visit)
        k.batch_gate_up_kernel[(-(-2 * I // t.gate_up.rows),)](
            self._active_BI, self._x_BD, w.gate_up_LFD, visit, I=I, **t.gate_up.sizes, **common
        )
        k.batch_down_kernel[(tiles, self._down_parts)](
            self._parts, self._active_BI, w.down_LDI, visit, I=I, LENGTH=self._down_length, **t.down.sizes, **common
        )
        add(self._down_parts, attention_gains, following)


def _row_state(row: Row) -> list[int]:
    cache = row.cache
    return [row.position, row.token, cache.keys_SKTH.data_ptr(), cache.values_SKTH.data_ptr(), cache.capacity, 0, 0, 0]


class TritonBatchStepper:
    """Captures a graph when a program length and a bucket of rows are first met, and replays it afterwards.

    Args:
        tiling: launch shapes; chosen for the model's shape if not given.
        pdl: whether to use programmatic dependent launch; where it is supported if not given.
    """

    name = "triton batch"
    shares_weights = True

    def __init__(self, backbone: Backbone, tiling: BatchTiling | None = None, pdl: bool | None = None) -> None:
        self._backbone = backbone
        device, is_cuda = backbone.device, backbone.device.type == "cuda"
        pdl = triton_step.pdl_supported(device) if pdl is None else pdl
        count = torch.cuda.get_device_properties(device).multi_processor_count if is_cuda else MULTIPROCESSORS
        self._kernels = BatchKernels(backbone, tiling or choose_batch_tiling(backbone.config, count), pdl)
        self._on_device = torch.cuda.device(device) if is_cuda else nullcontext()
        self._graphs: OrderedDict[tuple[int, int], _Captured] = OrderedDict()
        self._pool = torch.cuda.graph_pool_handle() if is_cuda else None
        where = torch.cuda.get_device_name(device) if is_cuda else "Triton's interpreter"
        self.reason = f"fused kernels on {where}, {'with' if pdl else 'without'} programmatic dependent launch"

    def step(self, rows: Sequence[Row], visits: tuple[Visit, ...]) -> Tensor:
        """Feed one token of every row.

        Returns:
            Float32 logits [B, V], valid until the next step.

        Raises:
            RequestError: no rows, too many, or two over one cache.
        """
        check_rows(rows)
        bucket = next(bucket for bucket in BUCKETS if bucket >= len(rows))
        idle = [self._kernels.idle] * (MAX_ROWS - len(rows))
        state = torch.tensor([*map(_row_state, rows), *idle])
        with self._on_device:
            self._kernels.state.copy_(state, non_blocking=True)
            captured = self._captured(visits, bucket)
            if captured.graph is None:
                self._kernels.run(captured.program, bucket)
            else:
                captured.graph.replay()
        for visit in visits:
            self._backbone.executed_L[visit.block] += len(rows)
        return self._kernels.logits_BV[: len(rows)]

    def _captured(self, visits: tuple[Visit, ...], bucket: int) -> _Captured:
        key = (len(visits), bucket)
        captured = self._graphs.pop(key, None)
        is_new = captured is None
        if captured is None:
            captured = _Captured(torch.zeros(len(visits) + 1, 2, dtype=torch.int64, device=self._backbone.device))
        self._graphs[key] = captured
        if len(self._graphs) > MAX_GRAPHS:
            self._graphs.popitem(last=False)
        if captured.visits != visits:
            program = [(v.block, v.slot) for v in visits] + [(self._backbone.config.num_blocks, 0)]
            captured.program.copy_(torch.tensor(program), non_blocking=True)
            captured.visits = visits
        if is_new and self._backbone.device.type == "cuda":
            # The launch before the recording writes the KV that the first replay will write.
            captured.graph = capture(partial(self._kernels.run, captured.program, bucket), self._pool)
        return captured
