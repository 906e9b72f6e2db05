"""Recipes: functions that return the whole configuration of a run."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from layerroute.backbone.config import EMBEDDED
from layerroute_training.config import (
    ConstrainedObjective,
    CorpusConfig,
    DataConfig,
    GroupConstraints,
    LoraConfig,
    PaperObjective,
    RouterConfig,
    ScheduleConfig,
    SkipTarget,
    TrainConfig,
)
from layerroute_training.corpora import GENERATED
from layerroute_training.errors import ConfigError

_GENERATED_ROWS = 30_000

PAPER_CORPORA = (
    "NousResearch/hermes-function-calling-v1",
    "glaiveai/glaive-function-calling-v2",
    "openai/gsm8k",
    "TuringEnterprises/Turing-Open-Reasoning",
)
_CANONICAL_FOLDERS = ("toolcall", "planning")


def default(data: Sequence[str] = ()) -> TrainConfig:
    """Constraints per kind of step, for any checkpoint of the Qwen2 family, on the paper's four sets or on `data`."""
    return TrainConfig(
        data=DataConfig(corpora=corpora_of(data or PAPER_CORPORA)),
        objective=ConstrainedObjective(),
    )


def embedded(data: Sequence[str] = ()) -> TrainConfig:
    """`default` for the model that ships with the package, on `data` and the generated conversations.

    Of both it takes the rows that the backbone's pre-training left out, and each has targets of its own.
    """
    base = default(data)
    corpora = corpora_of(data)
    generated = CorpusConfig(name=GENERATED, group=GENERATED, limit=_GENERATED_ROWS)
    mixture = {
        "generated/tool_call": 0.25,
        "generated/planning": 0.20,
        "corpora/tool_call": 0.25,
        "corpora/planning": 0.30,
    }
    # The generated conversations are the easier ones, in both kinds: a block that is skipped there costs least.
    objective = ConstrainedObjective(
        tool_call=SkipTarget(skip=0.335),
        planning=SkipTarget(skip=0.01),
        groups={GENERATED: GroupConstraints(tool_call=SkipTarget(skip=0.34), planning=SkipTarget(skip=0.16))},
    )
    return base.model_copy(
        update={
            "model": EMBEDDED,
            "data": DataConfig(corpora=(*corpora, generated), mixture=mixture, drop_overlap=True, kept_back=True),
            "objective": objective,
            "schedule": ScheduleConfig(updates=1_000),
        }
    )


def paper(data: Sequence[str] = ()) -> TrainConfig:
    """The published recipe (arXiv 2606.01838), with its flaws.

    The gates read the mean over the whole padded row, answer included, which no decision at inference can see; the
    cosine would need 3,000 updates to reach zero and gets 750; and nothing in the loss knows the kind of a step. Rows
    are rendered by the chat template, not by the original's code.
    """
    return TrainConfig(
        data=DataConfig(corpora=corpora_of(data or PAPER_CORPORA, limit=5_000), window=512, unused_tools=0.0),
        lora=LoraConfig(rank=8, alpha=16, dropout=0.05),
        routers=RouterConfig(
            scope="sequence",
            pooling="padded",
            reads="own_block",
            normalise=False,
            run_bias=1.0,
            band_bias=-1.0,
            always_run=(),
            noise=False,
        ),
        objective=PaperObjective(penalty=1.0),
        schedule=ScheduleConfig(
            updates=750,
            batch=4,
            accumulation=4,
            lora_rate=2e-4,
            gate_rate=2e-4,
            weight_decay=0.01,
            betas=(0.9, 0.999),
            clip=1.0,
            warmup=0,
            shape="cosine",
            horizon=3_000,
        ),
    )


RECIPES: Mapping[str, Callable[[Sequence[str]], TrainConfig]] = {
    "default": default,
    "embedded": embedded,
    "paper": paper,
}


def recipe(name: str, data: Sequence[str] = ()) -> TrainConfig:
    """The configuration of a recipe.

    Args:
        name: of `RECIPES`.
        data: corpora in place of the recipe's own: hub ids, files, or folders (see `corpora_of`).

    Raises:
        ConfigError: no recipe of that name.
    """
    if name not in RECIPES:
        raise ConfigError(f"no recipe {name!r}: use one of {', '.join(RECIPES)}")
    return RECIPES[name](data)


def corpora_of(names: Sequence[str], limit: int | None = None) -> tuple[CorpusConfig, ...]:
    """Corpora by hub id or path; a folder that holds `toolcall/` or `planning/` stands for these two."""
    corpora = []
    for name in names:
        parts = [Path(name) / part for part in _CANONICAL_FOLDERS if (Path(name) / part).is_dir()]
        if parts:
            corpora += [CorpusConfig(name=str(part), format="canonical", limit=limit) for part in parts]
        else:
            corpora.append(CorpusConfig(name=name, limit=limit))
    return tuple(corpora)
