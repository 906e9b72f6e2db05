"""Prefill: run what is new of the prompt, show its states to the router, and settle the program of the step.

Shape suffixes: T tokens, N visits, L blocks, D hidden size, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from layerroute.backbone.kv_cache import Visit, visits_of
from layerroute.backbone.model import Backbone
from layerroute.backbone.prompt import EagerPrompt, PromptRunner, States
from layerroute.engine.accounting import Meter, Stopwatch
from layerroute.engine.prefix_cache import Conversation, PrefixCache
from layerroute.errors import RouterError
from layerroute.program import LayerProgram
from layerroute.report import Scope
from layerroute.routers.base import BlockwiseRouter, Evidence, PromptEvidence, Router, RoutingDecision

Interrupt = Callable[[], None]
"""Raises if the request was cancelled; called between any two forward passes."""


@dataclass(frozen=True, slots=True)
class Prefilled:
    """A prompt that has run.

    Attributes:
        conversation: holds the KV of the whole prompt.
        visits: what generated tokens visit.
        logits_V: logits of the first answer token.
        cached_tokens: prompt tokens whose KV was reused.
    """

    conversation: Conversation
    decision: RoutingDecision
    visits: tuple[Visit, ...]
    logits_V: Tensor
    cached_tokens: int


class StateReader:
    """Reduces the states entering each block over the prompt, as a router's evidence asks."""

    def __init__(self, evidence: Evidence, backbone: Backbone) -> None:
        self._mean = evidence == "mean"
        self.states_LD = torch.zeros(backbone.config.num_blocks, backbone.config.hidden_size, device=backbone.device)

    @property
    def kind(self) -> States:
        """What it takes of a piece of the prompt."""
        return "sum" if self._mean else "last"

    def read(self, visits: Sequence[Visit], states_ND: Tensor) -> None:
        """Take in the states [N, D] that a piece of the prompt had entering each visit's block."""
        blocks_N = torch.tensor([visit.block for visit in visits], device=self.states_LD.device)
        if self._mean:
            self.states_LD.index_add_(0, blocks_N, states_ND)
        else:
            self.states_LD.index_copy_(0, blocks_N, states_ND)


def digest(ids: tuple[int, ...]) -> int:
    """A number that depends on the token ids alone."""
    return int.from_bytes(blake2b(np.asarray(ids, dtype=np.int64).tobytes(), digest_size=8).digest(), "big")


class Prefill:
    """Runs prompts of either scope over one backbone and one prefix cache."""

    def __init__(self, backbone: Backbone, prefixes: PrefixCache, prompts: PromptRunner | None = None) -> None:
        self._backbone = backbone
        self._prompts = prompts or EagerPrompt(backbone, "no other was given")
        self._prefixes = prefixes
        self._num_blocks = backbone.config.num_blocks

    def run(
        self, ids: tuple[int, ...], router: Router, scope: Scope, meter: Meter, watch: Stopwatch, interrupt: Interrupt
    ) -> Prefilled:
        """Prefill a prompt and decide its program.

        Raises:
            RouterError: the router or its program cannot serve the scope.
        """
        if scope == "generation":
            return self._generation(ids, router, meter, watch, interrupt)
        if router.evidence == "none":
            return self._sequence(ids, router, meter, watch, interrupt)
        if isinstance(router, BlockwiseRouter):
            return self._sequence_blockwise(ids, router, meter, watch)
        raise RouterError(f"router {router.name!r} reads the whole prompt first and cannot serve scope 'sequence'")

    def _generation(
        self, ids: tuple[int, ...], router: Router, meter: Meter, watch: Stopwatch, interrupt: Interrupt
    ) -> Prefilled:
        """The prompt at full depth, then the decision for what follows."""
        mean = router.evidence == "mean"
        conversation = self._prefixes.take("generation", ids, self._num_blocks, by_sums=mean)
        cached = len(conversation.ids)
        reader = None if router.evidence == "none" else StateReader(router.evidence, self._backbone)
        if reader is not None and mean and conversation.sums:
            reader.states_LD += conversation.sums[-1][1].to(self._backbone.device)
        visits = visits_of(LayerProgram.identity(self._num_blocks), "generation")
        logits_V = self._chunks(ids, conversation, visits, reader, meter, interrupt)
        with watch.time("routing"):
            states_LD = reader.states_LD.cpu() if reader else None
            if states_LD is not None and mean:
                conversation.sums.append((len(ids), states_LD.clone()))
                states_LD /= len(ids)
            decision = router.decide(PromptEvidence(len(ids), digest(ids), states_LD))
        if decision.program.num_looped:
            raise RouterError(
                f"program {decision.program} repeats blocks, whose second visits need prompt KV of their own: "
                "use scope='sequence'"
            )
        return Prefilled(conversation, decision, visits_of(decision.program, "generation"), logits_V, cached)

    def _sequence(
        self, ids: tuple[int, ...], router: Router, meter: Meter, watch: Stopwatch, interrupt: Interrupt
    ) -> Prefilled:
        """A program known beforehand governs the prompt too; KV is shared with prompts of the same program."""
        with watch.time("routing"):
            decision = router.decide(PromptEvidence(len(ids), digest(ids)))
        visits = visits_of(decision.program, "sequence")
        key = f"sequence {decision.program}"
        conversation = self._prefixes.take(key, ids, max(self._num_blocks, len(visits)))
        cached = len(conversation.ids)
        logits_V = self._chunks(ids, conversation, visits, None, meter, interrupt)
        return Prefilled(conversation, decision, visits, logits_V, cached)

    def _sequence_blockwise(
        self, ids: tuple[int, ...], router: BlockwiseRouter, meter: Meter, watch: Stopwatch
    ) -> Prefilled:
        """Each gate decides on the states that enter its block, so the prompt runs in one pass, nothing reused."""
        conversation = self._prefixes.take("", ids, self._num_blocks)
        reader = StateReader(router.evidence, self._backbone)

        def gate(block: int, hidden_TD: Tensor) -> bool:
            state_D = hidden_TD.float().mean(0) if router.evidence == "mean" else hidden_TD[-1].float()
            reader.read([Visit(block, block)], state_D[None])
            with watch.time("routing"):
                return router.run_probability(block, reader.states_LD[block].cpu()) > 0.5

        identity = visits_of(LayerProgram.identity(self._num_blocks), "generation")
        ids_T = torch.tensor(ids, device=self._backbone.device)
        logits_V = self._backbone.logits(self._backbone.forward(ids_T, 0, identity, conversation.cache, gate)[-1:])[0]
        with watch.time("routing"):
            decision = router.decide(PromptEvidence(len(ids), digest(ids), reader.states_LD.cpu()))
        meter.add(len(ids), 0, decision.program.num_visits, 1)
        return Prefilled(conversation, decision, visits_of(decision.program, "generation"), logits_V, 0)

    def _chunks(
        self,
        ids: tuple[int, ...],
        conversation: Conversation,
        visits: tuple[Visit, ...],
        reader: StateReader | None,
        meter: Meter,
        interrupt: Interrupt,
    ) -> Tensor:
        last_1D, kind = torch.empty(0), reader.kind if reader else "none"
        for start in range(len(conversation.ids), len(ids), self._prompts.chunk):
            interrupt()
            chunk = ids[start : start + self._prompts.chunk]
            last_1D, states_ND = self._prompts.run(chunk, start, visits, conversation.cache, kind)
            if reader is not None:
                reader.read(visits, states_ND)
            conversation.ids.extend(chunk)
            meter.add(len(chunk), start, len(visits), int(start + len(chunk) == len(ids)))
        return self._backbone.logits(last_1D)[0]
