"""Corpora: files and hub sets become rows of one schema; malformed rows are counted, refused beyond 5 %."""

from collections import Counter
from pathlib import Path

import datasets
import pytest
from corpus_files import PLAIN, called, canonical, load, write

from layerroute_training.config import CorpusConfig
from layerroute_training.corpora import load_rows
from layerroute_training.errors import CorpusError
from layerroute_training.rows import Row


def test_gsm8k_keeps_its_own_test_split(tmp_path: Path) -> None:
    train = [{"question": f"What is {n} + {n}?", "answer": f"#### {2 * n}"} for n in range(60)]
    write(tmp_path / "train-00000-of-00001.parquet", train)
    assert {row.split for row in load(tmp_path).rows} == {"train", "dev"}  # by the rule of the first user message
    write(tmp_path / "test-00000-of-00001.parquet", [PLAIN])
    corpus = load(tmp_path)
    assert [row.source for row in corpus.split("train")] == ["gsm8k"] * 60
    (dev,) = corpus.split("dev")
    assert [message["content"] for message in dev.messages] == [PLAIN["question"], PLAIN["answer"]]


@pytest.mark.parametrize("name", ["shop.jsonl", "shop.jsonl.gz", "shop.json"])
def test_canonical_rows_are_read_exactly(tmp_path: Path, name: str) -> None:
    decimals = [0.95, 0.1 + 0.2, 1e-7, 2**53 + 1, None, "naïve", [1.10, {}]]
    records = [canonical(number, value) for number, value in enumerate(decimals)]
    corpus = load(write(tmp_path / name, records))
    assert list(corpus.rows) == [Row(**record) for record in records]
    assert corpus.rows[2:] == list(corpus.rows)[2:]
    assert corpus.rows[-1].messages[2]["tool_calls"] == [called("get_stock", symbol=[1.10, {}])]
    assert corpus.report.sha256 == load(write(tmp_path / "other" / "copy.jsonl", records)).report.sha256
    assert corpus.report.sha256 != load(write(tmp_path / "less.jsonl", records[1:])).report.sha256


def test_a_saved_dataset_is_a_corpus_again(tmp_path: Path) -> None:
    first = load(write(tmp_path / "shop.jsonl", [canonical(0), canonical(1, split="dev")]))
    first.rows.dataset.to_parquet(tmp_path / "shop.parquet")
    again = load(tmp_path / "shop.parquet")
    assert list(again.rows) == list(first.rows)
    assert again.report == first.report


def test_all_formats_have_one_schema(tmp_path: Path) -> None:
    corpora = load_rows(
        [
            CorpusConfig(name=str(write(tmp_path / "a.jsonl", [PLAIN, {**PLAIN, "question": "And now?"}]))),
            CorpusConfig(name=str(write(tmp_path / "b.jsonl", [canonical(0)]))),
            CorpusConfig(name="generated", limit=40),
        ],
        malformed=0.05,
    )
    features = datasets.Features(
        id=datasets.Value("string"),
        source=datasets.Value("string"),
        split=datasets.Value("string"),
        tools=datasets.List(datasets.Json()),
        messages=datasets.List(datasets.Json()),
    )
    assert all(corpus.rows.dataset.features == features for corpus in corpora)
    together = datasets.concatenate_datasets([corpus.rows.dataset for corpus in corpora])
    assert Counter(source.partition("_")[0] for source in together["source"]) == {
        "gsm8k": 2,
        "shop": 1,
        "generated": 40,
    }


def test_a_limit_takes_from_all_files_in_turn(tmp_path: Path) -> None:
    for name, count in (("a", 9), ("b", 1), ("c", 9)):
        write(tmp_path / f"{name}.jsonl", [{**canonical(n), "id": f"{name}{n}"} for n in range(count)])
    assert [row.id for row in load(tmp_path, limit=6).rows] == ["a0", "b0", "c0", "a1", "c1", "a2"]
    assert len(load(tmp_path).rows) == 19


def test_malformed_rows_are_skipped_and_counted_up_to_a_share(tmp_path: Path) -> None:
    good = [{**PLAIN, "question": f"Question {number}?"} for number in range(38)]
    path = write(tmp_path / "rows.jsonl", [*good, {**PLAIN, "answer": ""}])
    with path.open("a") as file:
        file.write("{half a line\n")
    report = load(path).report  # 2 of 40 are exactly the 5 % that may be
    assert (report.read, report.kept) == (40, 38)
    assert report.malformed == {"an empty assistant turn": 1, "a line that is no JSON object": 1}
    assert "1 skipped: an empty assistant turn" in str(report)
    with path.open("a") as file:
        file.write('{"question": "\\ud800?", "answer": "3"}\n')
    with pytest.raises(
        CorpusError, match=r"3 of 41 .*an empty assistant turn: 1.*not valid Unicode: 1.*data\.malformed"
    ):
        load(path)
    assert load(path, malformed=0.1).report.kept == 38


def test_corpora_that_cannot_be_used_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such file"):
        load(tmp_path / "missing.jsonl")
    with pytest.raises(CorpusError, match="no hub id"):
        load(tmp_path / "missing")
    with pytest.raises(CorpusError, match="in this folder"):
        load(tmp_path)
    with pytest.raises(CorpusError, match="it has no rows"):
        load(write(tmp_path / "empty.jsonl", []))
    with pytest.raises(CorpusError, match=r"all 1 rows are malformed \(an empty question: 1\)"):
        load(write(tmp_path / "bad.jsonl", [{**PLAIN, "question": ""}]), malformed=1.0)
    with pytest.raises(CorpusError, match=r"columns prompt, completion\. Set its format: canonical, hermes"):
        load(write(tmp_path / "unknown.jsonl", [{"prompt": "a", "completion": "b"}]))
    with pytest.raises(CorpusError, match="Set the corpus's limit"):
        load("generated")
    damaged = write(tmp_path / "rows.jsonl.gz", [PLAIN] * 50)
    damaged.write_bytes(damaged.read_bytes()[:-12])
    with pytest.raises(CorpusError, match="damaged"):
        load(damaged)
    for name in ("table.parquet", "list.json"):
        (tmp_path / name).write_text("[not what it says")
        with pytest.raises(CorpusError, match="Fetch the file again"):
            load(tmp_path / name)


@pytest.mark.parametrize("name", ["openai/gsm8k", "NousResearch/hermes-function-calling-v1:func_calling"])
def test_an_unreachable_hub_names_the_remedy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(CorpusError, match=r"the hub cannot be reached.*give the path of the file or folder instead"):
        load(name)


def test_hub_sets_have_their_format_configuration_and_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(identity: str, configuration: str | None) -> datasets.DatasetDict:
        assert (identity, configuration) == ("openai/gsm8k", "main")
        part = datasets.Dataset.from_list([PLAIN])
        return datasets.DatasetDict(train=part, test=part)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    corpus = load("openai/gsm8k")
    assert [(row.id, row.source, row.split) for row in corpus.rows] == [
        ("train-0", "gsm8k", "train"),
        ("test-0", "gsm8k", "dev"),
    ]
