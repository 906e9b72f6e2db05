"""Routers: one decision from the prompt alone, the same every time, for every spec."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layerroute.bundle import BackboneIdentity, Bundle, RoutingMetadata
from layerroute.errors import LayerRouteError, ProgramError, RouterError
from layerroute.program import LayerProgram
from layerroute.report import StepKind
from layerroute.routers.base import BlockwiseRouter, PromptEvidence
from layerroute.routers.gates import GateRouter, reduce_states
from layerroute.routers.registry import SPECS, make_router

NUM_BLOCKS, HIDDEN = 6, 16


def make_bundle(tmp_path, seed=0, **changes):
    generator = torch.Generator().manual_seed(seed)
    metadata = {
        "num_blocks": NUM_BLOCKS,
        "hidden_size": HIDDEN,
        "evidence": "last",
        "normalise": True,
        "always_run": (0,),
        "scope": "generation",
        "backbone": BackboneIdentity(name="tiny", fingerprint="f"),
        "files": {},
        "package_version": "0",
    }
    return Bundle(
        path=tmp_path,
        metadata=RoutingMetadata(**(metadata | changes)),
        gates_weight_LD=torch.randn(NUM_BLOCKS, HIDDEN, generator=generator),
        gates_bias_L=torch.randn(NUM_BLOCKS, generator=generator),
        kind_weight_D=torch.randn(HIDDEN, generator=generator),
        kind_bias=torch.randn(1, generator=generator),
    )


def states(seed=1, scale=1.0):
    return scale * torch.randn(NUM_BLOCKS, HIDDEN, generator=torch.Generator().manual_seed(seed))


def prompt(seed=1, scale=1.0, num_tokens=5, digest=0):
    return PromptEvidence(num_tokens, digest, states(seed, scale))


# Gates.


@pytest.mark.parametrize("normalise", [True, False])
def test_gates_follow_the_bundle_s_formula(tmp_path, normalise):
    bundle = make_bundle(tmp_path, normalise=normalise, always_run=(0, 3))
    decision = GateRouter(bundle).decide(prompt(scale=7.0))
    expected = []
    for block, state in enumerate(states(scale=7.0)):
        x = state / torch.sqrt((state**2).mean() + 1e-6) if normalise else state
        expected.append(torch.sigmoid(bundle.gates_weight_LD[block] @ x + bundle.gates_bias_L[block]).item())
    belief = torch.sigmoid(bundle.kind_weight_D @ x + bundle.kind_bias).item()
    skipped = {block for block in (1, 2, 4, 5) if not expected[block] > 0.5}
    assert skipped not in (set(), {1, 2, 4, 5})
    assert set(decision.program.skipped) == skipped
    assert decision.program.is_subsequence
    expected[0] = expected[3] = 1.0
    assert decision.run_probabilities == pytest.approx(expected, abs=1e-5)
    assert decision.tool_call_probability == pytest.approx(belief, abs=1e-5)


@given(seed=st.integers(0, 500), normalise=st.booleans())
def test_asking_block_by_block_gives_the_same_gates(tmp_path_factory, seed, normalise):
    router = GateRouter(make_bundle(tmp_path_factory.getbasetemp(), seed, normalise=normalise))
    decision = router.decide(prompt(seed + 1))
    assert isinstance(router, BlockwiseRouter)
    for block in range(NUM_BLOCKS):
        probability = router.run_probability(block, states(seed + 1)[block])
        assert probability == decision.run_probabilities[block]
        assert (probability > 0.5) == (block in decision.program.blocks)
    assert router.tool_call_probability(states(seed + 1)[-1]) == decision.tool_call_probability


def test_gates_that_read_the_last_block_share_its_state_and_refuse_to_go_block_by_block(tmp_path):
    """Their logits are those of the formula at the state before the last block; nothing earlier counts."""
    own, last = (make_bundle(tmp_path, reads=reads) for reads in ("own_block", "last_block"))
    evidence = prompt()
    same_everywhere = PromptEvidence(5, 0, states()[-1:].expand(NUM_BLOCKS, HIDDEN))
    decision = GateRouter(last).decide(evidence)
    assert decision == GateRouter(own).decide(same_everywhere)
    assert decision != GateRouter(own).decide(evidence)
    for block in (0, 1):
        with pytest.raises(RouterError, match=r"use scope='generation', or train with routers\.reads=own_block"):
            GateRouter(last).run_probability(block, states()[block])


def test_a_tie_skips_and_the_reason_names_the_kind(tmp_path):
    bundle = make_bundle(tmp_path)
    for tensor in (bundle.gates_weight_LD, bundle.gates_bias_L, bundle.kind_weight_D):
        tensor.zero_()
    bundle.kind_bias.fill_(3.0)
    decision = GateRouter(bundle).decide(prompt())
    assert decision.program.blocks == (0,)
    assert decision.predicted_kind == StepKind.TOOL_CALL
    assert decision.reason == "expects tool call (95% sure), skips 5 of 6 blocks"
    bundle.kind_bias.fill_(-3.0)
    decision = GateRouter(bundle).decide(prompt())
    assert decision.predicted_kind == StepKind.PLANNING
    assert decision.reason == "expects planning (95% sure), skips 5 of 6 blocks"


def test_gates_read_only_the_states(tmp_path):
    router = GateRouter(make_bundle(tmp_path))
    assert router.decide(prompt(num_tokens=5, digest=1)) == router.decide(prompt(num_tokens=500, digest=2))
    assert router.decide(prompt(seed=1)) != router.decide(prompt(seed=2))


@pytest.mark.parametrize("evidence", [None, torch.zeros(NUM_BLOCKS, HIDDEN + 1), torch.zeros(NUM_BLOCKS + 1, HIDDEN)])
def test_gates_without_fitting_states_are_refused(tmp_path, evidence):
    with pytest.raises(RouterError, match="states of shape"):
        GateRouter(make_bundle(tmp_path)).decide(PromptEvidence(1, 0, evidence))


# Reducing states: padding, later tokens and other rows cannot be felt, to the last bit.


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    padding=st.integers(0, 40),
    evidence=st.sampled_from(["last", "mean"]),
    filler=st.sampled_from([0.0, 1e30, float("nan"), float("inf")]),
    seed=st.integers(0, 100),
)
def test_a_row_is_reduced_as_if_it_were_alone(lengths, padding, evidence, filler, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randn(length, HIDDEN, generator=generator) * 100 for length in lengths]
    batch = torch.full((len(rows), max(lengths) + padding, HIDDEN), filler)
    for index, row in enumerate(rows):
        batch[index, : len(row)] = row
    together = reduce_states(batch, lengths, evidence)
    for index, row in enumerate(rows):
        assert torch.equal(together[index], reduce_states(row[None], [len(row)], evidence)[0])


@pytest.mark.parametrize("evidence", ["last", "mean"])
def test_every_prompt_token_counts_as_it_should(evidence):
    hidden = torch.randn(2, 5, HIDDEN, dtype=torch.bfloat16)
    reduced = reduce_states(hidden, torch.tensor([5, 3]), evidence)
    assert reduced.dtype == torch.float32
    expected = (
        [hidden[0, 4], hidden[1, 2]]
        if evidence == "last"
        else [hidden[0].float().mean(0), hidden[1, :3].float().mean(0)]
    )
    torch.testing.assert_close(reduced, torch.stack(expected).float())


@pytest.mark.parametrize("evidence", ["last", "mean"])
def test_gradients_stay_within_the_prompt(evidence):
    hidden = torch.randn(2, 5, HIDDEN, requires_grad=True)
    reduce_states(hidden, [3, 5], evidence).sum().backward()
    assert hidden.grad[0, 3:].abs().sum() == 0
    assert hidden.grad[0, 2].abs().sum() > 0


@pytest.mark.parametrize(("lengths", "evidence"), [([0], "last"), ([4], "mean"), ([1, 1], "mean"), ([2], "none")])
def test_impossible_reductions_are_refused(lengths, evidence):
    with pytest.raises(RouterError):
        reduce_states(torch.zeros(1, 3, HIDDEN), lengths, evidence)


# Fixed routers and baselines.


def test_full_and_static(tmp_path):
    assert make_router("full", NUM_BLOCKS, None).decide(prompt()).program.is_identity
    decision = make_router("static:0-2,2,5", NUM_BLOCKS, None).decide(prompt())
    assert decision.program == LayerProgram((0, 1, 2, 2, 5), NUM_BLOCKS)
    assert decision.predicted_kind is None
    assert "0-2,2,5" in decision.reason


@given(rate=st.floats(0, 1), seed=st.integers(), digest=st.integers(0, 2**64))
def test_random_programs_are_drawn_from_seed_and_prompt_alone(rate, seed, digest):
    spec = f"random:{rate}:{seed}"
    programs = {make_router(spec, 24, None).decide(PromptEvidence(n, digest)).program for n in (1, 2)}
    (program,) = programs
    assert program.is_subsequence
    assert program.blocks[0] == 0


def test_random_skips_at_its_rate_and_differs_by_prompt_and_seed():
    def skipped(seed):
        router = make_router(f"random:0.3:{seed}", 24, None)
        return [router.decide(PromptEvidence(1, digest)).program.skipped for digest in range(300)]

    assert sum(map(len, skipped(0))) / (300 * 23) == pytest.approx(0.3, abs=0.03)
    assert len(set(skipped(0))) > 200
    assert skipped(0) != skipped(1)
    assert make_router("random:0.3", 24, None).decide(PromptEvidence(1, 5)).program.skipped == skipped(0)[5]


@pytest.mark.parametrize(("tokens", "runs"), [(511, "0-1,5"), (512, "0-1,5"), (513, "0-5")])
def test_length_runs_the_program_up_to_its_limit(tokens, runs):
    decision = make_router("length:512:0-1,5", NUM_BLOCKS, None).decide(PromptEvidence(tokens, 0))
    assert str(decision.program) == runs
    assert str(tokens) in decision.reason


# Specs.


@pytest.mark.parametrize(
    "spec", ["gates", "full", " full ", "static:0-2", "random:0.5", "random:0.5:7", "length:9:none"]
)
def test_every_spec_makes_its_router(tmp_path, spec):
    router = make_router(spec, NUM_BLOCKS, make_bundle(tmp_path))
    assert router.name == spec.strip().split(":")[0]
    assert router.name in {known.split(":")[0] for known in SPECS}
    decision = router.decide(prompt())
    assert decision.router == router.name
    assert router.decide(prompt()) == decision
    assert router.evidence == ("last" if spec == "gates" else "none")


@pytest.mark.parametrize(
    "spec",
    [
        *("", "gate", "Full", "full:1", "gates:0.5", "static", "static:", "static:0-9"),
        *("random", "random:x", "random:0.5:x", "random:2", "random:nan"),
        *("length:5", "length:x:0-1", "length:-1:0-1", "length:5:9"),
    ],
)
def test_bad_specs_are_refused(tmp_path, spec):
    with pytest.raises(LayerRouteError) as caught:
        make_router(spec, NUM_BLOCKS, make_bundle(tmp_path))
    if isinstance(caught.value, RouterError):
        assert (
            all(known in str(caught.value) for known in SPECS)
            or "rate" in str(caught.value)
            or "limit" in str(caught.value)
        )
    else:
        assert isinstance(caught.value, ProgramError)


def test_gates_without_a_bundle_say_how_to_get_one():
    with pytest.raises(RouterError, match=r"needs a bundle.*adapter.*train one.*'full'"):
        make_router("gates", NUM_BLOCKS, None)
