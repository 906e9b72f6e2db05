"""The command line: `layerroute COMMAND`. Answers go to stdout, everything else to stderr."""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # nothing is imported before interrupts are looked after
    from collections.abc import Sequence


def main(arguments: "Sequence[str] | None" = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: of a command that runs in somebody's process. Left out, they are this process's own, and so are its
            streams and the signals that end it.
    """
    if arguments is not None:
        from layerroute.commands.parser import run

        return run(arguments)
    try:
        from layerroute.process import run_alone

        return run_alone(lambda: main(sys.argv[1:]))
    except KeyboardInterrupt:  # before or after `run_alone` was at work
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
