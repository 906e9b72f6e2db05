"""A small data folder in the form that the recipe reads: made-up conversations of both kinds, and plain text."""

import json
import lzma
import random
import shutil
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

TOKENIZER = Path(__file__).parent.parent / "data" / "tokenizer"
GROUPS = ("toolcall", "planning", "general", "generated")


def conversation(pick, group):
    city, number = pick.choice(("Oslo", "Lima", "Rome")), pick.randrange(1000)
    system = "<|im_start|>system\nYou have tools.<|im_end|>\n"
    ask = f"<|im_start|>user\nWeather in {city}, order {number}?<|im_end|>\n"
    call = f'<tool_call>\n{{"name": "get_weather", "arguments": {{"city": "{city}"}}}}\n</tool_call>'
    turn = "<|im_start|>assistant\n"
    if group == "planning":
        return f"{ask}{turn}First look at {city}, then at {number}.<|im_end|>\n"
    result = '<|im_start|>user\n<tool_response>\n{"result": 1}\n</tool_response><|im_end|>\n'
    return f"{system}{ask}{turn}{call}<|im_end|>\n{result}{turn}It is warm in {city}.<|im_end|>\n"


def document(pick, group):
    if group == "general":
        return "the quick brown fox " * pick.randrange(5, 200)
    return "".join(conversation(pick, group) for _ in range(pick.randrange(1, 3)))


def write_data(folder):
    """Write backbone, fit and dev files of every group."""
    tokenizer = Tokenizer.from_file(str(TOKENIZER / "tokenizer.json"))
    shutil.copytree(TOKENIZER, folder / "tokenizer")
    groups = {}
    for group in GROUPS:
        groups[group] = {}
        for part, count in (("backbone", 30), ("fit", 12), ("dev", 8)):
            pick = random.Random(f"{group}{part}")
            texts = [document(pick, group) + "<|endoftext|>" for _ in range(count)]
            ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
            offsets = [0, *np.cumsum([len(one) for one in ids]).tolist()]
            file = f"{part}/{group}.bin.xz"
            (folder / part).mkdir(exist_ok=True)
            (folder / file).write_bytes(lzma.compress(np.concatenate(ids).astype("<u2").tobytes()))
            groups[group][part] = {"file": file, "tokens": offsets[-1], "offsets": offsets}
    (folder / "index.json").write_text(json.dumps({"groups": groups}), encoding="utf-8")
    return folder
