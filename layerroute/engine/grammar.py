"""Constrained decoding: tool calls that name an offered tool and fit its JSON schema, and JSON documents.

A grammar is free (text, no cost on the CPU) or follows an llguidance matcher. With `tool_choice="auto"` it is free
until the model emits the `<tool_call>` token and follows the matcher from there on.
"""

import json
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from llguidance.numpy import fill_next_token_bitmask
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from layerroute.backbone.token_mask import mask_of, num_words
from layerroute.engine.detokenizer import token_bytes
from layerroute.engine.json_values import NumberScanner, identity, read_json
from layerroute.engine.request import TOOL_CALL_CLOSE, TOOL_CALL_OPEN, OutputConstraint
from layerroute.engine.schemas import RESPONSE, prepare_schema
from layerroute.engine.schemas.probing import LIMITS
from layerroute.errors import BackboneError, LayerRouteError, RequestError, ToolSchemaError
from layerroute.forking import ForkSafeLock

_KEPT_PLANS = 64


@dataclass(frozen=True, slots=True)
class _Plan:
    """What every request with the same constraint shares; matchers are copied before use.

    Attributes:
        at_start: matcher that holds from the first token, or None to start free.
        at_call: matcher that holds after a `<tool_call>` token in free text, or None.
        free_mask_W: mask while free, or None if nothing is banned.
    """

    at_start: LLMatcher | None
    at_call: LLMatcher | None
    free_mask_W: Tensor | None


@dataclass(frozen=True, slots=True)
class _Tokens:
    """What a grammar knows of the vocabulary.

    Attributes:
        vocab_size: columns `V` of the logits.
        open_id, close_id: markers around a call, or None.
        end_id: ends the answer.
        bytes_of: bytes of a token, by id.
        no_digit_W: mask of all tokens but those that begin with a digit.
    """

    vocab_size: int
    open_id: int | None
    close_id: int | None
    end_id: int
    bytes_of: tuple[bytes, ...]
    no_digit_W: Tensor


class Grammar:
    """What one answer may be, token by token. Made by `GrammarFactory.build`; not for several threads at once.

    Beyond the matcher it ends what a model may otherwise repeat for ever: the digits of a number, and calls. A call
    that has been made already ends the answer, and so does a long number to which the matcher wants yet more digits.
    """

    def __init__(self, plan: _Plan, tokens: _Tokens) -> None:
        self._plan = plan
        self._tokens = tokens
        self._matcher = plan.at_start.deep_copy() if plan.at_start is not None else None
        self._ended = False
        self._numbers = NumberScanner()
        self._call = bytearray()
        self._calls: set[str] = set()
        self._repeating = False

    @property
    def finished(self) -> bool:
        """Whether only the end token may follow (or has already come)."""
        if self._over:
            return True
        if self._matcher is None or not self._matcher.is_accepting():
            return False
        return self._matcher.is_stopped() or self._only_end_allowed()

    @property
    def _over(self) -> bool:
        return self._ended or self._repeating

    def mask(self) -> Tensor | None:
        """The tokens that may come next, packed, int32 `[W]` on the CPU, or None if all may; not to be written to.

        Raises:
            LayerRouteError: the grammar has grown beyond what can be followed.
        """
        if self._matcher is None:
            return self._plan.free_mask_W
        if self._over:
            return mask_of([self._tokens.end_id], self._tokens.vocab_size)
        mask_W = self._matcher_mask(self._matcher)
        return mask_W & self._tokens.no_digit_W if self._numbers.too_long else mask_W

    def _matcher_mask(self, matcher: LLMatcher) -> Tensor:
        words = np.empty((1, num_words(self._tokens.vocab_size)), dtype=np.int32)
        fill_next_token_bitmask(matcher, words)
        self._check()
        return torch.from_numpy(words[0])

    def forced(self) -> tuple[int, ...]:
        """Tokens that the grammar leaves no choice about from here, without the end token; () if there is a choice."""
        if self._matcher is None or self._over:
            return ()
        tokens: list[int] = self._matcher.compute_ff_tokens()
        self._check()
        return tuple(token for token in tokens if token != self._tokens.end_id)

    def accept(self, token_id: int) -> None:
        """Advance by a token that the mask allows.

        Raises:
            LayerRouteError: the grammar does not allow the token here.
        """
        if self._ended:
            raise LayerRouteError(f"token {token_id} comes after the end of the answer: stop at the end token")
        if self._matcher is None:
            self._accept_free(token_id)
        elif not (token_id == self._tokens.end_id if self._repeating else self._matcher.consume_token(token_id)):
            raise LayerRouteError(f"token {token_id} is not allowed here: pick tokens under the grammar's mask")
        self._ended = token_id == self._tokens.end_id
        if self._matcher is not None and not self._ended:
            self._read(token_id)

    def _accept_free(self, token_id: int) -> None:
        mask_W = self._plan.free_mask_W
        if mask_W is not None and not int(mask_W[token_id // 32]) >> (token_id % 32) & 1:
            raise LayerRouteError(f"token {token_id} is not allowed here: pick tokens under the grammar's mask")
        if token_id == self._tokens.open_id and self._plan.at_call is not None:
            self._matcher = self._plan.at_call.deep_copy()

    def _read(self, token_id: int) -> None:
        if token_id == self._tokens.open_id:
            self._call.clear()
        elif token_id == self._tokens.close_id:
            self._end_call()
        else:
            self._numbers.feed(self._tokens.bytes_of[token_id])
            if self._numbers.too_long and self._matcher is not None:
                self._repeating = not (self._matcher_mask(self._matcher) & self._tokens.no_digit_W).any()
            self._call += self._tokens.bytes_of[token_id]

    def _end_call(self) -> None:
        try:
            call = identity(read_json(self._call.decode()))
        except (ValueError, RecursionError):  # for the parser to tell
            return
        self._repeating = call in self._calls
        self._calls.add(call)

    def _only_end_allowed(self) -> bool:
        mask_W = self.mask()
        return mask_W is not None and torch.equal(mask_W, mask_of([self._tokens.end_id], self._tokens.vocab_size))

    def _check(self) -> None:
        assert self._matcher is not None  # callers look first
        if self._matcher.is_error():
            raise LayerRouteError(
                f"the output grammar cannot be followed further ({_first_line(self._matcher.get_error())}): "
                "simplify the tool or response schema"
            )


class GrammarFactory:
    """Builds grammars for one tokenizer; compiled constraints are kept, so an agent's next step costs a copy.

    Safe to use from several threads.

    Args:
        tokenizer: tokenizer of the backbone.
        vocab_size: columns `V` of the logits; ids beyond the tokenizer's are banned by masks.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._end_id: int = tokenizer.eos_token_id
        added = tokenizer.get_added_vocab()
        self._open_id: int | None = added.get(TOOL_CALL_OPEN)
        self._close_id: int | None = added.get(TOOL_CALL_CLOSE)
        self._ll_tokenizer: LLTokenizer | None = None
        self._plans: OrderedDict[OutputConstraint, _Plan] = OrderedDict()
        self._lock = ForkSafeLock()

    def build(self, constraint: OutputConstraint | None) -> Grammar | None:
        """The grammar of one request, or None when nothing is constrained.

        Raises:
            ToolSchemaError: a tool or response schema that no grammar can be built from.
            RequestError: tools for a tokenizer that has no tool-call tokens.
        """
        if constraint is None:
            return None
        with self._lock:
            plan = self._plans.get(constraint)
            if plan is None:
                plan = self._compile(constraint)
                self._plans[constraint] = plan
                if len(self._plans) > _KEPT_PLANS:
                    self._plans.popitem(last=False)
            self._plans.move_to_end(constraint)
            if plan == _Plan(None, None, None):
                return None
            return Grammar(plan, self._tokens)

    @cached_property
    def _tokens(self) -> _Tokens:
        bytes_of = token_bytes(self._tokenizer)
        digits = {token_id for token_id, spelled in enumerate(bytes_of) if spelled[:1].isdigit()}
        no_digit_W = mask_of(set(range(self._vocab_size)) - digits, self._vocab_size)
        return _Tokens(self._vocab_size, self._open_id, self._close_id, self._end_id, bytes_of, no_digit_W)

    def _compile(self, constraint: OutputConstraint) -> _Plan:
        may_call = bool(constraint.tools) and constraint.tool_choice != "none"
        rules = self._call_rules(constraint) if may_call else []
        document = constraint.response_schema
        if document is not None:
            rules.append(f"document: %json {prepare_schema(document, RESPONSE).grammar}")
        if document is not None or constraint.tool_choice == "required":
            starts = ["document"] * (document is not None) + ["calls"] * may_call
            return _Plan(self._matcher(["start: " + " | ".join(starts), *rules]), None, None)
        if may_call:
            return _Plan(None, self._matcher(["start: after_open", *rules]), None)
        return _Plan(None, None, self._ban_markers())

    def _ban_markers(self) -> Tensor | None:
        markers = [marker for marker in (self._open_id, self._close_id) if marker is not None]
        if not markers:
            return None
        return mask_of(set(range(len(self._tokenizer))).difference(markers), self._vocab_size)

    def _call_rules(self, constraint: OutputConstraint) -> list[str]:
        """Rules `calls` (from the `<tool_call>` token on) and `after_open` (from behind it)."""
        if self._open_id is None or self._close_id is None:
            raise RequestError(
                "this model's tokenizer has no <tool_call> tokens, so tools cannot be offered: use a Qwen2.5 model"
            )
        names = [tool.name for tool in constraint.tools]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ToolSchemaError(f"two tools share a name, {twice!r}: give every tool a name of its own")
        further = constraint.max_calls - 1 if constraint.parallel else 0
        more = f'("\\n" <[{self._open_id}]> body){{0,{further}}}' if further else ""
        rules = [
            f"calls: <[{self._open_id}]> after_open",
            f"after_open: body {more}",
            f'body: "\\n" call "\\n" <[{self._close_id}]>',
            "call: " + " | ".join(f"call_{index}" for index in range(len(constraint.tools))),
        ]
        for index, tool in enumerate(constraint.tools):
            head = f'{{"name": {json.dumps(tool.name, ensure_ascii=False)}, "arguments": '
            rules.append(f'call_{index}: {_lark_text(head)} arguments_{index} "}}"')
            rules.append(f"arguments_{index}: %json {tool.prepared().grammar}")
        return rules

    def _matcher(self, rules: list[str]) -> LLMatcher:
        lark = "%llguidance {}\n" + "\n".join(rules)
        matcher = LLMatcher(self._matcher_tokens(), LLMatcher.grammar_from_lark(lark), log_level=0, limits=LIMITS)
        if matcher.is_error():
            raise ToolSchemaError(
                f"no grammar can be built from these tools together ({_first_line(matcher.get_error())}): "
                "offer fewer tools or simpler schemas"
            )
        return matcher

    def _matcher_tokens(self) -> LLTokenizer:
        """llguidance's view of the vocabulary, made at first need (seconds for a large one).

        Every added token is declared special, so that none passes as text inside a JSON string; left to itself,
        llguidance guesses from the spelling which of them are.

        Forced text is encoded byte for byte. So no added token keeps its spelling: a literal that spells a control
        string must not become the control token (JSON text holds no NUL, so none can spell the names they get; rules
        name them by id). And nothing is normalised: other bytes than the literal's would not be allowed.
        """
        if self._ll_tokenizer is None:
            backend = json.loads(self._tokenizer.backend_tokenizer.to_str())
            backend["truncation"] = backend["padding"] = backend["normalizer"] = None
            vocabulary = backend["model"]["vocab"]
            for token in backend["added_tokens"]:
                token["special"] = True
                spelling, token["content"] = token["content"], f"\0{token['id']}"
                if spelling in vocabulary:  # under its new name it would count as one more token there
                    vocabulary[token["content"]] = vocabulary.pop(spelling)
            try:
                self._ll_tokenizer = LLTokenizer(json.dumps(backend), n_vocab=self._vocab_size, eos_token=self._end_id)
            except ValueError as error:
                raise BackboneError(
                    f"no grammar can follow this model's tokenizer ({_first_line(str(error))}): use the tokenizer.json "
                    "that belongs to the model, or ask without tools and response formats"
                ) from error
        return self._ll_tokenizer


def _lark_text(text: str) -> str:
    """A lark string literal; its escapes are JSON's, and U+007F needs one."""
    return json.dumps(text)


def _first_line(message: str) -> str:
    return message.strip().partition("\n")[0]
