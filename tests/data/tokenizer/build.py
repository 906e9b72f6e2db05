"""Trains the small byte-level BPE of this folder: Qwen2.5's pre-tokenizer, added tokens and chat template, 2,048 ids.

Run `python tests/data/tokenizer/build.py` to make tokenizer.json and tokenizer_config.json again.
"""

import json
from pathlib import Path
from pydoc_data.topics import topics

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

FOLDER = Path(__file__).parent
SIZE = 2048
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ["endoftext", "im_start", "im_end", "object_ref_start", "object_ref_end", "box_start", "box_end"]
SPECIAL += ["quad_start", "quad_end", "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad"]
PLAIN = ["<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"]
PLAIN += ["<|repo_name|>", "<|file_sep|>"]
OWN_TEXT = [
    '\n{"name": "get_weather", "arguments": {"city": "Oslo", "day": "today"}}\n',
    '{"type": "function", "function": {"name": "calculator", "description": "Evaluate.", "parameters": {}}}',
    '{"result": 84} {"temperature": 6.5, "order_id": "A-1042", "status": "shipped", "customer": "Mara Lindt"}',
    "The weather in Zürich is 6 °C — naïve café, 你好世界, こんにちは, नमस्ते दुनिया, 🚀🔥😀",
    "You are the front desk assistant. Today is 2026-11-22. Use the tools; answer briefly.",
    "system user assistant tool_response What is 12 * 7? It is 84. Please add a note and list my orders.",
]


def main() -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE - len(SPECIAL) - len(PLAIN),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text for _, text in sorted(topics.items())] + OWN_TEXT * 50, trainer)
    tokenizer.add_tokens([AddedToken(f"<|{name}|>", special=True, normalized=False) for name in SPECIAL])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in PLAIN])
    (FOLDER / "tokenizer.json").write_text(tokenizer.to_str() + "\n", encoding="utf-8")
    config = {
        "add_prefix_space": False,
        "additional_special_tokens": [f"<|{name}|>" for name in SPECIAL[1:]],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    (FOLDER / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
