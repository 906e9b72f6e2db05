"""Micro-batches of steps: which steps, as a function of seed and index, and their tokens side by side.

Shape suffixes: B steps of a batch, T tokens, N steps of a set.
"""

from collections.abc import Iterator, Mapping
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from layerroute_training.errors import ConfigError
from layerroute_training.steps import StepSet

IntArray = NDArray[np.int64]

MULTIPLE_OF = 64
"""Rows are padded to a multiple of this many tokens, so that few shapes are compiled."""

WINDOW_BATCHES = 50
"""Micro-batches that are drawn together and sorted by length among themselves."""

_GOLDEN = (5**0.5 - 1) / 2


class StepBatches:
    """The micro-batches of a run, by index: endless, shuffled anew in every epoch, of steps of similar length.

    A window of about 50 micro-batches is drawn, sorted by length and cut up; micro-batches that follow each other
    differ in length, so that an accumulated gradient sees short and long steps. A micro-batch depends on the arguments
    and its index alone: a run resumes by asking for the next index. At one index all ranks get steps of similar length.

    Every stratum "group/kind" makes up its share of the steps of every window, whatever their lengths, and within a
    stratum every step comes up once per epoch. Under `max_tokens` micro-batches of long steps hold fewer steps; weigh a
    micro-batch's loss by its number of steps over `batch`, or long steps count for more than their share.
    """

    def __init__(
        self,
        steps: StepSet,
        batch: int,
        mixture: Mapping[str, float],
        seed: int,
        *,
        max_tokens: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Plan micro-batches of `batch` steps.

        Args:
            steps: what to draw from.
            batch: steps of a micro-batch and rank.
            mixture: share per "group/kind", of any sum; strata that it does not name are left out. Empty: every step
                equally often.
            seed: of the order.
            max_tokens: most tokens of a micro-batch and rank, padding included.
            rank, world_size: which of how many disjoint slices.

        Raises:
            ConfigError: a share that names no stratum, no step at all, or a step over `max_tokens`.
        """
        self._strata, shares = _strata(steps, mixture)
        self._lengths = _rounded(steps.lengths, MULTIPLE_OF)
        self._batch, self._max_tokens = batch, max_tokens
        self._rank, self._world_size = rank, world_size
        self._seed = seed
        longest = max(int(self._lengths[stratum].max()) for stratum in self._strata)
        if max_tokens is not None and longest > max_tokens:
            raise ConfigError(f"a step takes {longest} tokens, more than max_tokens = {max_tokens}: raise it")
        self._bounds = [sum(shares[:count], Fraction(0)) for count in range(len(shares) + 1)]
        self._window = _window_steps(sum(map(len, self._strata)), batch * world_size, min(shares))
        self._first_of_window = [0]
        self._latest_window: tuple[int, list[IntArray]] = (-1, [])
        self._latest_orders: dict[int, tuple[int, IntArray]] = {}

    def __getitem__(self, index: int) -> IntArray:
        """Indices of the steps of this rank's micro-batch number `index`."""
        while self._first_of_window[-1] <= index:  # how many micro-batches a window gives depends on its lengths
            last = len(self._first_of_window) - 1
            self._first_of_window.append(self._first_of_window[-1] + len(self._micro_batches(last)))
        window = int(np.searchsorted(self._first_of_window, index, side="right")) - 1
        return self._micro_batches(window)[index - self._first_of_window[window]]

    def _micro_batches(self, window: int) -> list[IntArray]:
        if self._latest_window[0] != window:
            self._latest_window = (window, self._cut(window))
        return self._latest_window[1]

    def _cut(self, window: int) -> list[IntArray]:
        """This rank's micro-batches of one window, in the order of training."""
        drawn = self._draw(window)
        drawn = drawn[np.argsort(-self._lengths_of(drawn), kind="stable")]
        batches = []
        while len(drawn):
            size = self._batch
            if self._max_tokens is not None:
                size = min(size, self._max_tokens // int(self._lengths_of(drawn[:1])[0]))
            batches.append(drawn[: size * self._world_size][self._rank :: self._world_size])
            drawn = drawn[size * self._world_size :]
        # Multiples of the golden ratio spread any run of consecutive micro-batches over all lengths.
        offset = np.random.default_rng([self._seed, 1, window]).random()
        order = np.argsort((offset + _GOLDEN * np.arange(len(batches))) % 1)
        places = np.argsort(order)
        return [batches[place] for place in places]

    def _draw(self, window: int) -> IntArray:
        """The steps of a window, shuffled: of every stratum as many as its share, to within one step."""
        drawn = []
        for number, stratum in enumerate(self._strata):
            low, high = self._bounds[number], self._bounds[number + 1]
            first, end = (int(at * high) - int(at * low) for at in (window * self._window, (window + 1) * self._window))
            places = np.arange(first, end)
            epochs = places // len(stratum)
            for epoch in range(int(epochs[0]), int(epochs[-1]) + 1) if len(places) else ():
                shuffled = self._order(number, epoch)
                drawn.append(stratum[shuffled[places[epochs == epoch] % len(stratum)]])
        return np.random.default_rng([self._seed, 2, window]).permutation(np.concatenate(drawn))

    def _order(self, stratum: int, epoch: int) -> IntArray:
        known, order = self._latest_orders.get(stratum, (-1, self._strata[stratum]))
        if known != epoch:
            order = np.random.default_rng([self._seed, 3, stratum, epoch]).permutation(len(self._strata[stratum]))
            self._latest_orders[stratum] = (epoch, order)
        return order

    def _lengths_of(self, indices: IntArray) -> IntArray:
        lengths: IntArray = self._lengths[indices]
        return lengths


def evaluation_batches(steps: StepSet, max_tokens: int, multiple_of: int = MULTIPLE_OF) -> Iterator[IntArray]:
    """Indices of all steps, each once, longest first, in batches of at most `max_tokens` tokens, padding included.

    A step of more than `max_tokens` tokens comes alone.
    """
    lengths = _rounded(steps.lengths, multiple_of)
    order = np.argsort(-steps.lengths, kind="stable")
    while len(order):
        size = max(1, max_tokens // int(lengths[order[0]]))
        yield order[:size]
        order = order[size:]


def collate(steps: StepSet, indices: IntArray, multiple_of: int = MULTIPLE_OF) -> dict[str, Tensor]:
    """The steps at `indices` as rows, padded on the right with 0 to a multiple of `multiple_of` tokens.

    Returns:
        tokens_BT, prompt_lengths_B, lengths_B (prompt and answer), group_B and index_B, int64; is_tool_call_B, bool.
    """
    chosen = np.asarray(indices, dtype=np.int64)
    lengths = steps.lengths[chosen]
    T = int(_rounded(lengths.max(initial=1, keepdims=True), multiple_of)[0])
    tokens_BT = np.zeros((len(chosen), T), dtype=np.int64)
    for row, start, end in zip(tokens_BT, steps.start[chosen].tolist(), steps.end[chosen].tolist(), strict=True):
        row[: end - start] = steps.tokens[start:end]
    return {
        "tokens_BT": torch.from_numpy(tokens_BT),
        "prompt_lengths_B": torch.from_numpy(steps.prompt_lengths[chosen]),
        "lengths_B": torch.from_numpy(lengths),
        "is_tool_call_B": torch.from_numpy(steps.is_tool_call[chosen]),
        "group_B": torch.from_numpy(steps.group[chosen].astype(np.int64)),
        "index_B": torch.from_numpy(chosen.copy()),
    }


def _strata(steps: StepSet, mixture: Mapping[str, float]) -> tuple[list[IntArray], list[Fraction]]:
    """The steps of every stratum that the mixture names, and their shares, which add up to 1."""
    if len(steps) == 0:
        raise ConfigError("there are no steps to draw batches from: give corpora with assistant turns")
    if not mixture:
        return [np.arange(len(steps))], [Fraction(1)]
    kinds = np.where(steps.is_tool_call, "tool_call", "planning")
    names = np.char.add(np.char.add(np.array(steps.groups)[steps.group], "/"), kinds)
    known = sorted(set(names.tolist()))
    unknown = sorted(set(mixture) - set(known))
    if unknown:
        raise ConfigError(f"data.mixture: there are no steps of {', '.join(unknown)}; known: {', '.join(known)}")
    shares = [Fraction(mixture[name]) for name in sorted(mixture)]
    return [np.flatnonzero(names == name) for name in sorted(mixture)], [share / sum(shares) for share in shares]


def _window_steps(num_steps: int, batch: int, least_share: Fraction) -> int:
    """Steps of a window: a multiple of the batch, in which every stratum has at least one step."""
    batches = max(1, min(WINDOW_BATCHES, num_steps // batch))
    return max(batches, -int(-1 / least_share // batch)) * batch


def _rounded(lengths: IntArray, multiple_of: int) -> IntArray:
    rounded: IntArray = -(-lengths // multiple_of) * multiple_of
    return rounded
