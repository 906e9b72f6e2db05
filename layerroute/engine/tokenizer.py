"""The tokenizer of a checkpoint folder: byte-level BPE from its tokenizer.json, checked against the model it is for.

It is read from that one file, as it stands, whatever class tokenizer_config.json names; no code of a folder ever runs.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from layerroute.backbone.documents import AGAIN, Document, read_document
from layerroute.errors import CheckpointError, shown
from layerroute.files import read_bounded

_CONFIG, _TEMPLATE, _TOKENIZER = "tokenizer_config.json", "chat_template.jinja", "tokenizer.json"
_MOST_BYTES, _MOST_TEMPLATE_BYTES = 2**27, 2**20
_CHARACTER_OF_BYTE = bytes_to_unicode()
_PROBE = 'It\'s 12,345.67 €:\n\n\t{"naïve": ["Zürich",  true]} —  你好 नमस्ते 🚀\x00\x7f \r\n  end '

_Id = Annotated[int, Field(ge=0)]


class _AddedToken(Document):
    id: _Id
    content: str


class _Bpe(Document):
    type: Literal["BPE"]
    vocab: dict[str, _Id]
    dropout: None = None
    continuing_subword_prefix: Literal["", None] = None  # others can crash the library, and the process with it
    end_of_word_suffix: Literal["", None] = None


class _TokenizerDocument(Document):
    model: _Bpe
    added_tokens: list[_AddedToken] = Field(default_factory=list)


class _ListedToken(Document):
    content: str


def _content(token: Any) -> Any:
    """The older form of a token, an object of its content and flags, as the newer one, its content."""
    return token.get("content", token) if isinstance(token, dict) else token


def _by_name(templates: Any) -> Any:
    """The older form, a list of names and templates, as the newer one."""
    if isinstance(templates, list) and all(isinstance(entry, dict) for entry in templates):
        return {entry.get("name"): entry.get("template") for entry in templates}
    return {"default": templates} if isinstance(templates, str) else templates


class _ConfigDocument(Document):
    eos_token: Annotated[str, BeforeValidator(_content)]
    bos_token: Annotated[str | None, BeforeValidator(_content)] = None
    pad_token: Annotated[str | None, BeforeValidator(_content)] = None
    unk_token: Annotated[str | None, BeforeValidator(_content)] = None
    chat_template: Annotated[dict[str, str] | None, BeforeValidator(_by_name)] = None
    added_tokens_decoder: dict[str, _ListedToken] = Field(default_factory=dict)

    def special_tokens(self) -> dict[str, str]:
        """Tokens with a role, by its name."""
        roles = ("eos_token", "bos_token", "pad_token", "unk_token")
        return {role: token for role in roles if (token := getattr(self, role)) is not None}


def load_tokenizer(folder: Path, vocab_size: int) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint, whose model has embeddings for the ids below `vocab_size`.

    Raises:
        CheckpointError: its files are missing or damaged, contradict each other or the model, or it is no byte-level
            BPE; the message names the file and the remedy.
    """
    path = folder / _TOKENIZER
    for needed in (path, folder / _CONFIG):
        if not os.path.lexists(needed):
            raise CheckpointError(
                f"{folder} holds no {needed.name}: copy it from the model's page, or have transformers write it: "
                "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
            )
    document = read_document(path, _TokenizerDocument, _MOST_BYTES)
    ids = _token_ids(path, document, vocab_size)
    config = read_document(folder / _CONFIG, _ConfigDocument)
    _check_named(folder / _CONFIG, config, document.added_tokens)
    template = _chat_template(folder, config)
    try:
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path), chat_template=template, **config.special_tokens())
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
        _check_behaviour(path, tokenizer, ids)
    except (CheckpointError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises bare exceptions, and its panics are not even such
        raise CheckpointError(f"{path} makes no tokenizer ({str(error)[:200]!a}): {AGAIN}") from error
    return tokenizer


def _token_ids(path: Path, document: _TokenizerDocument, vocab_size: int) -> dict[str, int]:
    """The id of every token."""
    ids = document.model.vocab | {token.content: token.id for token in document.added_tokens}
    if missing := set(_CHARACTER_OF_BYTE.values()) - ids.keys():
        raise CheckpointError(
            f"{path} has no token for {len(missing)} of the 256 bytes: LayerRoute needs a byte-level BPE as Qwen2 "
            "models have; use the tokenizer that belongs to the model"
        )
    token = max(ids, key=ids.__getitem__)
    if ids[token] >= vocab_size:
        raise CheckpointError(
            f"{path} gives {shown(token)} the id {ids[token]}, but config.json has vocab_size = {vocab_size}: "
            f"tokenizer and model do not belong together, {AGAIN}"
        )
    if len(set(ids.values())) < len(ids):
        raise CheckpointError(f"{path} gives two tokens the same id: {AGAIN}")
    return ids


def _check_named(path: Path, config: _ConfigDocument, added_tokens: list[_AddedToken]) -> None:
    """Check that the tokens which tokenizer_config.json names are added tokens of tokenizer.json."""
    ids = {token.content: token.id for token in added_tokens}
    for role, token in config.special_tokens().items():
        if token not in ids:
            raise CheckpointError(
                f"{path} has {role} = {shown(token)}, which is no added token of {_TOKENIZER}: {AGAIN}"
            )
    for number, listed in config.added_tokens_decoder.items():
        if str(ids.get(listed.content)) != number:
            raise CheckpointError(
                f"{path} gives {shown(listed.content)} the id {shown(number)} in added_tokens_decoder, and "
                f"{_TOKENIZER} {ids.get(listed.content)}: {AGAIN}"
            )


def _chat_template(folder: Path, config: _ConfigDocument) -> dict[str, str] | str | None:
    path = folder / _TEMPLATE
    if os.path.lexists(path):
        try:
            return read_bounded(path, _MOST_TEMPLATE_BYTES).decode("utf-8")
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read ({error}): {AGAIN}") from error
    templates = config.chat_template
    return templates["default"] if templates is not None and templates.keys() == {"default"} else templates


def _check_behaviour(path: Path, tokenizer: PreTrainedTokenizerFast, ids: dict[str, int]) -> None:
    """Check that tokens have the ids that the file gives them, and that tokens spell the bytes of a text."""
    loaded = tokenizer.get_vocab()
    if wrong := next((token for token in loaded if loaded[token] != ids.get(token)), None):
        raise CheckpointError(
            f"{path} gives {shown(wrong)} the id {ids.get(wrong)}, but with ids missing before it its id would be "
            f"{loaded[wrong]}: {AGAIN}"
        )
    backend = tokenizer.backend_tokenizer
    encoded = backend.encode(_PROBE, add_special_tokens=False)
    spelled = "".join(_CHARACTER_OF_BYTE[byte] for byte in _PROBE.encode())
    if "".join(encoded.tokens) != spelled or backend.decode(encoded.ids) != _PROBE:
        raise CheckpointError(
            f"{path} changes text on the way to tokens or back: LayerRoute needs a byte-level BPE as Qwen2 models "
            "have; use the tokenizer that belongs to the model"
        )
