"""Decode steps as fused Triton kernels in CUDA graphs (the `triton` backend).

The layer program, the token, its position and the KV cache are data on the device, so one captured graph serves every
program of its length, in any order, with repeats, over any cache: a router that changes its mind costs an upload of a
few bytes. Graphs differ only in the number of visits and in how finely attention splits the positions.
"""

import importlib.util
from collections import OrderedDict
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from layerroute.backbone.capture import capture
from layerroute.backbone.config import BackboneConfig
from layerroute.backbone.kv_cache import Visit
from layerroute.backbone.model import Backbone
from layerroute.backbone.stepper import MAX_TOKENS, DeviceStepper
from layerroute.backbone.triton_tiling import MULTIPROCESSORS, AttentionTile, Tiling, choose_tiling, power_of_two

MAX_GRAPHS = 64


def why_not(config: BackboneConfig, dtype: torch.dtype, device: torch.device) -> str | None:
    """Why this backend cannot serve a model on a device, or None if it can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if device.type != "cuda":
        return f"the device is {device.type}, not a CUDA GPU"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "the GPU is older than compute capability 8.0"
    if dtype not in (torch.bfloat16, torch.float16, torch.float32):
        return f"weights are {dtype}"
    if config.head_dim not in (16, 32, 64, 128, 256):
        return f"head_dim {config.head_dim} is not a power of two from 16 to 256"
    if max(config.hidden_size, config.num_heads * config.head_dim) > 8192:
        return "rows of the matrices are longer than 8192"
    return None


def pdl_supported(device: torch.device) -> bool:
    """Whether the GPU and this Triton have programmatic dependent launch."""
    import triton

    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0) and version >= (3, 4)


class StepKernels:
    """Launches the kernels of one decode step over buffers that stay in place.

    Attributes:
        state: int64 [8 + MAX_TOKENS], the fields that `triton_kernels` names.
        logits_V: float32, written by `run`.
    """

    def __init__(self, backbone: Backbone, tiling: Tiling, pdl: bool) -> None:
        from layerroute.backbone import triton_kernels

        self._kernels = triton_kernels
        self._weights, self._config, self._tiling = backbone.weights, backbone.config, tiling
        c, device = backbone.config, backbone.device
        self._pdl = pdl
        self._launch = {"launch_pdl": True} if pdl else {}
        most_splits = max(tile.splits for tile in tiling.attention.values())
        self.state = torch.zeros(8 + MAX_TOKENS, dtype=torch.int64, device=device)
        self.logits_V = torch.zeros(c.vocab_size, dtype=torch.float32, device=device)
        self._hidden_D = torch.zeros(c.hidden_size, dtype=torch.float32, device=device)
        self._query = torch.zeros(c.num_heads * c.head_dim, dtype=backbone.dtype, device=device)
        self._partial = torch.zeros(most_splits, c.num_heads, c.head_dim, dtype=backbone.dtype, device=device)
        self._lse = torch.zeros(most_splits, c.num_heads, dtype=torch.float32, device=device)
        self._active_I = torch.zeros(c.intermediate_size, dtype=backbone.dtype, device=device)
        self._rope_PH = rope_table(c).to(device)

    def run(self, program: Tensor, attention: AttentionTile) -> None:
        """Launch one step over a program [visits, 2] of blocks and slots."""
        k, c, w, t = self._kernels, self._config, self._weights, self._tiling
        D, pdl = c.hidden_size, self._pdl
        padded = power_of_two(D)
        k.embed_kernel[(1,)](self._hidden_D, w.embed_VD, self.state, D, padded, pdl, num_warps=4)
        for visit in program:
            self._visit(visit, attention)
        k.lm_head_kernel[(t.lm_head_programs,)](
            self.logits_V, self._hidden_D, w.final_norm_D, w.lm_head_VD, self.state,
            EPS=c.rms_eps, D=D, V=c.vocab_size,
            PROGRAMS=t.lm_head_programs, PDL=pdl, num_warps=t.lm_head.warps, **t.lm_head.sizes, **self._launch,
        )  # fmt: skip

    def _visit(self, visit: Tensor, attention: AttentionTile) -> None:
        k, c, w, t, pdl = self._kernels, self._config, self._weights, self._tiling, self._pdl
        D, I = c.hidden_size, c.intermediate_size  # noqa: E741 - the shape letters of the kernels
        heads = {"Q": c.num_heads, "H": c.head_dim}
        k.qkv_kernel[(c.qkv_size // 2 // t.qkv.rows,)](
            self._query, self._hidden_D, w.attn_norm_LD, w.qkv_LED, w.qkv_bias_LE, self._rope_PH, visit, self.state,
            EPS=c.rms_eps, D=D, KV=c.num_kv_heads, PDL=pdl,
            num_warps=t.qkv.warps, **heads, **t.qkv.sizes, **self._launch,
        )  # fmt: skip
        k.attention_kernel[(c.num_kv_heads, attention.splits)](
            self._partial, self._lse, self._query, visit, self.state,
            KV=c.num_kv_heads, GP=max(16, power_of_two(c.num_heads // c.num_kv_heads)), PDL=pdl,
            **attention.sizes, **heads, **self._launch,
        )  # fmt: skip
        k.output_kernel[(-(-D // t.output.rows),)](
            self._hidden_D, self._partial, self._lse, w.o_LDH, visit,
            D=D, QP=power_of_two(c.num_heads), S=attention.splits, SB=min(8, attention.splits), R=t.output.rows,
            PDL=pdl, num_warps=t.output.warps, **heads, **self._launch,
        )  # fmt: skip
        k.gate_up_kernel[(t.gate_up_programs,)](
            self._active_I, self._hidden_D, w.mlp_norm_LD, w.gate_up_LFD, visit,
            EPS=c.rms_eps, D=D, I=I, PROGRAMS=t.gate_up_programs, PDL=pdl,
            num_warps=t.gate_up.warps, **t.gate_up.sizes, **self._launch,
        )  # fmt: skip
        k.down_kernel[(-(-D // t.down.rows),)](
            self._hidden_D, self._active_I, w.down_LDI, visit,
            D=D, I=I, PDL=pdl, num_warps=t.down.warps, **t.down.sizes, **self._launch,
        )  # fmt: skip


def rope_table(config: BackboneConfig) -> Tensor:
    """Cosine, then sine, of every position's angles: [P, H] in float32."""
    exponent = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    positions = torch.arange(config.max_positions, dtype=torch.float32)
    angles = torch.outer(positions, 1.0 / config.rope_theta**exponent)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


@dataclass(slots=True)
class _Captured:
    program: Tensor
    graph: torch.cuda.CUDAGraph | None = None  # without CUDA the kernels are launched one by one
    visits: tuple[Visit, ...] | None = None  # what `program` holds


class TritonStepper(DeviceStepper):
    """Captures a graph when a program length and a range of positions are first met, and replays it afterwards.

    Args:
        tiling: launch shapes; chosen for the model's shape if not given.
        pdl: whether to use programmatic dependent launch; where it is supported if not given.

    Attributes:
        kernels: what it launches, and the state and logits on the device.
        on_device: makes the backbone's device the current one.
        pdl: whether kernels use programmatic dependent launch.
        pool: what graphs allocate from, or None without CUDA.
    """

    name = "triton"
    kernels: StepKernels

    def __init__(self, backbone: Backbone, tiling: Tiling | None = None, pdl: bool | None = None) -> None:
        self._backbone = backbone
        device, is_cuda = backbone.device, backbone.device.type == "cuda"
        self.pdl = pdl = pdl_supported(device) if pdl is None else pdl
        count = torch.cuda.get_device_properties(device).multi_processor_count if is_cuda else MULTIPROCESSORS
        self._tiling = tiling or choose_tiling(backbone.config, count, backbone.dtype.itemsize)
        self.kernels = StepKernels(backbone, self._tiling, pdl)
        # Triton launches on the thread's current device, whatever device the tensors are on.
        self.on_device: AbstractContextManager[object] = torch.cuda.device(device) if is_cuda else nullcontext()
        self._graphs: OrderedDict[tuple[int, AttentionTile], _Captured] = OrderedDict()
        self.pool = torch.cuda.graph_pool_handle() if is_cuda else None
        where = torch.cuda.get_device_name(device) if is_cuda else "Triton's interpreter"
        self.reason = f"fused kernels on {where}, {'with' if pdl else 'without'} programmatic dependent launch"

    def replay(self, count: int, end: int, visits: tuple[Visit, ...]) -> None:
        """Feed the next `count` tokens that lie on the device, the last of them before position `end`."""
        attention = next(tile for positions, tile in self._tiling.attention.items() if end <= positions)
        captured = self._captured(visits, attention)
        for _ in range(count):
            if captured.graph is None:
                self.kernels.run(captured.program, attention)
            else:
                captured.graph.replay()

    def check(self) -> None:
        """Nothing can go wrong in these kernels but what CUDA itself reports."""

    def _captured(self, visits: tuple[Visit, ...], attention: AttentionTile) -> _Captured:
        key = (len(visits), attention)
        captured = self._graphs.pop(key, None)
        is_new = captured is None
        if captured is None:
            captured = _Captured(torch.zeros(len(visits), 2, dtype=torch.int64, device=self._backbone.device))
        self._graphs[key] = captured
        if len(self._graphs) > MAX_GRAPHS:
            self._graphs.popitem(last=False)
        if captured.visits != visits:
            self._upload(captured.program, torch.tensor([(v.block, v.slot) for v in visits], dtype=torch.int64))
            captured.visits = visits
        if is_new and self._backbone.device.type == "cuda":
            # The launch before the recording writes the KV that the first replay will write.
            launch = partial(self.kernels.run, captured.program, attention)
            captured.graph = capture(launch, self.pool, restored=(self.kernels.state,))
        return captured
