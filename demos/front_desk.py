"""A front-desk agent: eleven tools, one task after another, every step with the blocks that it ran.

Shows how an agent is built over `LayerRouteChatModel` and how its step reports are read. `layerroute demo` is the same
agent with more options.

    python demos/front_desk.py
    python demos/front_desk.py --task "Find order A-1101, then list all orders of its customer."
    python demos/front_desk.py --router full --json
"""

import sys
from collections.abc import Sequence

from langchain_core.language_models import BaseChatModel
from shell import chat_model, present, read_options

from langchain_layerroute.front_desk.agent import DEFAULT_TASKS, FrontDesk
from layerroute.commands.shared import telling
from layerroute.process import run_alone


@telling
def main(arguments: Sequence[str] | None = None, model: BaseChatModel | None = None) -> int:
    """Run the demo, with the model that the options name or with `model`."""
    options = read_options(__doc__, DEFAULT_TASKS, arguments)
    with FrontDesk(model or chat_model(options)) as desk:
        return present(options, lambda task, view: desk.run(task, view.step, view.call))


if __name__ == "__main__":
    sys.exit(run_alone(main))
