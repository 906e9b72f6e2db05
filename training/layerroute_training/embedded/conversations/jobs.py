"""Jobs: one thing a user asks for, the calls that serve it, their results, and the answer.

A `Scene` is the state of one conversation: today's date, the style in which the user writes, the desk's counters, and
what was last talked about, so that follow-ups ("cancel it", "and in Oslo?") have something to refer to.
"""

import datetime
import random
from dataclasses import dataclass, field
from typing import Any

from layerroute_training.embedded.conversations.text import add_typos, capitalise, draw, expand, fill, pick


@dataclass(frozen=True)
class Call:
    """One tool call and its result."""

    name: str
    arguments: dict[str, Any]
    result: dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One thing a user asks for.

    Attributes:
        sentence: the request as a message of its own, with final punctuation.
        command: the request as an imperative without capital or final punctuation, to be joined with others; "" if it
            cannot be joined.
        calls: in order; later ones may depend on the results of earlier ones.
        answer: the reply when all results are there.
    """

    sentence: str
    command: str
    calls: tuple[Call, ...]
    answer: str


@dataclass
class Scene:
    """State of one conversation."""

    rng: random.Random
    today: datetime.date
    lower: bool = False
    typos: bool = False
    note_id: int = 1
    event_id: int = 1
    rate_date: str = ""
    rates: dict[str, float] = field(default_factory=dict)

    def say(self, template: str, **slots: object) -> str:
        """Expand a template in the user's style (typos, never in slots)."""
        text = draw(self.rng, template, slots)
        return fill(add_typos(self.rng, text) if self.typos else text, slots)

    def reply(self, template: str, **slots: object) -> str:
        """Expand a template of the assistant's."""
        return expand(self.rng, template, **slots)

    def own(self, text: str) -> str:
        """Free text of the user (a note, a title) as the user spells it."""
        return text.lower() if self.lower else text

    def chance(self, probability: float) -> bool:
        """True with a probability."""
        return self.rng.random() < probability

    def next_note(self) -> int:
        """Id of the next note."""
        self.note_id += 1
        return self.note_id - 1

    def next_event(self) -> int:
        """Id of the next event."""
        self.event_id += 1
        return self.event_id - 1


def new_scene(rng: random.Random, today: datetime.date) -> Scene:
    """A fresh conversation: how the user writes, where the counters stand."""
    rate_date = today - datetime.timedelta(pick(rng, (0, 1, 2, 2, 3)))
    return Scene(
        rng,
        today,
        lower=rng.random() < 0.14,
        typos=rng.random() < 0.1,
        note_id=rng.randint(1, 60),
        event_id=rng.randint(1, 60),
        rate_date=rate_date.isoformat(),
    )


def finish_sentence(scene: Scene, text: str, question: bool) -> str:
    """Close a request with punctuation, or without, as people do."""
    mark = "?" if question else "."
    if scene.lower or scene.chance(0.1):
        mark = "" if scene.chance(0.75) else mark
    elif not question and scene.chance(0.03):
        mark = "!"
    return (text if scene.lower else capitalise(text)) + mark


def make_job(scene: Scene, questions: str, commands: str, calls: tuple[Call, ...], answer: str, **slots: object) -> Job:
    """A job from two templates: stand-alone wordings, and imperatives.

    A stand-alone wording ends with "?" when it is a question; other punctuation is added here. Imperatives are used as
    sentences of their own too, often with a polite frame.
    """
    command = scene.say(commands, **slots)
    if scene.chance(0.5):
        text = scene.say(questions, **slots)
        question = text.endswith("?")
        return Job(finish_sentence(scene, text.removesuffix("?"), question), command, calls, answer)
    return Job(_polite(scene, command), command, calls, answer)


def _polite(scene: Scene, command: str) -> str:
    roll = scene.rng.random()
    if roll < 0.55:
        return finish_sentence(scene, command, question=False)
    if roll < 0.72:
        frame = scene.say("[can|could|would|will] you [please|kindly|] {command}", command=command)
        return finish_sentence(scene, frame, question=True)
    if roll < 0.84:
        frame = scene.say("[please {command}|{command}, please|{command} please|pls {command}]", command=command)
        return finish_sentence(scene, frame, question=False)
    frame = scene.say(
        "[I'd like you to|I want you to|I need you to|you should|go ahead and|be so kind and|"
        "do me a favour and|it would be great if you could|would you mind to|next,|now|ok,|hey,|hi,|hello,|"
        "I would like to|I need to|we need to|let's|help me] {command}",
        command=command,
    )
    return finish_sentence(scene, frame, question=False)


def stop_at_error(calls: list[Call]) -> tuple[Call, ...]:
    """The calls up to the first that failed."""
    for index, call in enumerate(calls):
        if "error" in call.result:
            return tuple(calls[: index + 1])
    return tuple(calls)
