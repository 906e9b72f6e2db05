"""A tokenizer for shapes that come without one: a language of their own would need their training."""

import json
from itertools import product

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from layerroute.backbone.config import EMBEDDED, read_config, resolve_checkpoint
from layerroute.engine.tokenizer import load_tokenizer


def tokenizer_for(vocab_size: int) -> PreTrainedTokenizerBase:
    """A tokenizer with a text for every id: the embedded model's, grown by compounds of its words.

    A vocabulary smaller than the embedded model's gets a word for each id, and knows neither chat nor tool calls.
    """
    folder = resolve_checkpoint(EMBEDDED)
    base = load_tokenizer(folder, read_config(folder).vocab_size)
    if vocab_size < len(base):
        words = {f"Ġ{token}": token for token in range(vocab_size)}
        return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words)))
    return _grown(base, vocab_size)


def _grown(base: PreTrainedTokenizerBase, vocab_size: int) -> PreTrainedTokenizerBase:
    description = json.loads(base.backend_tokenizer.to_str())
    model = description["model"]
    plain = sorted(token for token in model["vocab"] if token.isascii() and token.isalpha())
    heads, tails = (list(filter(case, plain)) for case in (str.islower, str.istitle))
    compounds = ((head, tail) for head, tail in product(heads, tails) if head + tail not in model["vocab"])
    first, more = len(model["vocab"]), vocab_size - len(base)
    for token, (head, tail) in zip(range(first, first + more), compounds, strict=False):
        model["vocab"][head + tail] = token
        model["merges"].append([head, tail])
    for token in description["added_tokens"]:  # they come last, as the library would number them anyway
        token["id"] += more
    grown = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(description)), eos_token=base.eos_token
    )
    grown.chat_template = base.chat_template
    return grown
