"""All commands: their parser, what it refuses, and running one."""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from layerroute.commands import bench, chat, demo, evaluate, report, train, version
from layerroute.commands.shared import telling
from layerroute.console import plain
from layerroute.errors import suggesting
from layerroute.process import EXIT_CODES
from layerroute.text import require_encodable

COMMANDS = {
    "demo": demo,
    "chat": chat,
    "train": train,
    "evaluate": evaluate,
    "report": report,
    "bench": bench,
    "version": version,
}
"""Each module has `HELP`, `add_arguments(parser)` and `run(args) -> exit code`."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """End with 2; what somebody typed, or pasted, cannot steer the terminal that tells of it."""
        super().error(plain(message))


@telling
def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    args = read_arguments(arguments)
    code: int = args.run(args)
    return code


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    parser = _Parser(
        prog="layerroute",
        description="Agents whose model decides per step which transformer blocks run, and reports what that saved.",
        epilog=EXIT_CODES,
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=command.HELP, description=command.__doc__, epilog=EXIT_CODES)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run, parser=subparser)
    return parser


def read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command and its options; what is wrong with them ends the program, with 2 and a line that says so.

    Raises:
        RequestError: an argument that is text is none. Names of files may be any bytes.
    """
    args, unknown = build_parser().parse_known_args(arguments)
    if unknown:
        known = [option for action in args.parser._actions for option in action.option_strings]
        args.parser.error(
            f"unrecognized arguments: {', '.join(suggesting(word.partition('=')[0], known) for word in unknown)}"
        )
    refuse_unencodable(args.parser, args)
    return args


def refuse_unencodable(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse arguments whose bytes are no UTF-8; names of files (of type `Path`) may be any bytes.

    Raises:
        RequestError: it names the argument.
    """
    for action in parser._actions:
        for text in _texts(getattr(args, action.dest, None)):
            require_encodable(text, action.option_strings[-1] if action.option_strings else str(action.metavar))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
