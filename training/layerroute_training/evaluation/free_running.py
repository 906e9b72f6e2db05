"""What a model writes by itself on dev steps: exact match of tool calls, argument F1, GSM8K, with and without grammar.

Every condition answers the same prompts greedily through the engine, so differences are paired. An answer may have
twice the tokens of the reference's and 32 more, and never more than `MAX_TOKENS`.

Shape suffixes: N answered steps, R resamples and, before them, the sample itself.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from layerroute.engine.config import EngineConfig
from layerroute.engine.loading import resolve_device
from layerroute.program import LayerProgram
from layerroute_training.errors import CorpusError
from layerroute_training.evaluation.answering import Answered, Condition, Question, Result, Task, answer_all
from layerroute_training.evaluation.report import ALL, FreeRunning, FreeRunningScore
from layerroute_training.evaluation.statistics import ClusterBootstrap, interval
from layerroute_training.evaluation.tool_calls import CallScore, argument_f1
from layerroute_training.steps import StepSet

MAX_TOKENS = 512
FULL = "full"
"""Name of the condition that the others are compared with."""

_TASKS: tuple[Task, ...] = ("tool_call", "gsm8k")
_NO_CALLS = CallScore(calls=False, exact=False, names=False, matched=0, produced=0, expected=0)


def free_running(
    config: EngineConfig,
    conditions: Sequence[Condition],
    steps: StepSet,
    *,
    limit: int,
    processes: int = 1,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, all_of_them: None,
) -> FreeRunning:
    """Answer up to `limit` tool-call steps and as many GSM8K questions under every condition, and score the answers.

    Args:
        config: the engine's; each condition replaces its adapter.
        conditions: one of each grammar should be named `FULL`; the others are compared with it.
        steps: dev steps.
        limit: of each task; which steps are answered depends on `seed` alone.
        processes: worker processes on the CPU; 1 answers in this process.
        progress: told how many of how many questions are done.

    Raises:
        CorpusError: no step could be answered.
        LayerRouteError: a model, bundle or router that cannot be used.
    """
    questions = choose(steps, limit, seed)
    done = 0

    def advance(more: int) -> None:
        nonlocal done
        done += more
        progress(done, len(questions))

    results = answer_all(config, conditions, questions, processes=processes, progress=advance)
    kept = [result for result in results if result.left_out is None]
    if not kept:
        reasons = "; ".join(_notes(results)) or "there is no tool-call step and no GSM8K question"
        raise CorpusError(f"no free-running answer can be scored ({reasons}): give other data, or leave it out")
    task_of = {question.step: question.task for question in questions}
    scores = [
        score
        for task in _TASKS
        for score in _task_scores(task, [one for one in kept if task_of[one.step] == task], conditions, steps, seed)
    ]
    where = f"answered on {resolve_device(config.device).type}"
    return FreeRunning(max_tokens=MAX_TOKENS, seed=seed, scores=tuple(scores), notes=(where, *_notes(results)))


def choose(steps: StepSet, limit: int, seed: int) -> list[Question]:
    """Tool-call steps and GSM8K questions, at most `limit` of each, in the order of the steps."""
    is_gsm8k = np.array(["gsm8k" in source for source in steps.sources], dtype=np.bool_)[steps.source]
    random = np.random.default_rng([seed, limit])
    questions = []
    for task, fits_N in zip(_TASKS, (steps.is_tool_call, is_gsm8k & ~steps.is_tool_call), strict=True):
        for step in np.sort(random.permutation(np.flatnonzero(fits_N))[:limit]).tolist():
            questions.append(_question(steps, step, task))
    return questions


def programs_of(run_NL: NDArray[np.bool_]) -> Mapping[int, str]:
    """Program text of every step from the blocks that its generated tokens take: how a baseline answers."""
    num_blocks = run_NL.shape[1]
    return {
        step: str(LayerProgram.skipping(np.flatnonzero(~run_L).tolist(), num_blocks))
        for step, run_L in enumerate(run_NL)
    }


def _question(steps: StepSet, step: int, task: Task) -> Question:
    start, answer, end = int(steps.start[step]), int(steps.answer[step]), int(steps.end[step])
    tools = int(steps.tools[step])
    return Question(
        step=step,
        task=task,
        prompt_ids=tuple(steps.tokens[start:answer].tolist()),
        reference_ids=tuple(steps.tokens[answer:end].tolist()),
        tools=steps.tool_lists[tools] if tools >= 0 else None,
        max_tokens=min(2 * (end - answer) + 32, MAX_TOKENS),
    )


def _task_scores(
    task: Task, results: Sequence[Result], conditions: Sequence[Condition], steps: StepSet, seed: int
) -> list[FreeRunningScore]:
    """Scores of one task by group, then condition."""
    places: dict[str, list[Result]] = {}
    for result in results:
        places.setdefault(steps.groups[steps.group[result.step]], []).append(result)
    if places:
        places[ALL] = list(results)
    scores = []
    for group, members in places.items():
        bootstrap = ClusterBootstrap(steps.conversation[[one.step for one in members]], seed=seed)
        full = {one.grammar: i for i, one in enumerate(conditions) if one.name == FULL}
        for i, condition in enumerate(conditions):
            if any(i not in one.answers for one in members):
                continue
            reference = full.get(condition.grammar, i)
            base = None if reference == i else [one.answers[reference] for one in members]
            answers = [one.answers[i] for one in members]
            scores.append(_score(task, group, condition, answers, base, bootstrap))
    return scores


def _score(
    task: Task,
    group: str,
    condition: Condition,
    answers: Sequence[Answered],
    base: Sequence[Answered] | None,
    bootstrap: ClusterBootstrap,
) -> FreeRunningScore:
    ones_N = np.ones(len(answers))
    right_N = np.array([one.right for one in answers], dtype=np.float64)
    calls = [one.calls or _NO_CALLS for one in answers]
    is_calls = task == "tool_call"
    matched_R, produced_R, expected_R = bootstrap.sums(
        np.array([(one.matched, one.produced, one.expected) for one in calls])
    ).T
    skipped = sum(one.visits.skipped for one in answers)
    visits = skipped + sum(one.visits.executed for one in answers)
    return FreeRunningScore(
        task=task,
        group=group,
        condition=condition.name,
        grammar=condition.grammar,
        steps=len(answers),
        exact_match=interval(bootstrap.ratio(right_N, ones_N)),
        function_match=interval(bootstrap.ratio(np.array([one.names for one in calls]), ones_N)) if is_calls else None,
        argument_f1=interval(argument_f1(matched_R, produced_R, expected_R)) if is_calls else None,
        calls=interval(bootstrap.ratio(np.array([one.calls for one in calls]), ones_N)) if is_calls else None,
        skip=skipped / visits if visits else 0.0,
        difference=None
        if base is None
        else interval(bootstrap.ratio(right_N - np.array([one.right for one in base], dtype=np.float64), ones_N)),
    )


def _notes(results: Sequence[Result]) -> tuple[str, ...]:
    """What was left out, by reason, most frequent first."""
    reasons = Counter(result.left_out for result in results if result.left_out is not None)
    return tuple(f"left out {count}: {reason}" for reason, count in reasons.most_common())
