"""Corpora by hub id or local path, in their native formats, as canonical rows in one `datasets` schema.

    hub set, file or folder -> records -> rows (malformed ones counted by reason and skipped) -> Dataset

Held-out rows: a corpus with a test, validation or dev split of its own keeps it, canonical rows carry theirs, and
elsewhere the first user message decides (`rows.split_of`).
"""

import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args, overload

from layerroute_training.config import CorpusConfig
from layerroute_training.errors import CorpusError
from layerroute_training.native import Malformed, NativeFormat, detect, read_record
from layerroute_training.record_files import Part, local_parts
from layerroute_training.rows import Row, Split, Tool

if TYPE_CHECKING:
    import datasets

GENERATED = "generated"
_HUB_SETS: dict[str, tuple[NativeFormat, str | None]] = {
    "NousResearch/hermes-function-calling-v1": ("hermes", None),
    "glaiveai/glaive-function-calling-v2": ("glaive", None),
    "openai/gsm8k": ("gsm8k", "main"),
    "TuringEnterprises/Turing-Open-Reasoning": ("turing", None),
}
"""The paper's four sets: format, and the configuration read where the name gives none (None: the hub's default)."""

_NATIVE_FORMATS: dict[str, NativeFormat] = {name: name for name in get_args(NativeFormat)}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(?::[\w.-]+)?")
_HELD_OUT = re.compile(r"(?:^|[-_.])(?:test|validation|valid|val|dev)(?:[-_.]|$)")
_json_text = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True)
class CorpusReport:
    """What became of a corpus's records.

    Attributes:
        read: records; kept: rows made of them; malformed: records skipped, by reason.
        sha256: of all kept rows, in order.
    """

    read: int
    kept: int
    malformed: Counter[str] = field(default_factory=Counter)
    sha256: str = ""

    def __str__(self) -> str:
        skipped = "".join(f"; {count:,} skipped: {reason}" for reason, count in self.malformed.most_common())
        return f"{self.kept:,} of {self.read:,} rows{skipped}"


class Rows(Sequence[Row]):
    """Rows backed by a `datasets.Dataset` with the columns id, source, split, tools and messages.

    Tools and messages are stored as JSON text and read exactly. The dataset's own decoding changes the last digit of
    some decimals (datasets 5.2: 0.95 becomes 0.9500000000000001).
    """

    def __init__(self, dataset: "datasets.Dataset") -> None:
        """Rows of a dataset that `load_rows` made, or of a selection of it."""
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[Row]:
        tools: dict[str, Tool] = {}  # rows share their tools: a thousand times fewer are different
        for table in self.dataset.with_format("arrow").iter(batch_size=1000):
            for record in table.to_pylist():
                yield _decoded(record, tools)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        rows = [_decoded(record, {}) for record in self.dataset.with_format("arrow")[index].to_pylist()]
        return rows if isinstance(index, slice) else rows[0]


@dataclass(frozen=True)
class LoadedCorpus:
    """A corpus that has been read."""

    config: CorpusConfig
    rows: Rows
    report: CorpusReport

    def split(self, name: Split) -> Iterator[Row]:
        """Its training or its dev rows."""
        return (row for row in self.rows if row.split == name)


def load_rows(
    corpora: Sequence[CorpusConfig], *, malformed: float, progress: Callable[[int], None] = lambda rows: None
) -> tuple[LoadedCorpus, ...]:
    """Read corpora, in order.

    Args:
        corpora: by hub id (`owner/name` or `owner/name:configuration`), path of a file or folder, or "generated".
        malformed: largest share of malformed rows in any of them.
        progress: told how many rows more are read.

    Raises:
        CorpusError: a corpus cannot be found or reached, has no usable row, or too many malformed ones.
        ImportError: the `train` extra is not installed.
    """
    return tuple(_load(corpus, malformed, progress) for corpus in corpora)


def _load(config: CorpusConfig, malformed: float, progress: Callable[[int], None]) -> LoadedCorpus:
    texts = _RowTexts()
    reasons: Counter[str] = Counter()
    for outcome in itertools.islice(_outcomes(config), config.limit):
        reason = outcome if isinstance(outcome, str) else texts.append(outcome)
        if reason is not None:
            reasons[reason] += 1
        progress(1)
    report = CorpusReport(len(texts) + reasons.total(), len(texts), reasons, texts.digest.hexdigest())
    listed = "; ".join(f"{reason}: {count:,}" for reason, count in reasons.most_common())
    if not report.kept:
        detail = f"all {report.read:,} rows are malformed ({listed})" if report.read else "it has no rows"
        raise CorpusError(f"{config.name}: {detail}. Check the path and the format ({_formats()})")
    if reasons.total() > malformed * report.read:
        raise CorpusError(
            f"{config.name}: {reasons.total():,} of {report.read:,} rows are malformed ({listed}); "
            f"at most {malformed:.1%} may be. Repair them or raise data.malformed"
        )
    return LoadedCorpus(config, Rows(texts.dataset()), report)


def _outcomes(config: CorpusConfig) -> Iterator[Row | str]:
    """Rows, and for each malformed record the reason. A limit is shared by the corpus's files."""
    if GENERATED in (config.name, config.format):
        return _generated(config)
    parts = local_parts(config.name)
    known = _NATIVE_FORMATS.get(config.format)
    if parts is None:
        parts = _hub_parts(config.name)
        known = known or _HUB_SETS.get(config.name.partition(":")[0], (None, None))[0]
    has_held_out = any(_HELD_OUT.search(part.name) for part in parts)
    streams = []
    for part in parts:
        split: Split | None = None
        if has_held_out:
            split = "dev" if _HELD_OUT.search(part.name) else "train"
        streams.append(_part_outcomes(part, known, split))
    return itertools.chain.from_iterable(streams) if config.limit is None else _in_turn(streams)


def _part_outcomes(part: Part, known: NativeFormat | None, split: Split | None) -> Iterator[Row | str]:
    for number, record in enumerate(part.records):
        if not isinstance(record, Mapping):
            yield "a line that is no JSON object"
            continue
        known = known or detect(record)
        if known is None:
            columns = ", ".join(map(str, record))
            raise CorpusError(f"{part.name}: no known format has the columns {columns}. Set its format: {_formats()}")
        try:
            yield read_record(record, known, fallback_id=f"{part.name}-{number}", split=split)
        except Malformed as error:
            yield str(error)


def _generated(config: CorpusConfig) -> Iterator[Row]:
    """As many rows as the limit says: the first of every kind, in the generator's shares."""
    if config.limit is None:
        raise CorpusError(f"{config.name}: generated conversations have no end. Set the corpus's limit")
    from layerroute_training.embedded.conversations import SHARES, generate  # loads the demos that it imitates

    bounds = [round(config.limit * share) for share in itertools.accumulate(SHARES.values(), initial=0.0)]
    for kind, (start, stop) in zip(SHARES, itertools.pairwise(bounds), strict=True):
        yield from generate(kind, 0, stop - start)


def _hub_parts(name: str) -> list[Part]:
    """The splits of a hub set."""
    remedy = "Download it and give the path of the file or folder instead"
    if not _HUB_ID.fullmatch(name):
        raise CorpusError(f"{name}: no such file or folder, and no hub id (owner/name). Correct the path")
    identity, _, configuration = name.partition(":")
    load_dataset = _datasets().load_dataset
    try:
        splits = load_dataset(identity, configuration or _HUB_SETS.get(identity, (None, None))[1])
    except Exception as error:  # the hub's libraries raise many unrelated classes when they cannot reach it
        first_line = str(error).strip().partition("\n")[0]
        raise CorpusError(
            f"{name}: not a path here, and the hub cannot be reached or does not have it "
            f"({type(error).__name__}: {first_line}). {remedy}"
        ) from error
    return [Part(str(split), iter(records)) for split, records in splits.items()]


def _in_turn(streams: Iterable[Iterator[Row | str]]) -> Iterator[Row | str]:
    waiting = list(streams)
    while waiting:
        for stream in list(waiting):
            outcome = next(stream, None)
            if outcome is None:
                waiting.remove(stream)
            else:
                yield outcome


def _formats() -> str:
    return ", ".join(_NATIVE_FORMATS)


class _RowTexts:
    """Rows as the JSON text that the dataset stores, a fraction of the objects' size."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self._plain: tuple[list[str], list[str], list[str]] = ([], [], [])
        self._json: tuple[list[list[str]], list[list[str]]] = ([], [])

    def __len__(self) -> int:
        return len(self._plain[0])

    def append(self, row: Row) -> str | None:
        """Take a row, or say why it cannot be stored."""
        plain = (row.id, row.source, row.split)
        lists = ([_json_text(tool) for tool in row.tools], [_json_text(message) for message in row.messages])
        try:
            self.digest.update("\n".join([_json_text(plain), *lists[0], *lists[1], "\n"]).encode())
        except UnicodeEncodeError:
            return "text that is not valid Unicode"
        for texts, value in zip(self._plain, plain, strict=True):
            texts.append(value)
        for columns, values in zip(self._json, lists, strict=True):
            columns.append(values)
        return None

    def dataset(self) -> "datasets.Dataset":
        """The schema of all corpora: id, source, split, and tools and messages as lists of JSON."""
        library = _datasets()
        import pyarrow as pa

        columns = dict(zip(("id", "source", "split"), map(pa.array, self._plain), strict=True))
        for name, lists in zip(("tools", "messages"), self._json, strict=True):
            offsets = pa.array(itertools.accumulate(map(len, lists), initial=0), pa.int32())
            texts = pa.array(itertools.chain.from_iterable(lists), pa.string())
            columns[name] = pa.ListArray.from_arrays(offsets, pa.ExtensionArray.from_storage(pa.json_(), texts))
        return library.Dataset(pa.table(columns))


def _decoded(record: Mapping[str, Any], known: dict[str, Tool]) -> Row:
    """The row of a record; tools that are not known yet are added."""
    for text in record["tools"]:
        if text not in known:
            known[text] = json.loads(text)
    tools = [known[text] for text in record["tools"]]
    messages = [json.loads(text) for text in record["messages"]]
    return Row(record["id"], record["source"], record["split"], tools, messages)


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ImportError("reading corpora needs datasets: pip install layerroute[train]") from error
    return datasets
