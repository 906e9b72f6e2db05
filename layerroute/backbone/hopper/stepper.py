"""Decode steps in one persistent kernel each (the `hopper` backend).

The layer program, the token, its position and the KV cache are data on the device; one compiled kernel serves every
program, in any order, with repeats, over any cache.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor

from layerroute.backbone.config import BackboneConfig
from layerroute.backbone.hopper.compiler import why_not_compile
from layerroute.backbone.hopper.driver import Kernel, Params
from layerroute.backbone.hopper.layout import MAX_VISITS, SPLITS, Layout, choose_layout, why_not_shape
from layerroute.backbone.kv_cache import Visit
from layerroute.backbone.model import Backbone
from layerroute.backbone.stepper import MAX_TOKENS, DeviceStepper
from layerroute.backbone.triton_step import pdl_supported, rope_table
from layerroute.errors import KernelError, RequestError

DELAY = (300, 2000, 600, 600, 300, 0)
"""Cycles before the first look at each hand-off (see `HopperStepper.delay`): a CTA needs words of its own back, which
takes longer than this, and looks in vain slow down the copies of weights."""
SPARE_BYTES = 64 << 20
"""Device memory that must be free: tables, hand-off buffers and what the driver takes for the kernel itself."""


def why_not(config: BackboneConfig, dtype: torch.dtype, device: torch.device) -> str | None:
    """Why this backend cannot serve a model on a device, or None if it can."""
    if device.type != "cuda":
        return f"the device is {device.type}, not a CUDA GPU"
    capability = torch.cuda.get_device_capability(device)
    if capability != (9, 0):
        return (
            f"the GPU has compute capability {capability[0]}.{capability[1]}, the kernel is built for 9.0 (H100, H200)"
        )
    if dtype != torch.bfloat16:
        return f"weights are {dtype}, the kernel is written for bfloat16"
    reason = why_not_shape(config, torch.cuda.get_device_properties(device).multi_processor_count)
    if reason is not None:
        return reason
    free = torch.cuda.mem_get_info(device)[0]
    if free < SPARE_BYTES:
        return f"{free >> 20} MiB of device memory are free, {SPARE_BYTES >> 20} are needed"
    return why_not_compile()


@dataclass(slots=True)
class Buffers:
    """State and logits, laid out as `triton_kernels` does, so that its kernels draw tokens between the steps."""

    state: Tensor
    logits_V: Tensor


class HopperStepper(DeviceStepper):
    """One launch for each token.

    All CTAs of a launch wait for each other, so all must run at once. A launch is cooperative and takes its place in
    torch's current stream: what runs before it in that stream (draws, prompt passes, other steps) has left the GPU, and
    kernels of other streams wait for none of its CTAs, so they end and make room. Where CTAs still do not come (another
    process holds the multiprocessors for longer than `Layout.spin_looks`), every wait ends and `check` raises.

    Args:
        layout: constants of the kernel; chosen for the model's shape and the device if not given.
        launch: runs a step with these parameters; the compiled kernel on the backbone's device if not given.

    Attributes:
        kernels: state and logits on the device.
        on_device: makes the backbone's device the current one, on which the driver launches.
        pdl: whether the kernels of draws may use programmatic dependent launch; the step itself does not.
        pool: what graphs allocate from, or None without CUDA.
        splits: positions up to which attention is split in so many parts.
        trace: int64 [CTAs, readings] of the last step, if the layout keeps readings.
        delay: cycles that a CTA waits before it first looks for what a phase takes (query/key/value, output, gate/up,
            down, vocabulary, attention).
    """

    name = "hopper"

    def __init__(
        self, backbone: Backbone, layout: Layout | None = None, launch: Callable[[Params], None] | None = None
    ) -> None:
        self._backbone = backbone
        c, device, is_cuda = backbone.config, backbone.device, backbone.device.type == "cuda"
        self.on_device: AbstractContextManager[object] = torch.cuda.device(device) if is_cuda else nullcontext()
        self.pdl = is_cuda and find_spec("triton") is not None and pdl_supported(device)
        self.pool = torch.cuda.graph_pool_handle() if is_cuda else None
        if layout is None:
            layout = choose_layout(c, torch.cuda.get_device_properties(device).multi_processor_count)
        with self.on_device:
            self._launch = launch or Kernel(layout, device)
        self.splits = dict(SPLITS)
        self.delay = DELAY
        self.trace = torch.zeros(layout.grid, layout.trace, dtype=torch.int64, device=device)
        self.kernels = Buffers(
            torch.zeros(8 + MAX_TOKENS, dtype=torch.int64, device=device),
            torch.zeros(c.vocab_size, dtype=torch.float32, device=device),
        )
        self._program = torch.zeros(MAX_VISITS, 2, dtype=torch.int32, device=device)
        self._visits: tuple[Visit, ...] | None = None  # what `_program` holds
        self._words = torch.zeros(layout.copies * layout.words, dtype=torch.int64, device=device)
        self._counters = torch.zeros(2, dtype=torch.int64, device=device)
        self._failure = torch.zeros(1, dtype=torch.int32, pin_memory=is_cuda)
        self._rope_PH = rope_table(c).to(device)
        self._params = self._fill()
        where = torch.cuda.get_device_name(device) if is_cuda else "an emulation"
        self.reason = f"one persistent kernel on {where}, {layout.grid} CTAs"

    def replay(self, count: int, end: int, visits: tuple[Visit, ...]) -> None:
        """Feed the next `count` tokens that lie on the device, the last of them before position `end`.

        Raises:
            KernelError, RequestError: as `step`.
        """
        self.check()
        if len(visits) > MAX_VISITS:
            raise RequestError(f"a program of {len(visits)} visits: the hopper backend takes up to {MAX_VISITS}")
        if self._visits != visits:
            self._upload(self._program, torch.tensor([(v.block, v.slot) for v in visits], dtype=torch.int32))
            self._visits = visits
        self._params.visits = len(visits)
        self._params.splits = next(splits for positions, splits in self.splits.items() if end <= positions)
        self._params.delay[:] = self.delay
        for _ in range(count):
            self._launch(self._params)

    def check(self) -> None:
        """Raise if a step that has ended was given up.

        Raises:
            KernelError: not all CTAs of the step ran at once.
        """
        if self._failure.item():
            raise KernelError(
                "a step waited too long inside the kernel, its logits are not numbers: another process may hold the "
                "GPU; load the model again"
            )

    def _fill(self) -> Params:
        w = self._backbone.weights
        tensors = {
            "embed": w.embed_VD, "attn_norm": w.attn_norm_LD, "qkv": w.qkv_LED, "qkv_bias": w.qkv_bias_LE,
            "output": w.o_LDH, "mlp_norm": w.mlp_norm_LD, "gate_up": w.gate_up_LFD, "down": w.down_LDI,
            "final_norm": w.final_norm_D, "lm_head": w.lm_head_VD, "rope": self._rope_PH,
            "logits": self.kernels.logits_V, "state": self.kernels.state, "program": self._program,
            "words": self._words, "counters": self._counters, "failure": self._failure, "trace": self.trace,
        }  # fmt: skip
        for name, tensor in tensors.items():
            if not tensor.is_contiguous() or tensor.data_ptr() % 16:
                raise KernelError(f"{name} is not contiguous or not aligned to 16 bytes")
        return Params(**{name: tensor.data_ptr() for name, tensor in tensors.items()})
