"""Passes over pieces of a prompt as CUDA graphs: torch's matrix products, and Triton for what lies between them.

A graph holds one program and one bucket of tokens; the position, the number of real tokens and the cache are data on
the device, so it serves every conversation and every length of history. Graphs share one memory pool, and what they
give back lies in buffers of its own.

Shape suffixes: T tokens (padded to a bucket), D hidden size, N visits, I intermediate size.
"""

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from layerroute.backbone import triton_step
from layerroute.backbone.capture import capture
from layerroute.backbone.config import BackboneConfig
from layerroute.backbone.kv_cache import KVCache, Visit
from layerroute.backbone.model import Backbone
from layerroute.backbone.prompt import States
from layerroute.backbone.triton_tiling import power_of_two

BUCKETS = (16, 32, 64, 128, 256, 512, 1024, 2048)
MAX_GRAPHS = 32
_ENTRIES = 1024


def why_not(config: BackboneConfig, dtype: torch.dtype, device: torch.device) -> str | None:
    """Why these passes cannot serve a model on a device, or None if they can."""
    if dtype not in (torch.bfloat16, torch.float16):
        return f"weights are {dtype}, and the attention kernel takes 16-bit types"
    return triton_step.why_not(config, dtype, device)


class TritonPrompt:
    """Captures a graph when a program, a bucket of tokens and a kind of states are first met, and replays it."""

    name = "triton"

    def __init__(self, backbone: Backbone, chunk: int = BUCKETS[-1]) -> None:
        from layerroute.backbone import triton_prompt_kernels

        self._kernels, self._backbone = triton_prompt_kernels, backbone
        c, device, dtype = backbone.config, backbone.device, backbone.dtype
        self._is_cuda = device.type == "cuda"
        self._on_device = torch.cuda.device(device) if self._is_cuda else nullcontext()
        self._pool = torch.cuda.graph_pool_handle() if self._is_cuda else None
        self.chunk = chunk
        self._buckets = (*(bucket for bucket in BUCKETS if bucket < chunk), chunk)
        self._rope_PH = triton_step.rope_table(c).to(device)
        self._state = torch.zeros(8, dtype=torch.int64, device=device)
        self._ids_T = torch.zeros(chunk, dtype=torch.int64, device=device)
        self._arange_T = torch.arange(chunk, device=device)
        self._last_1D = torch.zeros(1, c.hidden_size, dtype=dtype, device=device)
        self._states = torch.zeros(c.num_blocks, c.hidden_size, dtype=torch.float32, device=device)
        self._programs: OrderedDict[tuple[Visit, ...], Tensor] = OrderedDict()
        self._graphs: OrderedDict[tuple[tuple[Visit, ...], int, States], torch.cuda.CUDAGraph] = OrderedDict()
        where = torch.cuda.get_device_name(device) if self._is_cuda else "Triton's interpreter"
        self.reason = f"captured prompt passes on {where}"

    def run(
        self, ids: Sequence[int], start: int, visits: tuple[Visit, ...], cache: KVCache, states: States
    ) -> tuple[Tensor, Tensor]:
        """Run up to `chunk` tokens at positions `start..`."""
        bucket = next(bucket for bucket in self._buckets if bucket >= len(ids))
        keys, values = cache.keys_SKTH.data_ptr(), cache.values_SKTH.data_ptr()
        if states != "none" and len(visits) > len(self._states):
            self._states = self._states.new_zeros(len(visits), self._states.shape[1])
            self._graphs.clear()  # they write to the old ones
            self._pool = torch.cuda.graph_pool_handle() if self._is_cuda else None
        with self._on_device:
            self._state.copy_(torch.tensor([start, len(ids), keys, values, cache.capacity, 0, 0, 0]), non_blocking=True)
            self._ids_T[: len(ids)].copy_(torch.tensor(ids), non_blocking=True)
            if self._is_cuda:
                self._captured(visits, bucket, states).replay()
            else:
                self._pass(visits, self._program(visits), bucket, states)
        for visit in visits:
            self._backbone.executed_L[visit.block] += len(ids)
        return self._last_1D, self._states[: len(visits) if states != "none" else 0]

    def _program(self, visits: tuple[Visit, ...]) -> Tensor:
        rows = [(v.block, v.slot) for v in visits]
        return torch.tensor(rows, dtype=torch.int64, device=self._backbone.device).view(-1, 2)

    def _captured(self, visits: tuple[Visit, ...], bucket: int, states: States) -> torch.cuda.CUDAGraph:
        key = (visits, bucket, states)
        graph = self._graphs.pop(key, None)
        if graph is None:
            program = self._programs.setdefault(visits, self._program(visits))
            # The pass before the recording writes the KV that the replay will write.
            graph = capture(partial(self._pass, visits, program, bucket, states), self._pool)
        self._graphs[key] = graph
        if len(self._graphs) > MAX_GRAPHS:
            self._graphs.popitem(last=False)
            kept = {held for held, _, _ in self._graphs}
            for held in [held for held in self._programs if held not in kept]:
                del self._programs[held]
        return graph

    def _pass(self, visits: tuple[Visit, ...], program: Tensor, T: int, states: States) -> None:
        k, c, w = self._kernels, self._backbone.config, self._backbone.weights
        D, I, heads = c.hidden_size, c.intermediate_size, c.num_heads * c.head_dim  # noqa: E741 - the shape letters
        shape = {"Q": c.num_heads, "KV": c.num_kv_heads, "H": c.head_dim}
        rows, columns, warps = (64, 64, 4) if T <= 1024 else (128, 64, 8)
        count = self._state[1]
        is_real_T1 = (self._arange_T[:T] < count)[:, None]
        hidden_TD = F.embedding(self._ids_T[:T], w.embed_VD)
        query, attended = hidden_TD.new_zeros(T, heads), hidden_TD.new_zeros(T, heads)
        active_TI = hidden_TD.new_empty(T, I)
        for index, visit in enumerate(visits):
            i = visit.block
            if states == "sum":
                self._states[index] = torch.where(is_real_T1, hidden_TD, 0).sum(0, dtype=torch.float32)
            elif states == "last":
                self._states[index] = hidden_TD.index_select(0, count[None] - 1)[0].float()
            x_TD = F.rms_norm(hidden_TD, (D,), w.attn_norm_LD[i], c.rms_eps)
            qkv = F.linear(x_TD, w.qkv_LED[i], w.qkv_bias_LE[i])
            k.prompt_rope_kernel[(T,)](
                query, qkv, self._rope_PH, program[index], self._state,
                HEADS=power_of_two(c.num_heads + 2 * c.num_kv_heads), num_warps=4, **shape,
            )  # fmt: skip
            k.prompt_attention_kernel[(-(-T // rows), c.num_heads)](
                attended, query, program[index], self._state,
                BM=rows, BN=columns, num_warps=warps, num_stages=3, **shape,
            )  # fmt: skip
            hidden_TD = torch.addmm(hidden_TD, attended, w.o_LDH[i].t())
            x_TD = F.rms_norm(hidden_TD, (D,), w.mlp_norm_LD[i], c.rms_eps)
            gate_up = F.linear(x_TD, w.gate_up_LFD[i])
            k.prompt_silu_kernel[(T, -(-I // _ENTRIES))](active_TI, gate_up, I=I, BI=_ENTRIES, num_warps=4)
            hidden_TD = torch.addmm(hidden_TD, active_TI, w.down_LDI[i].t())
        self._last_1D.copy_(hidden_TD.index_select(0, count[None] - 1))
