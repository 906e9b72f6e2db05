# ruff: noqa: E501 (phrase templates are one line each)
"""Conversations at the front desk: one to six turns of one or several jobs each."""

import dataclasses
import json
import random
from collections.abc import Callable, Sequence

from layerroute_training.embedded.conversations import arithmetic, chains, chat, conversions, desk, diary, values
from layerroute_training.embedded.conversations.followups import followup_job
from layerroute_training.embedded.conversations.jobs import Call, Job, Scene, new_scene
from layerroute_training.embedded.conversations.prompts import Tool, desk_prompt, desk_tool_list
from layerroute_training.embedded.conversations.text import capitalise, pick
from layerroute_training.rows import Message

SINGLE: tuple[tuple[Callable[[Scene], Job], int], ...] = (
    (arithmetic.arithmetic_job, 17),
    (conversions.unit_job, 12),
    (conversions.currency_job, 12),
    (desk.weather_job, 11),
    (desk.find_job, 9),
    (desk.list_orders_job, 8),
    (desk.update_job, 10),
    (diary.note_job, 11),
    (diary.search_job, 9),
    (diary.event_job, 14),
    (diary.list_events_job, 9),
)
_JOINS_TWO = (
    "{S1} {S2}", "{S1} {S2}", "{S1} Also, {c2}.", "{C1} and {c2}.", "{C1} and {c2}.", "{C1}, then {c2}.", "{C1} and then {c2}.", "First {c1}, then {c2}.",
    "Please {c1} and {c2}.", "Two things: {c1}, and {c2}.", "1. {C1}\n2. {C2}", "{S1} And {c2}.", "{S1} After that, {c2}.", "{S1} Then {c2}.",
    "{C1}; {c2}.", "{C1}, and {c2} please.", "Could you {c1} and {c2}?", "I need you to {c1} and to {c2}.", "{C1}. {C2}.", "{S1}\n{S2}",
    "{C1}, and afterwards {c2}.", "{S1} And please {c2}.", "{C1} and also {c2}.", "Once you have done this: {c1}, {c2}.",
)  # fmt: skip
_JOINS_THREE = (
    "{S1} {S2} {S3}", "{C1}, {c2} and {c3}.", "{C1}, {c2}, and {c3}.", "First {c1}, then {c2}, and finally {c3}.", "{C1}, then {c2}, then {c3}.",
    "Please {c1}, {c2} and {c3}.", "Three things: {c1}, {c2} and {c3}.", "1. {C1}\n2. {C2}\n3. {C3}", "{S1} Also, {c2} and {c3}.", "- {C1}\n- {C2}\n- {C3}",
    "{C1}. {C2}. {C3}.", "{S1} Then {c2}. Finally, {c3}.", "{C1} and {c2}. {S3}", "Can you {c1}, {c2} and {c3}?",
)  # fmt: skip


def single_job(scene: Scene) -> Job:
    """One job of one call."""
    jobs, weights = zip(*SINGLE, strict=True)
    job: Job = scene.rng.choices(jobs, weights)[0](scene)
    return job


def several_jobs(scene: Scene, count: int) -> Job:
    """Independent jobs in one message, to be done one call after the other in the order of mention."""
    jobs = [single_job(scene) for _ in range(count)]
    if scene.chance(0.15):
        jobs[-1] = chains.chain_job(scene)
    slots: dict[str, str] = {}
    for index, job in enumerate(jobs, 1):
        slots |= {f"S{index}": job.sentence, f"c{index}": job.command, f"C{index}": capitalise(job.command)}
    if not all(job.command for job in jobs):
        text = " ".join(job.sentence for job in jobs)
    else:
        text = pick(scene.rng, _JOINS_TWO if count == 2 else _JOINS_THREE).format(**slots)
    calls = tuple(call for job in jobs for call in job.calls)
    return Job(text, "", calls, " ".join(_sentence(job.answer) for job in jobs))


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?", ")")) else f"{text}."


def next_job(scene: Scene, last: Call | None) -> Job:
    """What the user asks next."""
    if last is not None and scene.chance(0.28):
        job = followup_job(scene, last)
        if job is not None:
            return job
    roll = scene.rng.random()
    if roll < 0.46:
        return single_job(scene)
    if roll < 0.72:
        return chains.chain_job(scene)
    return several_jobs(scene, 2 if roll < 0.92 else 3)


def _framed(scene: Scene, job: Job) -> Job:
    """The request with a greeting before it or thanks after it, now and then."""
    text = job.sentence
    if scene.chance(0.05):
        text = (
            pick(
                scene.rng,
                (
                    "Hi! ",
                    "Hello! ",
                    "Good morning. ",
                    "Hi there. ",
                    "Hello. ",
                    "Hey! ",
                    "Sorry to bother you. ",
                    "Quick one: ",
                    "One question: ",
                    "One more thing: ",
                    "Next: ",
                ),
            )
            + text
        )
    if scene.chance(0.05) and job.calls and job.calls[-1].name != "add_note":
        ending = "" if text.endswith((".", "?", "!")) else "."
        text += ending + pick(
            scene.rng,
            (
                " Thanks!",
                " Thank you.",
                " Thanks.",
                " Thanks in advance.",
                " It is urgent.",
                " Be quick, please.",
                " I'm in a hurry.",
            ),
        )
    return dataclasses.replace(job, sentence=text)


def turn(job: Job, lower: bool = False) -> list[Message]:
    """The messages of one turn: the request, each call with its result, the answer."""
    messages: list[Message] = [{"role": "user", "content": job.sentence.lower() if lower else job.sentence}]
    for call in job.calls:
        function = {"name": call.name, "arguments": call.arguments}
        messages.append(
            {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}
        )
        messages.append({"role": "tool", "name": call.name, "content": json.dumps(call.result, ensure_ascii=False)})
    messages.append({"role": "assistant", "content": job.answer})
    return messages


def conversation(rng: random.Random, distractors: Sequence[Tool]) -> tuple[list[Tool], list[Message]]:
    """One conversation and its tools."""
    scene = new_scene(rng, values.today(rng))
    jobs: list[Job] = []
    last: Call | None = None
    for _ in range(rng.choices((1, 2, 3, 4, 5, 6), (22, 18, 18, 16, 14, 12))[0]):
        if scene.chance(0.07):
            jobs.append(chat.chat_job(scene, ()))
            continue
        job = _framed(scene, next_job(scene, last))
        jobs.append(job)
        last = job.calls[-1] if job.calls else None
    needed = [call.name for job in jobs for call in job.calls]
    tools = desk_tool_list(rng, needed, distractors)
    names = tuple(tool["function"]["name"] for tool in tools)
    if scene.chance(0.12):
        jobs.insert(rng.randrange(len(jobs) + 1) if last is None else 0, chat.chat_job(scene, names))
    elif len(tools) < 8 and scene.chance(0.35):
        other = single_job(scene)
        if not {call.name for call in other.calls} & set(names):
            jobs.append(chat.missing_tool_job(scene, other))
    messages: list[Message] = []
    if not scene.chance(0.03) or any("date" in call.arguments for job in jobs for call in job.calls):
        messages.append({"role": "system", "content": desk_prompt(rng, scene.today)})
    for job in jobs:
        messages += turn(job, scene.lower)
    return tools, messages
