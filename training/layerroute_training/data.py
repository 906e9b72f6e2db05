"""From the corpora of a configuration to the steps of its two splits, and the folder that keeps them.

Training and evaluation need no more than that folder: `train/` and `dev/` are step sets, `data.json` says what they
were made of.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from layerroute.backbone.config import read_config, resolve_checkpoint
from layerroute.engine.tokenizer import load_tokenizer
from layerroute.files import replace_text
from layerroute_training.config import DataConfig, TrainConfig
from layerroute_training.corpora import LoadedCorpus, load_rows
from layerroute_training.cutting import StepCounts, build_steps
from layerroute_training.errors import ConfigError, CorpusError
from layerroute_training.overlap import check_overlap, find_overlap
from layerroute_training.progress import Progress, no_progress
from layerroute_training.rows import Row, Split, part_of
from layerroute_training.steps import StepSet
from layerroute_training.turns import ANSWER_TOO_LONG

_NOTES = "data.json"
_SPLITS: tuple[Split, ...] = ("train", "dev")


@dataclass(frozen=True)
class StepData:
    """The steps of a run.

    Attributes:
        train: steps to train on; empty if all steps are held out.
        dev: held-out steps, or None if there are none.
        notes: what they were made of, as JSON values: corpora with their reports, counts of steps, and the tokenizer.
    """

    train: StepSet
    dev: StepSet | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write the steps into `folder`.

        Raises:
            CorpusError: `folder` holds something else.
        """
        sets = {name: steps for name, steps in (("train", self.train), ("dev", self.dev)) if steps}
        for name in {"train", "dev"} - set(sets):
            if (folder / name).exists():
                raise CorpusError(f"{folder / name} holds steps of other data: name another folder, or remove it")
        for name, steps in sets.items():
            steps.save(folder / name)
        replace_text(folder / _NOTES, json.dumps(self.notes, indent=2) + "\n")  # last: with notes it is complete

    @classmethod
    def load(cls, folder: Path) -> "StepData":
        """Read a folder that `save` wrote, or one that holds nothing but a `train/`, a `dev/`, or both.

        Raises:
            CorpusError: missing or damaged.
        """
        try:
            notes = json.loads((folder / _NOTES).read_text(encoding="utf-8"))
        except FileNotFoundError:
            notes = {}
        except ValueError as error:
            raise CorpusError(f"{folder / _NOTES} is damaged ({error}): prepare the steps again") from error
        dev = StepSet.load(folder / "dev") if (folder / "dev").exists() else None
        if dev is not None and not (folder / "train").exists():
            return cls(dev.select(()), dev, notes)
        return cls(StepSet.load(folder / "train"), dev, notes)

    def describe(self) -> list[str]:
        """What was read and what became of it, in lines for people."""
        lines = [f"{corpus['name']}: {corpus['text']}" for corpus in self.notes.get("corpora", ())]
        if dropped := self.notes.get("overlapping_rows_dropped"):
            lines.append(f"{dropped:,} training rows dropped: they share text with dev rows")
        for name, counts in self.notes.get("counts", {}).items():
            skipped = "".join(f"; {count:,} skipped: {reason}" for reason, count in counts["skipped"].items())
            lines.append(f"{name}: {counts['steps']:,} steps of {counts['conversations']:,} conversations{skipped}")
        return lines


def build_data(config: TrainConfig, *, processes: int = 1, progress: Progress = no_progress) -> StepData:
    """Read the corpora of a configuration and cut them into steps for its model.

    Args:
        config: of a run.
        processes: most processes that cut; the steps do not depend on them.
        progress: told how far this is.

    Raises:
        CorpusError: a corpus cannot be read, is empty, has too many malformed rows, or gives no step; too many answers
            are longer than the window.
        ConfigError: the mixture asks for a group that no corpus is of, or the model has no chat template.
        WorkerError: a process was ended from outside.
        OverlapError: training and dev rows share text.
        BackboneError: no complete checkpoint of the Qwen2 family under the model's name.
    """
    data = config.data
    if not data.corpora:
        raise CorpusError("data.corpora is empty: give --data, or --steps with a folder of prepared steps")
    _check_mixture(data)
    folder = resolve_checkpoint(config.model)
    # Other architectures and damaged folders are refused before an hour of reading.
    tokenizer = load_tokenizer(folder, read_config(folder).vocab_size)
    if tokenizer.chat_template is None:
        raise ConfigError(f"the tokenizer in {folder} has no chat template: use a Qwen2.5 Instruct checkpoint")
    corpora = load_rows(data.corpora, malformed=data.malformed, progress=_counter(progress, "reading rows", None))
    rows = _rows_by_group(corpora)
    if data.kept_back:
        rows["train"] = {name: [row for row in of if part_of(row) == "fit"] for name, of in rows["train"].items()}
    dropped = 0
    progress("looking for text that training and dev rows share", 0, None)
    if data.drop_overlap:
        rows["train"], dropped = _without_overlap(rows["train"], rows["dev"])
    else:
        check_overlap(_all_rows(rows["train"]), _all_rows(rows["dev"]))
    unused: Mapping[Split, float] = {"train": data.unused_tools, "dev": data.dev_unused_tools}
    count = sum(len(of) for by_group in rows.values() for of in by_group.values())
    cut = _counter(progress, "cutting conversations into steps", count)
    sets: dict[str, StepSet] = {}
    counts: dict[str, StepCounts] = {}
    for split in _SPLITS:
        if any(rows[split].values()):
            sets[split], counts[split] = build_steps(
                rows[split],
                tokenizer,
                window=data.window,
                unused_tools=unused[split],
                seed=config.seed,
                processes=processes,
                progress=cut,
            )
            _refuse_short_window(split, counts[split], data)
    if not sets:
        raise CorpusError("no row of the corpora is kept: data.kept_back leaves out what the embedded backbone saw")
    notes = {
        "data": data.model_dump(include={"window", "unused_tools", "dev_unused_tools", "kept_back"}),
        "corpora": [_describe_corpus(corpus) for corpus in corpora],
        "overlapping_rows_dropped": dropped,
        "counts": {split: asdict(count) for split, count in counts.items()},
        "tokenizer": tokenizer_digest(folder),
    }
    dev = sets.get("dev")
    return StepData(sets["train"] if dev is None else sets.get("train", dev.select(())), dev, notes)


def tokenizer_digest(folder: Path) -> str | None:
    """Identifies the tokenizer of a checkpoint; None if it has none."""
    path = folder / "tokenizer.json"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def check_steps(data: StepData, config: TrainConfig, folder: Path) -> None:
    """Check that steps are in the tokens of the model in `folder`.

    Raises:
        CorpusError: they were made with another tokenizer.
    """
    made_with = data.notes.get("tokenizer")
    vocabulary = read_config(folder).vocab_size
    highest = max(int(steps.tokens.max(initial=0)) for steps in (data.train, data.dev) if steps is not None)
    if made_with not in (None, tokenizer_digest(folder)) or highest >= vocabulary:
        raise CorpusError(
            f"the steps were made with another tokenizer than that of {config.model}: prepare them again for this model"
        )


def _check_mixture(data: DataConfig) -> None:
    """Refuse before anything is read what would be missed when batches are drawn."""
    groups = {corpus.group for corpus in data.corpora}
    asked = {name.rpartition("/")[0] for name in data.mixture}
    if missing := sorted(asked - groups):
        raise ConfigError(
            f"data.mixture gives shares to the groups {', '.join(sorted(asked))}, but no corpus is of the group "
            f"{', '.join(missing)}: give --data, or shares of what there is by --set data.mixture"
        )


def _counter(progress: Progress, what: str, total: int | None) -> Callable[[int], None]:
    """Tells of work that is done piece by piece."""
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress(what, done, total)

    return count


def _rows_by_group(corpora: Sequence[LoadedCorpus]) -> dict[Split, dict[str, list[Row]]]:
    """The rows of each split, by their corpora's group; every corpus is read once."""
    rows: dict[Split, dict[str, list[Row]]] = {split: {} for split in _SPLITS}
    for corpus in corpora:
        groups = {split: rows[split].setdefault(corpus.config.group, []) for split in _SPLITS}
        for row in corpus.rows:
            groups[row.split].append(row)
    return rows


def _all_rows(rows: Mapping[str, list[Row]]) -> list[Row]:
    return [row for group in rows.values() for row in group]


def _without_overlap(train: Mapping[str, list[Row]], dev: Mapping[str, list[Row]]) -> tuple[dict[str, list[Row]], int]:
    """The training rows of every group that share no text with a dev row, and how many others there were."""
    overlap = find_overlap(_all_rows(train), _all_rows(dev))
    dropped = {*overlap.exact, *overlap.grams}
    position = itertools.count()
    return {name: [row for row in rows if next(position) not in dropped] for name, rows in train.items()}, len(dropped)


def _refuse_short_window(split: str, counts: StepCounts, data: DataConfig) -> None:
    too_long = counts.skipped.get(ANSWER_TOO_LONG, 0)
    turns = counts.steps + sum(counts.skipped.values())
    if too_long > data.malformed * turns:
        raise CorpusError(
            f"{too_long:,} of {turns:,} {split} answers are longer than the window of {data.window} tokens: "
            "raise data.window, or allow it by data.malformed"
        )


def _describe_corpus(corpus: LoadedCorpus) -> dict[str, Any]:
    report = corpus.report
    return {
        "name": portable_name(corpus.config.name),
        "group": corpus.config.group,
        "limit": corpus.config.limit,
        "read": report.read,
        "kept": report.kept,
        "malformed": dict(report.malformed),
        "sha256": report.sha256,
        "text": str(report),
    }


def portable_name(name: str) -> str:
    """A model's or a corpus's name for a bundle: of a path on this machine only the last part."""
    path = Path(name).expanduser()
    return path.resolve().name if path.exists() else name
