import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny_documents import write_data
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from layerroute_training.embedded.batches import RowPacker, Span, SpanStream, pack_all, read_documents
from layerroute_training.embedded.export import export_backbone, load_backbone
from layerroute_training.embedded.network import Network, NetworkShape, dense_mask, flex_mask
from layerroute_training.embedded.optim import Clock, orthogonalise, trapezoid
from layerroute_training.embedded.pretrain import AnswerSkips, Depths, Pretraining, block_dropout, draw_depths
from layerroute_training.embedded.recipe import TINY, Recipe, main, pack
from layerroute_training.embedded.runtime import Journal, Runtime, choose_runtime, first_that_agrees

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def documents(data):
    return {group.name: group for group in read_documents(data, "backbone")}


def pretraining(data, folder):
    network = Network(TINY.shape)
    network.initialise(0)
    journal = Journal(folder / "journal.jsonl")
    runtime = choose_runtime(network, TINY.pretrain.rows, TINY.pretrain.row_tokens, journal)
    train, dev = read_documents(data, "backbone"), read_documents(data, "dev")
    return Pretraining(TINY.pretrain, network, runtime, train, dev, Clock(TINY.pretrain.steps), folder, journal)


def test_turns_are_the_answers_of_the_text(data, documents):
    tokenizer = Tokenizer.from_file(str(data / "tokenizer" / "tokenizer.json"))
    group = documents["generated"]
    text = tokenizer.decode(group.tokens.tolist(), skip_special_tokens=False)
    expected = [part.split("<|im_end|>")[0] + "<|im_end|>" for part in text.split("<|im_start|>assistant\n")[1:]]
    turns = group.turns
    found = [
        tokenizer.decode(group.tokens[begin:end].tolist(), skip_special_tokens=False)
        for begin, end in zip(turns.begin, turns.end, strict=True)
    ]
    assert found == expected
    assert turns.is_tool_call.tolist() == ["<tool_call>" in answer for answer in expected]


def test_a_wrong_token_count_is_refused(data, tmp_path):
    for path in data.iterdir():
        (tmp_path / path.name).symlink_to(path)
    index = json.loads((data / "index.json").read_text())
    index["groups"]["general"]["backbone"]["offsets"][-1] += 1
    (tmp_path / "index.json").unlink()
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="run prepare again"):
        read_documents(tmp_path, "backbone")


@given(st.lists(st.integers(1, 64), min_size=1, max_size=60), st.integers(0, 5))
def test_a_stream_reads_every_span_once_an_epoch_and_never_overfills(lengths, seed):
    stream = SpanStream(np.array(lengths), 64, seed, waiting=8)
    seen = []
    while len(seen) < 3 * len(lengths):
        row = stream.next_row()
        assert 0 < sum(lengths[span] for span in row) <= 64
        seen += row
    counts = np.bincount(seen, minlength=len(lengths))
    assert counts.min() >= 1
    assert counts.max() <= 5


@given(st.lists(st.integers(1, 64), min_size=1, max_size=60))
def test_packing_everything_holds_every_span_once(lengths):
    rows = pack_all(lengths, 64)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in row) <= 64 for row in rows)


def test_packed_rows_say_where_everything_is(documents):
    groups = [documents["generated"], documents["general"]]
    chats, texts = groups[0].spans.tolist(), groups[1].pieces(300).tolist()
    layout = [[Span(0, *chats[0]), Span(0, *chats[1])], [Span(1, *texts[0]), Span(0, *chats[2])]]
    rows = RowPacker(groups, 512, 0.25, CPU).pack(layout)
    turn = 0
    for b, row in enumerate(layout):
        at = 0
        for span in row:
            ids = groups[span.group].tokens[span.start : span.end].astype(np.int64)
            here = slice(at, at + len(ids))
            assert rows.tokens_BT[b, here].tolist() == ids.tolist()
            assert rows.target_BT[b, at : at + len(ids) - 1].tolist() == ids[1:].tolist()
            assert set(rows.start_BT[b, here].tolist()) == {at}
            assert rows.weight_BT[b, at + len(ids) - 1] == 0
            turns = groups[span.group].turns
            for index in np.flatnonzero((turns.begin >= span.start) & (turns.end <= span.end)):
                begin, end = (int(x) - span.start + at for x in (turns.begin[index], turns.end[index]))
                assert set(rows.turn_BT[b, begin:end].tolist()) == {turn}
                assert set(rows.weight_BT[b, begin - 1 : end - 1].tolist()) == {1.0}
                assert bool(rows.calls_U[turn]) == turns.is_tool_call[index]
                turn += 1
            others = {1.0} if span.group == 1 else {0.25, 1.0, 0.0}
            assert set(rows.weight_BT[b, here].tolist()) <= others | {0.0}
            at += len(ids)
        assert set(rows.weight_BT[b, at:].tolist()) == {0.0}
    assert len(rows.calls_U) == turn
    assert torch.equal(rows.answer_at_A, torch.nonzero(rows.turn_BT.flatten() >= 0).flatten())


@pytest.fixture(scope="module")
def rows(documents):
    group = documents["generated"]
    spans = [Span(0, *span) for span in group.spans.tolist()]
    return RowPacker([group], 1024, 0.2, CPU).pack([spans[:3], spans[3:6]])


ORDER = (5, 3, 9, 7)
EVERY_TURN = AnswerSkips(ORDER, 0.0, tool_call=(Depths(1.0, 1, 4),), planning=(Depths(1.0, 2, 2),))
NO_TURN = AnswerSkips(ORDER, 0.0, tool_call=(), planning=())


def skipped_per_turn(run_LBT, rows):
    per_turn = [run_LBT[:, rows.turn_BT == turn] for turn in range(len(rows.calls_U))]
    assert all((flags == flags[:, :1]).all() for flags in per_turn)
    return [set(torch.nonzero(~flags[:, 0]).flatten().tolist()) for flags in per_turn]


def test_answers_alone_skip_and_by_their_kind(rows):
    drawn = [block_dropout(rows, 12, 0.0, EVERY_TURN, seed) for seed in range(5)]
    assert all(run_LBT[:, rows.turn_BT < 0].all() for run_LBT in drawn)
    for calls in (True, False):
        skipped = [
            blocks
            for run_LBT in drawn
            for blocks, is_call in zip(skipped_per_turn(run_LBT, rows), rows.calls_U.tolist(), strict=True)
            if is_call == calls
        ]
        assert {len(blocks) for blocks in skipped} == ({1, 2, 3, 4} if calls else {2})
        assert all(blocks == set(ORDER[: len(blocks)]) for blocks in skipped)


def test_random_skips_leave_block_zero_alone(rows):
    every = AnswerSkips(ORDER, 1.0, tool_call=(Depths(1.0, 8, 8),), planning=(Depths(1.0, 11, 11),))
    run_LBT = block_dropout(rows, 12, 0.0, every, seed=3)
    assert run_LBT[0].all()
    skipped = skipped_per_turn(run_LBT, rows)
    assert {len(blocks) for blocks in skipped} == {8, 11}
    assert len({frozenset(blocks) for blocks in skipped if len(blocks) == 8}) > 1


def test_shares_of_depths_are_met():
    generator = torch.Generator().manual_seed(0)
    counts = draw_depths((Depths(0.5, 8, 8), Depths(0.25, 1, 2)), 20_000, generator)
    shares = (torch.bincount(counts, minlength=9) / len(counts)).tolist()
    assert shares == pytest.approx([0.25, 0.125, 0.125, 0, 0, 0, 0, 0, 0.5], abs=0.015)


def test_a_dropped_document_goes_without_the_block_as_a_whole(rows):
    run_LBT = block_dropout(rows, 12, 0.5, NO_TURN, seed=3)
    per_span = torch.stack([run_LBT[:, rows.span_BT == span].float().mean(1) for span in range(rows.num_spans)])
    assert set(per_span.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(run_LBT, block_dropout(rows, 12, 0.5, NO_TURN, seed=3))
    assert block_dropout(rows, 12, 0.0, NO_TURN, seed=3).all()


def test_a_resumed_run_equals_one_that_never_stopped(data, tmp_path):
    straight, broken = pretraining(data, tmp_path / "a"), pretraining(data, tmp_path / "b")
    for _ in range(4):
        straight.train_step()
        straight.clock.tick()
    for _ in range(2):
        broken.train_step()
        broken.clock.tick()
    broken.save()
    resumed = pretraining(data, tmp_path / "b")
    assert resumed.resume()
    for _ in range(2):
        resumed.train_step()
        resumed.clock.tick()
    expected = straight.network.state_dict()
    for name, tensor in resumed.network.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_training_lowers_the_loss_on_the_dev_documents(data, tmp_path):
    run = pretraining(data, tmp_path)
    before = run.dev_nll()
    assert run.run(deadline=float("inf"))
    after = run.dev_nll()
    assert after["mean"] < before["mean"]
    assert "generated/tool_call" in after
    assert "general/planning" not in after


def test_the_better_weights_are_kept(data, tmp_path):
    run = pretraining(data, tmp_path)
    fresh = run.dev_nll()["mean"]
    with torch.no_grad():
        run.network.embed_VD.mul_(30.0)  # ruin the last weights; their average is still the fresh ones
    assert run.adopt_better_weights() == "average"
    assert run.dev_nll()["mean"] == pytest.approx(fresh, abs=1e-4)


def test_a_batch_with_an_overflow_leaves_the_weights_finite(data, tmp_path):
    run = pretraining(data, tmp_path)
    run.network.embed_VD.register_hook(lambda gradient: gradient * float("nan"))
    run.train_step()
    assert all(parameter.isfinite().all() for parameter in run.network.parameters())


def test_learning_rate_warms_up_stays_and_ends_at_zero():
    assert trapezoid(0.0, 0, 200, 0.4) == pytest.approx(1 / 200)
    assert trapezoid(0.39, 500, 200, 0.4) == 1.0
    assert trapezoid(0.7, 500, 200, 0.4) == pytest.approx(0.5)
    assert trapezoid(1.0, 500, 200, 0.4) == 0.0


def test_a_timed_clock_does_not_count_compilation_or_pauses(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("layerroute_training.embedded.optim.monotonic", lambda: now[0])
    clock = Clock(10, seconds=4.0)
    for seconds in (50.0, 1.0, 1.0):  # the first step compiles
        now[0] += seconds
        clock.tick()
    assert clock.progress == 0.5
    clock.pause()
    now[0] += 30.0
    clock.tick()
    assert clock.progress == 0.5
    now[0] += 2.0
    clock.tick()
    assert clock.finished


@pytest.mark.parametrize("shape", [(3, 16, 64), (2, 64, 16), (2, 32, 32)])
def test_orthogonalised_matrices_keep_their_subspaces_and_have_singular_values_near_one(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = orthogonalise(matrices)
    assert found.shape == matrices.shape
    singular = torch.linalg.svdvals(found)
    assert singular.min() > 0.3
    assert singular.max() < 1.5
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    assert (torch.einsum("lij,lij->l", found, u @ v) / found[0].numel() ** 0.5).min() > 0


def test_a_runtime_that_computes_something_else_is_rejected(tmp_path, monkeypatch):
    network = Network(TINY.shape)
    network.initialise(0)
    monkeypatch.setattr(Network, "compile", Network.interpret)
    wrong = Runtime(CPU, torch.float32, lambda start_BT: dense_mask(torch.zeros_like(start_BT)), 256, 3)
    unable = Runtime(CPU, torch.float32, flex_mask, 256, 3)  # flex attention has no gradients on a CPU
    right = Runtime(CPU, torch.float32, dense_mask, 256, 3)
    journal = Journal(tmp_path / "journal.jsonl")
    assert first_that_agrees(network, {"unable": unable, "wrong": wrong, "right": right}, journal) is right
    rejected = json.loads((tmp_path / "journal.jsonl").read_text())["rejected"]
    assert rejected[0].startswith("unable: ")
    assert rejected[1].startswith("wrong: ArithmeticError")
    assert first_that_agrees(network, {"wrong": wrong}, journal) is None


def test_a_call_out_of_time_saves_and_another_finishes(data, tmp_path):
    arguments = ["--data", str(data), "--out", str(tmp_path), "--tiny"]
    assert main([*arguments, "--minutes", "0.001"]) == 3
    assert (tmp_path / "pretrain.pt").exists()
    with pytest.raises(SystemExit, match="--resume"):
        main(arguments)
    assert main([*arguments, "--resume"]) == 0
    events = [json.loads(line) for line in Path(tmp_path / "journal.jsonl").read_text().splitlines()]
    assert [event["complete"] for event in events if event["event"] == "pretrained"] == [False, True]


@pytest.fixture(scope="module")
def out(data, tmp_path_factory):
    """What a whole run leaves behind, and its pieces."""
    out = tmp_path_factory.mktemp("run")
    arguments = ["--data", str(data), "--out", str(out / "out"), "--tiny", "--pack", str(out / "pieces")]
    assert main(arguments) == 0
    return out


def test_the_exported_backbone_loads_in_transformers_and_its_shards_are_small(out):
    folder = out / "out" / "embedded"
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert model.config.model_type == "qwen2"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in model.generation_config.eos_token_id
    assert "tool_call" in tokenizer.chat_template
    assert all(path.stat().st_size < 16_000_000 for path in folder.iterdir())
    total = sum(tensor.nbytes for path in folder.glob("*.safetensors") for tensor in load_file(path).values())
    assert json.loads((folder / "model.safetensors.index.json").read_text())["metadata"]["total_size"] == total


def test_a_second_stage_starts_from_the_exported_weights(data, out, tmp_path):
    first = out / "out" / "embedded"
    network = Network(TINY.shape)
    network.initialise(5)
    load_backbone(network, first)
    again = tmp_path / "again"
    export_backbone(network, data / "tokenizer", again)
    for path in sorted(first.glob("*.safetensors")):
        assert path.read_bytes() == (again / path.name).read_bytes()
    arguments = ["--data", str(data), "--tiny", "--start", str(first)]
    assert main([*arguments, "--out", str(tmp_path / "second")]) == 0
    assert _first_loss(tmp_path / "second") < _first_loss(out / "out") - 0.2


def _first_loss(folder):
    events = map(json.loads, (folder / "journal.jsonl").read_text().splitlines())
    return next(event["loss"] for event in events if event["event"] == "train")


def test_a_start_that_does_not_fit_is_refused(out, tmp_path):
    with pytest.raises(FileNotFoundError, match="embedded/ of a finished run"):
        load_backbone(Network(TINY.shape), tmp_path)
    with pytest.raises(ValueError, match="does not fit"):
        load_backbone(Network(NetworkShape(hidden_size=16, num_blocks=2)), out / "out" / "embedded")


def test_the_pieces_hold_everything_but_the_checkpoint(out, tmp_path):
    joined = tmp_path / "joined.tar"
    joined.write_bytes(b"".join(path.read_bytes() for path in sorted((out / "pieces").iterdir())))
    with tarfile.open(joined) as tar:
        names = set(tar.getnames())
    files = {str(path.relative_to(out / "out")) for path in (out / "out").rglob("*") if path.is_file()}
    assert {"journal.jsonl", "embedded/config.json"} <= names
    assert files - names == {"pretrain.pt"}


def test_pieces_are_small_enough_to_travel(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "weights").write_bytes(np.random.default_rng(0).bytes(31_000_000))
    pieces = pack(tmp_path / "out", tmp_path / "pieces")
    assert [piece.name for piece in pieces] == ["embedded.tar.00", "embedded.tar.01", "embedded.tar.02"]
    assert all(piece.stat().st_size <= 15_000_000 for piece in pieces)


def test_the_shipped_recipe_fits_its_limits():
    size = sum(parameter.numel() for parameter in Network(Recipe().shape).parameters()) * 2
    assert size < 48_000_000 - 2_500_000  # tokenizer and bundle take the rest
    config = Recipe().pretrain
    for mixture in (config.mixture, config.anneal_mixture):
        assert sum(mixture.values()) == pytest.approx(1.0)
