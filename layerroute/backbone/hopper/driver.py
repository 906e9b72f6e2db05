"""Loads the compiled kernel and launches it, through the driver bindings of NVIDIA's own Python package."""

import ctypes

import torch

from layerroute.backbone.hopper.compiler import checked, compiled
from layerroute.backbone.hopper.layout import Layout
from layerroute.errors import KernelError


class Params(ctypes.Structure):
    """`Params` of `decode.cu`, field by field."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("embed", "attn_norm", "qkv", "qkv_bias", "output", "mlp_norm")),
        *((name, ctypes.c_void_p) for name in ("gate_up", "down", "final_norm", "lm_head")),
        *(
            (name, ctypes.c_void_p)
            for name in ("rope", "logits", "state", "program", "words", "counters", "failure", "trace")
        ),
        ("visits", ctypes.c_int),
        ("splits", ctypes.c_int),
        ("delay", ctypes.c_int * 6),
    ]


class Kernel:
    """The kernel of a layout on the current device.

    Args:
        cooperative: whether the driver checks that all CTAs run at once; the occupancy is checked in any case.

    Raises:
        KernelError: the source does not compile or load; or not all CTAs of the grid would run at once, so they would
            wait for each other for ever.
    """

    def __init__(self, layout: Layout, device: torch.device, cooperative: bool = True) -> None:
        from cuda.bindings import driver

        self._driver, self._layout, self._device = driver, layout, device
        self._launch = driver.cuLaunchCooperativeKernel if cooperative else driver.cuLaunchKernel
        self._cooperative = cooperative
        checked(driver.cuInit(0))
        self._module = checked(driver.cuModuleLoadData(compiled(layout)))
        self._function = checked(driver.cuModuleGetFunction(self._module, b"decode"))
        attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        checked(driver.cuFuncSetAttribute(self._function, attribute, layout.shared_limit))
        each = checked(
            driver.cuOccupancyMaxActiveBlocksPerMultiprocessor(self._function, layout.threads, layout.shared_limit)
        )
        fitting = each * torch.cuda.get_device_properties(device).multi_processor_count
        if fitting < layout.grid:
            raise KernelError(f"{layout.grid} CTAs must run at once, {fitting} fit")

    def __call__(self, params: Params) -> None:
        """Launch one step on torch's current stream; the device must be the thread's current one.

        Raises:
            KernelError: the driver refuses the launch, with its reason.
        """
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(params))
        stream = self._driver.CUstream(torch.cuda.current_stream(self._device).cuda_stream)
        layout = self._layout
        shape = (layout.grid, 1, 1, layout.threads, 1, 1, layout.shared_limit, stream, ctypes.addressof(pointers))
        checked(self._launch(self._function, *shape) if self._cooperative else self._launch(self._function, *shape, 0))
