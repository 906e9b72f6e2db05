"""Talk to the model, without tools. Without --message it reads one message per line until the end of the input."""

import argparse
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, cast

from layerroute.commands.shared import (
    FORGOTTEN,
    Recorder,
    add_model_arguments,
    chat_model,
    is_full,
    print_document,
    print_piece,
    read_lines,
    show_error,
)
from layerroute.report import RunSums

if TYPE_CHECKING:
    from langchain_core.messages import AIMessageChunk, BaseMessage

    from langchain_layerroute import LayerRouteChatModel

HELP = "talk to the model"
_EXPECTATIONS = (
    "The embedded model was trained to use the demos' tools and can hardly converse: see `layerroute demo` for what "
    "it can do, or name a larger model with --model."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--message", metavar="TEXT", help="say this, print the answer, and end")
    parser.add_argument("--system", metavar="TEXT", help="system prompt")
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Hold the conversation."""
    from layerroute.errors import RequestError

    if args.json and args.message is None:
        raise RequestError("--json prints one document for one message: give --message")
    recorder = Recorder(args)
    asked = read_lines(recorder, "you> ", "--message") if args.message is None else [args.message]
    with recorder.view.loading("starting"):
        from langchain_core.messages import HumanMessage, SystemMessage

        model = chat_model(args)
    if args.model == "embedded":
        recorder.view.remark(_EXPECTATIONS)
    system: list[BaseMessage] = [SystemMessage(args.system)] if args.system else []
    messages = [*system]
    for text in asked:
        recorder.task = text
        try:
            answer = _answer(model, [*messages, HumanMessage(text)], recorder, streaming=not args.json)
        except Exception as error:
            if not (args.message is None and show_error(error)):  # a conversation goes on after a failed message
                raise
            if is_full(error):
                messages = [*system]
                recorder.view.remark(FORGOTTEN)
            continue
        messages += [HumanMessage(text), answer]
        recorder.check()
    if args.json:
        print_document({"answer": str(answer.text), "steps": [step.model_dump(mode="json") for step in recorder.steps]})
    else:
        recorder.view.summary(RunSums(recorder.steps))
    return 0


def _answer(
    model: "LayerRouteChatModel", messages: "list[BaseMessage]", recorder: Recorder, streaming: bool
) -> "AIMessageChunk":
    """Stream an answer to stdout, and pass its report on."""
    from langchain_layerroute.callbacks import report_of

    with closing(cast("Generator[AIMessageChunk]", model.stream(messages))) as chunks:  # leaving early cancels it
        with recorder.view.loading("reading" if recorder.steps else "loading the model"):
            answer = next(chunks)
        for chunk in _shown(answer, chunks) if streaming else chunks:
            answer += chunk
    report = report_of(answer)
    if report is not None:
        recorder.step(report)
    return answer


def _shown(first: "AIMessageChunk", rest: "Iterator[AIMessageChunk]") -> "Iterator[AIMessageChunk]":
    """Print an answer while it is made; yields what comes after its first chunk."""
    print_piece(str(first.text))
    for chunk in rest:
        print_piece(str(chunk.text))
        yield chunk
    print_piece("\n")
