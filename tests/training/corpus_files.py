"""Records in the corpora's native formats, files of them, and reading those."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from layerroute_training.config import CorpusConfig
from layerroute_training.corpora import LoadedCorpus, load_rows

STOCK = {
    "name": "get_stock",
    "description": "Get a stock's price",
    "parameters": {"type": "object", "properties": {"symbol": {"type": "string"}}, "required": ["symbol"]},
}
TOOL = {"type": "function", "function": STOCK}
HERMES_SYSTEM = (
    "You are a function calling AI model. You are provided with function signatures within <tools> </tools> XML tags. "
    "You may call one or more functions to assist with the user query. Don't make assumptions about what values to "
    "plug into functions.\n<tools>\n{tools}\n</tools>\nFor each function call return a JSON object, with the following "
    "pydantic model json schema for each:\n{{'title': 'FunctionCall', 'type': 'object'}}\nEach function call should be "
    "enclosed within <tool_call> </tool_call> XML tags.\n<tool_call>\n{{'arguments': <args-dict>, 'name': "
    "<function-name>}}\n</tool_call>"
)
GLAIVE_SYSTEM = (
    "SYSTEM: You are a helpful assistant with access to the following functions. Use them if required -\n{tools}\n"
)
PLAIN = {"question": "How many apples are left?", "answer": "5 - 2 = <<5-2=3>>3\n#### 3"}


def called(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def hermes(*turns: tuple[str, str], tools: str = repr([TOOL]), **columns: Any) -> dict[str, Any]:
    said = [("system", HERMES_SYSTEM.format(tools=tools)), *turns]
    return {"id": "row-7", "conversations": [{"from": who, "value": text} for who, text in said], **columns}


def glaive(chat: str) -> dict[str, Any]:
    return {"system": GLAIVE_SYSTEM.format(tools=json.dumps(STOCK, indent=4)), "chat": chat}


def load(path: Path | str, *, malformed: float = 0.05, **options: Any) -> LoadedCorpus:
    (corpus,) = load_rows([CorpusConfig(name=str(path), **options)], malformed=malformed)
    return corpus


def write(path: Path, records: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{json.dumps(record)}\n" for record in records)
    if path.name.endswith(".jsonl.gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        path.write_text(lines if path.suffix == ".jsonl" else json.dumps(records))
    return path


def canonical(number: int, value: Any = 0.95, split: str = "train") -> dict[str, Any]:
    return {
        "id": f"shop-{number}",
        "source": "shop",
        "split": split,
        "tools": [TOOL],
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": f"Question {number}"},
            {"role": "assistant", "content": "", "tool_calls": [called("get_stock", symbol=value)]},
            {"role": "tool", "name": "get_stock", "content": '{"price":0.95}'},
        ],
    }
