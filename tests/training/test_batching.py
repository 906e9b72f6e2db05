"""Micro-batches: every step in its share, at its turn, next to steps of its length, the same at every resume."""

import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layerroute_training.batching import StepBatches, collate, evaluation_batches
from layerroute_training.errors import ConfigError
from layerroute_training.steps import StepSet


def step_set(prompt_lengths, answer_lengths, is_tool_call=None, group=None):
    """Steps of given lengths; the tokens of step i are all i + 1."""
    lengths = np.asarray(prompt_lengths, np.int64) + np.asarray(answer_lengths, np.int64)
    end = np.cumsum(lengths)
    start = end - lengths
    zeros = np.zeros(len(lengths), np.int32)
    return StepSet(
        tokens=np.repeat(np.arange(len(lengths)) + 1, lengths).astype(np.int32),
        start=start,
        answer=start + np.asarray(prompt_lengths, np.int64),
        end=end,
        is_tool_call=zeros.astype(bool) if is_tool_call is None else np.asarray(is_tool_call),
        group=zeros if group is None else np.asarray(group, np.int32),
        source=zeros,
        tools=zeros - 1,
        conversation=np.arange(len(lengths), dtype=np.int32),
        groups=("corpora", "generated"),
        sources=("made",),
        tool_lists=(),
    )


def realistic(count, seed=0):
    """Long-tailed lengths; tool calls have the longer prompts; the last tenth is of the second group."""
    random = np.random.default_rng(seed)
    is_tool_call = random.random(count) < 0.4
    prompts = np.clip(random.lognormal(np.where(is_tool_call, 6.3, 5.3), 0.7), 20, 1900).astype(np.int64)
    answers = np.clip(random.lognormal(4, 0.8, count), 2, 140).astype(np.int64)
    return step_set(prompts, answers, is_tool_call, np.arange(count) >= count * 9 // 10)


def rounded(length):
    return -(-length // 64) * 64


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 500), min_size=1, max_size=60),
    batch=st.integers(1, 9),
    world_size=st.integers(1, 3),
    capped=st.booleans(),
    seed=st.integers(0, 3),
)
def test_no_step_gets_ahead_of_another(lengths, batch, world_size, capped, seed):
    steps = step_set(lengths, [1] * len(lengths))
    cap = max(1024, rounded(max(lengths) + 1)) if capped else None
    ranks = [
        StepBatches(steps, batch, {}, seed, max_tokens=cap, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    seen: Counter[int] = Counter()
    for index in range(40):
        parts = [ranks[rank][index] for rank in range(world_size)]
        assert len({len(part) for part in parts}) == 1
        assert 1 <= len(parts[0]) <= batch
        assert all(cap is None or len(part) * rounded(steps.lengths[part].max()) <= cap for part in parts)
        seen.update(np.concatenate(parts).tolist())
        counts = [seen[step] for step in range(len(steps))]
        assert max(counts) - min(counts) <= 2 + batch * world_size / len(steps)


def test_epochs_hold_every_step_once_and_differ_in_order():
    steps = realistic(640)
    batches = StepBatches(steps, 8, {}, seed=3)
    epochs = [[batches[index].tolist() for index in range(80 * epoch, 80 * (epoch + 1))] for epoch in range(5)]
    # A window has 50 micro-batches, so the first 5 epochs (8 windows) end where a window does.
    seen = Counter(step for epoch in epochs for batch in epoch for step in batch)
    assert set(seen.values()) == {5}
    assert len(seen) == len(steps)
    assert epochs[0] != epochs[1]
    assert StepBatches(steps, 8, {}, seed=4)[0].tolist() != epochs[0][0]


def test_a_small_set_is_one_window_per_epoch():
    batches = StepBatches(realistic(64), 8, {}, seed=0)
    for epoch in range(3):
        drawn = np.concatenate([batches[index] for index in range(8 * epoch, 8 * epoch + 8)])
        assert sorted(drawn.tolist()) == list(range(64))


@pytest.mark.parametrize("max_tokens", [None, 16_384])
def test_a_micro_batch_depends_on_its_index_alone(max_tokens):
    steps = realistic(2000)
    mixture = {"corpora/tool_call": 0.5, "corpora/planning": 0.5}
    running = StepBatches(steps, 16, mixture, seed=1, max_tokens=max_tokens)
    first = [running[index].tolist() for index in range(300)]
    resumed = StepBatches(steps, 16, mixture, seed=1, max_tokens=max_tokens)
    assert [resumed[index].tolist() for index in reversed(range(300))] == first[::-1]
    in_a_worker = pickle.loads(pickle.dumps(running))
    assert in_a_worker[123].tolist() == first[123]


def test_ranks_get_disjoint_steps_of_similar_length():
    steps = realistic(6400)
    ranks = [StepBatches(steps, 16, {}, seed=0, rank=rank, world_size=2) for rank in range(2)]
    seen: set[int] = set()
    padded = np.zeros((2, 200))
    for index in range(200):  # one epoch
        for rank in range(2):
            chosen = ranks[rank][index].tolist()
            assert not seen & set(chosen)
            seen |= set(chosen)
            padded[rank, index] = rounded(steps.lengths[chosen].max())
    assert len(seen) == len(steps)
    assert np.abs(padded[0] - padded[1]).sum() < 0.02 * padded.sum()


def test_the_mixture_decides_the_shares():
    steps = realistic(5000)
    mixture = {"corpora/tool_call": 2, "corpora/planning": 1, "generated/planning": 1}
    batches = StepBatches(steps, 16, mixture, seed=0, max_tokens=16_384)
    drawn = np.concatenate([batches[index] for index in range(3000)])
    calls, generated = steps.is_tool_call[drawn], steps.group[drawn] == 1
    assert np.mean(calls & ~generated) == pytest.approx(0.5, abs=0.01)
    assert np.mean(~calls & ~generated) == pytest.approx(0.25, abs=0.01)
    assert np.mean(~calls & generated) == pytest.approx(0.25, abs=0.01)
    assert not np.any(calls & generated)
    counts = np.bincount(drawn[~calls & generated])
    assert counts[counts > 0].min() >= counts.max() - 2  # evenly within the stratum


def test_a_share_below_one_step_per_batch_is_honoured():
    steps = step_set([10] * 100, [2] * 100, np.arange(100) < 50)
    batches = StepBatches(steps, 2, {"corpora/tool_call": 1, "corpora/planning": 199}, seed=0)
    drawn = np.concatenate([batches[index] for index in range(4000)])
    assert steps.is_tool_call[drawn].sum() == 40


def test_consecutive_micro_batches_spread_over_the_lengths():
    steps = realistic(6400)
    batches = StepBatches(steps, 16, {}, seed=0)
    means = np.array([steps.lengths[batches[index]].mean() for index in range(400)])
    accumulated = means.reshape(-1, 8).mean(axis=1)
    assert accumulated.std() < 0.27 * means.std()  # 0.35 if the order were random


def test_little_of_a_batch_is_padding():
    steps = realistic(20_000)
    batches = StepBatches(steps, 64, {}, seed=0)
    tokens = padded = 0
    for index in range(200):
        lengths = steps.lengths[batches[index]]
        tokens += lengths.sum()
        padded += len(lengths) * rounded(lengths.max())
    assert 1 - tokens / padded < 0.13  # of which 64-token rounding alone costs about 0.08


def test_max_tokens_bounds_a_micro_batch():
    steps = realistic(3000)
    batches = StepBatches(steps, 64, {}, seed=0, max_tokens=16_384)
    sizes = []
    for index in range(150):
        rows = collate(steps, batches[index])
        assert rows["tokens_BT"].numel() <= 16_384
        sizes.append(len(batches[index]))
    assert max(sizes) == 64
    assert min(sizes) < 16
    with pytest.raises(ConfigError, match="max_tokens"):
        StepBatches(steps, 64, {}, seed=0, max_tokens=512)


def test_a_mixture_of_nothing_is_refused():
    steps = step_set([10, 10], [2, 2], [True, False])
    with pytest.raises(ConfigError, match=r"corpora/toolcall; known: corpora/planning, corpora/tool_call"):
        StepBatches(steps, 1, {"corpora/toolcall": 0.5, "corpora/planning": 0.5}, seed=0)
    with pytest.raises(ConfigError, match="no steps"):
        StepBatches(steps.select([]), 1, {}, seed=0)


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(1, 300), max_size=50), max_tokens=st.integers(1, 2000))
def test_evaluation_sees_every_step_once(lengths, max_tokens):
    steps = step_set(lengths, [1] * len(lengths))
    batches = list(evaluation_batches(steps, max_tokens))
    assert sorted(step for batch in batches for step in batch.tolist()) == list(range(len(steps)))
    for batch in batches:
        assert len(batch) == 1 or collate(steps, batch)["tokens_BT"].numel() <= max_tokens


def test_collate_pads_on_the_right():
    steps = step_set([3, 70, 2], [2, 5, 1], [True, False, True], [0, 0, 1])
    rows = collate(steps, np.array([2, 0]))
    assert {name: tensor.dtype for name, tensor in rows.items()} == {
        "tokens_BT": torch.int64,
        "prompt_lengths_B": torch.int64,
        "lengths_B": torch.int64,
        "is_tool_call_B": torch.bool,
        "group_B": torch.int64,
        "index_B": torch.int64,
    }
    assert rows["tokens_BT"].shape == (2, 64)
    assert rows["tokens_BT"][0].tolist() == [3] * 3 + [0] * 61
    assert rows["tokens_BT"][1].tolist() == [1] * 5 + [0] * 59
    assert rows["prompt_lengths_B"].tolist() == [2, 3]
    assert rows["lengths_B"].tolist() == [3, 5]
    assert rows["is_tool_call_B"].tolist() == [True, True]
    assert rows["group_B"].tolist() == [1, 0]
    assert rows["index_B"].tolist() == [2, 0]
    assert collate(steps, np.array([1]))["tokens_BT"].shape == (1, 128)
    assert collate(steps, np.array([0, 1]), multiple_of=8)["tokens_BT"].shape == (2, 80)
