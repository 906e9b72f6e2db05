# ruff: noqa: E501 (phrase templates are one line each)
"""Conversations of the planner: a plan, its steps at the front desk, and the summing up."""

import random

from langchain_layerroute.front_desk.prompts import PLANNER_PROMPT, summary_request
from layerroute_training.embedded.conversations import front_desk, values
from layerroute_training.embedded.conversations.chains import chain_job
from layerroute_training.embedded.conversations.jobs import Job, Scene, new_scene
from layerroute_training.embedded.conversations.prompts import desk_prompt, desk_tools
from layerroute_training.embedded.conversations.text import capitalise, expand, pick
from layerroute_training.rows import Message, Tool

_TASKS = (
    "{list}.", "{list}.", "{list}.", "{list}.", "Please {list}.", "I need you to {list}.", "{then}.", "{then}.", "First {then}.", "{sentences}", "{sentences}",
    "{sentences}", "Help me with this: {list}.", "Plan this: {list}.", "My to-do list: {list}.", "{lines}", "Can you {list}?", "I want to {list}.",
)  # fmt: skip


def _jobs(scene: Scene) -> list[Job]:
    count = scene.rng.choices((1, 2, 3, 4), (6, 34, 42, 18))[0]
    jobs: list[Job] = []
    while len(jobs) < count:
        job = front_desk.single_job(scene) if scene.chance(0.88) else chain_job(scene)
        if job.command and "\n" not in job.command:
            jobs.append(job)
    return jobs


def _task(rng: random.Random, jobs: list[Job]) -> str:
    commands = [job.command for job in jobs]
    if len(commands) == 1:
        return jobs[0].sentence if rng.random() < 0.5 else f"{capitalise(commands[0])}."
    last = pick(rng, (", and ", " and ", ", and ", " and then "))
    text = pick(rng, _TASKS).format(
        list=", ".join(commands[:-1]) + last + commands[-1],
        then=", then ".join(commands),
        sentences=" ".join(job.sentence if rng.random() < 0.6 else f"{capitalise(job.command)}." for job in jobs),
        lines="\n".join(f"- {capitalise(command)}" for command in commands),
    )
    return capitalise(text)


def plan_conversation(rng: random.Random) -> tuple[list[Tool], list[Message]]:
    """The planner's own conversation: task, plan, results, summary."""
    scene = new_scene(rng, values.today(rng))
    scene.lower = scene.typos = False
    jobs = _jobs(scene)
    plan = "\n".join(f"{number}. {capitalise(job.command)}." for number, job in enumerate(jobs, 1))
    messages: list[Message] = [
        {
            "role": "system",
            "content": PLANNER_PROMPT
            if rng.random() < 0.9
            else expand(rng, "You [are a planner|plan tasks]. [Answer with|Write] a [short|] numbered plan."),
        },
        {"role": "user", "content": _task(rng, jobs)},
        {"role": "assistant", "content": plan},
    ]
    if rng.random() < 0.6:
        messages.append({"role": "user", "content": summary_request([job.answer for job in jobs])})
        messages.append({"role": "assistant", "content": _summary(rng, jobs)})
    return [], messages


def _summary(rng: random.Random, jobs: list[Job]) -> str:
    sentences = [job.answer if job.answer.endswith((".", "!", "?", ")")) else f"{job.answer}." for job in jobs]
    return expand(rng, "[All done: |Done. |In short: ||]{text}", text=" ".join(sentences))


def steps_conversation(rng: random.Random) -> tuple[list[Tool], list[Message]]:
    """A plan's steps carried out one after the other at the front desk."""
    scene = new_scene(rng, values.today(rng))
    scene.lower = scene.typos = False
    messages: list[Message] = [{"role": "system", "content": desk_prompt(rng, scene.today)}]
    for job in _jobs(scene):
        step = f"{capitalise(job.command)}{pick(rng, ('.', '.', '.', ''))}"
        messages += front_desk.turn(Job(step, "", job.calls, job.answer))
    return list(desk_tools()), messages
