"""Rows: answers that decode together. Every round gives each of them a token, program by program.

    add        of a request whose prompt has run: draw its first token         (at most one between two rounds)
    advance    for each program: feed one token of every row in one step
               while the device runs it: accounts and grammar masks
               then draw all its rows at once, and read them when every program has been launched

What a row answers depends on its own request alone: a lone row takes the same steps as one among many.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from layerroute.backbone.batch import Row, group_by_program
from layerroute.engine.accounting import executions
from layerroute.engine.generation import Generation
from layerroute.engine.runner import Runner, Running
from layerroute.engine.sampling import Sampler, check_mask, drawn_token, pick_rows

_LONG_RUN = 8
"""From this many forced tokens on, a pass of their own, which the other rows wait for, beats a step for each of them,
which costs the other rows next to nothing. Where rows share no weights there is nothing to ride along with."""


@dataclass(slots=True, eq=False)
class _Decoding:
    """An answer that is being decoded, and who reads it."""

    running: Running
    generation: Generation
    sampler: Sampler
    started: float
    program: tuple[tuple[int, int], ...]
    mask_W: Tensor | None = None

    @property
    def pending(self) -> list[int]:
        """Tokens of the answer that are not fed yet: at least one, once the row has started."""
        answer = self.running.decoder.answer
        return answer.ids[answer.fed :]

    @property
    def position(self) -> int:
        """Where the first pending token goes."""
        return len(self.running.request.prompt_ids) + self.running.decoder.answer.fed

    def fed(self, count: int, executed_L: np.ndarray, num_logits: int, sharing: int = 1) -> None:
        """Account for `count` pending tokens that were fed, in a step that `sharing` rows read the weights for."""
        running = self.running
        running.decode.add(count, self.position, len(running.prompt.visits), num_logits, sharing)
        running.decode.executed(executed_L)
        running.decoder.answer.fed += count


class Rows:
    """The requests that decode together. What goes wrong with one of them is told to its own reader, and not raised.

    Args:
        runner: gives the runner whose requests they are.
    """

    def __init__(self, runner: Callable[[], Runner]) -> None:
        self._runner = runner
        self._rows: list[_Decoding] = []

    def __len__(self) -> int:
        return len(self._rows)

    @torch.inference_mode()
    def add(self, running: Running, generation: Generation) -> None:
        """Take in a request whose prompt has run, and start its answer."""
        sampler = Sampler(running.request.sampling, running.prompt.logits_V.device)
        program = tuple((visit.block, visit.slot) for visit in running.prompt.visits)
        row = _Decoding(running, generation, sampler, time.perf_counter(), program)
        running.prompt.conversation.leased = True
        self._rows.append(row)
        with self._guard(row):
            running.decoder.force()
            if not self._leave_if_ended(row) and not row.pending:
                self._find_mask(row)
                self._take(row, sampler.pick(running.prompt.logits_V, row.mask_W))

    @torch.inference_mode()
    def advance(self) -> None:
        """Give every row its next token; rows that end leave with their result."""
        for row in list(self._rows):
            with self._guard(row):
                if not self._leave_if_ended(row):  # it may have been cancelled
                    self._feed_long_run(row)
        launched: list[tuple[list[_Decoding], Tensor]] = []
        indices = group_by_program([row.program for row in self._rows])
        for group in [[self._rows[index] for index in members] for members in indices]:
            with self._guard(*group):
                launched.append(self._step(group))
        for rows, drawn_B2 in launched:
            with self._guard(*rows):
                for row, (token, logit) in zip(rows, drawn_B2.tolist(), strict=True):
                    with self._guard(row):
                        self._take(row, drawn_token(token, logit))

    def fail(self, error: Callable[[], BaseException]) -> None:
        """End all answers with an error, each with one of its own."""
        for row in list(self._rows):
            with self._guard(row):
                raise error()

    @contextmanager
    def _guard(self, *rows: _Decoding) -> Iterator[None]:
        """Whatever is raised in the block ends these rows and no others."""
        try:
            yield
        except BaseException as error:  # the readers must hear of it, and the engine's thread live on
            for row in rows:
                self._leave(row)
                row.generation.fail(error)

    def _leave(self, row: _Decoding) -> None:
        if row in self._rows:
            self._rows.remove(row)
            row.running.prompt.conversation.leased = False

    def _leave_if_ended(self, row: _Decoding) -> bool:
        if not row.running.decoder.ended:
            return False
        row.running.watch.add("decode", 1000.0 * (time.perf_counter() - row.started))
        result = self._runner().finish(row.running, self._runner().batch_stepper.name)
        self._leave(row)
        row.generation.finish(result)
        return True

    def _feed_long_run(self, row: _Decoding) -> None:
        """Feed forced tokens in a pass of their own, except for the last, whose logits come from a step."""
        runner, pending = self._runner(), row.pending
        if len(pending) >= (_LONG_RUN if runner.batch_stepper.shares_weights else 2):
            run, prompt = pending[:-1][: runner.prompts.chunk], row.running.prompt
            with executions(runner.backbone.executed_L) as executed_L:
                runner.prompts.run(run, row.position, prompt.visits, prompt.conversation.cache, "none")
            row.fed(len(run), executed_L, num_logits=0)

    def _step(self, group: list[_Decoding]) -> tuple[list[_Decoding], Tensor]:
        """Launch a step of rows of one program and the draws of those with nothing left to feed: these, and [B, 2]."""
        runner, visits = self._runner(), group[0].running.prompt.visits
        stepper = runner.batch_stepper
        rows = [Row(row.pending[0], row.position, row.running.prompt.conversation.cache) for row in group]
        with executions(runner.backbone.executed_L) as executed_L:
            logits_BV = stepper.step(rows, visits)
        sharing, each_L = len(group) if stepper.shares_weights else 1, executed_L // len(group)
        for row in group:
            row.fed(1, each_L, num_logits=1, sharing=sharing)
        drawing: list[int] = []
        for index, row in enumerate(group):
            with self._guard(row):
                if not row.pending:
                    self._find_mask(row)
                    drawing.append(index)
        drawn = [group[index] for index in drawing]
        if not drawn:
            return [], logits_BV[:0]
        if len(drawn) < len(group):
            logits_BV = logits_BV.index_select(0, torch.tensor(drawing).to(logits_BV.device, non_blocking=True))
        return drawn, pick_rows([row.sampler for row in drawn], logits_BV, [row.mask_W for row in drawn])

    @staticmethod
    def _find_mask(row: _Decoding) -> None:
        row.mask_W = row.running.decoder.mask()
        if row.mask_W is not None:
            check_mask(row.mask_W)

    def _take(self, row: _Decoding, token: int) -> None:
        row.running.decoder.take(token)
        row.running.decoder.force()
        self._leave_if_ended(row)
