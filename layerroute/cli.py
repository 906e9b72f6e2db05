"""The command line: `layerroute COMMAND`. Answers go to stdout, everything else to stderr."""

import argparse
import os
import sys
from collections.abc import Sequence

from layerroute.commands import bench, chat, demo, evaluate, report, train, version
from layerroute.commands.shared import escape_what_streams_cannot_spell, show_error
from layerroute.errors import suggesting

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

_EPILOG = """exit codes: 0 done, 1 not finished, 2 wrong usage or bad input, 130 interrupted"""


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="layerroute",
        description="Agents whose model decides per step which transformer blocks run, and reports what that saved.",
        epilog=_EPILOG,
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=command.HELP, description=command.__doc__, epilog=_EPILOG)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run, parser=subparser)
    return parser


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command and its options; what is wrong with them ends the program, with 2 and a line that says so."""
    args, unknown = build_parser().parse_known_args(arguments)
    if unknown:
        known = [option for action in args.parser._actions for option in action.option_strings]
        args.parser.error(
            f"unrecognized arguments: {', '.join(suggesting(word.partition('=')[0], known) for word in unknown)}"
        )
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    escape_what_streams_cannot_spell()
    args = read_arguments(arguments)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of stdout has gone. Without this, Python would complain when it flushes stdout at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if not show_error(error):
            raise
        return 2


if __name__ == "__main__":
    sys.exit(main())
