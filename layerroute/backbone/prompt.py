"""The backend seam for prompts: how many tokens at once run through a program, and what a router reads of them.

Shape suffixes: T tokens, D hidden size, N visits, V vocabulary.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from layerroute.backbone.kv_cache import KVCache, Visit, visits_of
from layerroute.backbone.model import Backbone
from layerroute.backbone.stepper import MAX_DIFFERENCE
from layerroute.program import LayerProgram

States = Literal["none", "last", "sum"]
"""What is kept of the states that enter each visit: nothing, those of the last token, or their sum over all tokens."""


class PromptRunner(Protocol):
    """Runs pieces of prompts.

    Attributes:
        name, reason: which backend this is, and why it was chosen.
        chunk: most tokens in one piece.
    """

    name: str
    reason: str
    chunk: int

    def run(
        self, ids: Sequence[int], start: int, visits: tuple[Visit, ...], cache: KVCache, states: States
    ) -> tuple[Tensor, Tensor]:
        """Run tokens at positions `start..`; their KV is written to the cache.

        Returns:
            The hidden state [1, D] of the last token after the last visit, and float32 `states` [N, D] (of no rows for
            "none"). Both are valid until the next run.
        """
        ...


class EagerPrompt:
    """Plain torch calls, any device: the reference. Small pieces bound memory and how long a cancelled request runs."""

    name = "eager"
    chunk = 512

    def __init__(self, backbone: Backbone, reason: str) -> None:
        self._backbone = backbone
        self.reason = reason

    def run(
        self, ids: Sequence[int], start: int, visits: tuple[Visit, ...], cache: KVCache, states: States
    ) -> tuple[Tensor, Tensor]:
        """One forward pass."""
        kept: list[Tensor] = []

        def observe(block: int, hidden_TD: Tensor) -> bool:
            kept.append(hidden_TD.float().sum(0) if states == "sum" else hidden_TD[-1].float())
            return True

        ids_T = torch.tensor(ids, device=self._backbone.device)
        hidden_TD = self._backbone.forward(ids_T, start, visits, cache, None if states == "none" else observe)
        return hidden_TD[-1:], torch.stack(kept) if kept else torch.empty(0)


def select_prompt_runner(backbone: Backbone, backend: str) -> PromptRunner:
    """Captured passes where a backend of kernels runs the steps, they can serve and pass a trial; else plain torch.

    Args:
        backend: name of the stepper's; one of plain torch asks for prompts of plain torch.
    """
    from layerroute.backbone import triton_prompt

    if backend in ("eager", "graph"):
        return EagerPrompt(backbone, f"plain torch, like the {backend} backend's steps")
    why_not = triton_prompt.why_not(backbone.config, backbone.dtype, backbone.device)
    if why_not is not None:
        return EagerPrompt(backbone, f"captured prompt passes cannot serve: {why_not}")
    executed = list(backbone.executed_L)
    try:
        runner = triton_prompt.TritonPrompt(backbone)
        difference, bound = _trial(backbone, runner), MAX_DIFFERENCE[backbone.dtype]
        if difference <= bound:
            return runner
        left = f"states differ from the eager ones by {difference:.1e}, more than {bound:.0e}"
    except Exception as error:  # a compiler, driver or launch error of any kind: plain torch can still serve
        left = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
    finally:
        backbone.executed_L[:] = executed  # a trial is no work that a report may count
    return EagerPrompt(backbone, f"captured prompt passes failed their trial: {left}")


@torch.inference_mode()
def _trial(backbone: Backbone, runner: PromptRunner) -> float:
    """Largest relative difference from the eager states over two pieces of a prompt, of one captured size.

    The second piece replays what the first compiled and captured.
    """
    num_blocks = backbone.config.num_blocks
    visits = visits_of(LayerProgram.identity(num_blocks), "generation")
    eager = EagerPrompt(backbone, "the reference")
    theirs, ours = backbone.new_cache(num_blocks, 32), backbone.new_cache(num_blocks, 32)
    differences = []
    for start, ids in ((0, range(1, 14)), (13, range(5, 17))):
        got = [x.double().flatten() for x in runner.run(ids, start, visits, theirs, "sum")]
        expected = [x.double().flatten() for x in eager.run(ids, start, visits, ours, "sum")]
        differences += [(a - b).norm() / b.norm() for a, b in zip(got, expected, strict=True)]
    return float(torch.stack(differences).max())  # not a number if any is
