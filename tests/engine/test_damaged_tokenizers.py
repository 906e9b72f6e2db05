"""Tokenizers: only byte-level BPE whose tokens have the ids that the model was trained with is let in."""

import json
import shutil
from pathlib import Path

import pytest
from damage import edit, mutate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layerroute.chat.template import encode_rendered, render
from layerroute.engine.grammar import GrammarFactory
from layerroute.engine.request import OutputConstraint, ToolSpec
from layerroute.engine.tokenizer import load_tokenizer
from layerroute.errors import BackboneError, CheckpointError

WHOLE = Path(__file__).parents[1] / "data" / "tokenizer"
VOCAB = 2048
NAMES = ["tokenizer.json", "tokenizer_config.json"]


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(WHOLE, tmp_path / "tokenizer"))


def error_of(folder, vocab_size=VOCAB) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_tokenizer(folder, vocab_size)
    message = str(caught.value)
    assert len(message) < 1000
    return message


def prompt(folder, content="Hello"):
    tokenizer = load_tokenizer(folder, VOCAB)
    return encode_rendered(tokenizer, render(tokenizer, [{"role": "user", "content": content}]))


def test_it_encodes_as_the_stock_tokenizer(folder, tokenizer):
    loaded = load_tokenizer(folder, VOCAB)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.get_added_vocab() == tokenizer.get_added_vocab()
    assert loaded.eos_token_id == tokenizer.eos_token_id
    assert loaded.chat_template == tokenizer.chat_template
    for text in ("Hello  world\n\n\t12345 Zürich 你好 🚀", "<|im_start|>user<tool_call>{}", "", "\x00 e\u0301"):
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert loaded.decode(loaded(text)["input_ids"]) == tokenizer.decode(tokenizer(text)["input_ids"])


def without(name):
    return lambda document: {field: value for field, value in document.items() if field != name}


@pytest.mark.parametrize("name", NAMES)
def test_missing_files_are_said_and_no_grammar_fails_later(folder, name):
    (folder / name).unlink()
    assert f"holds no {name}" in error_of(folder)


def test_no_end_token_is_said_and_no_grammar_fails_later(folder):
    edit(folder / "tokenizer_config.json", without("eos_token"))
    assert "tokenizer_config.json lacks the field 'eos_token'" in error_of(folder)
    edit(folder / "tokenizer_config.json", lambda config: config.update(eos_token=None))
    assert "eos_token = None" in error_of(folder)


def test_a_vocabulary_larger_than_the_models(folder):
    load_tokenizer(folder, VOCAB + 100)  # padding of the embedding
    assert "'<|file_sep|>' the id 2047, but config.json has vocab_size = 2047" in error_of(folder, VOCAB - 1)


def vocab(change):
    """A change of the vocabulary of tokenizer.json."""
    return lambda document: change(document["model"]["vocab"])


DAMAGES = {
    "no model": without("model"),
    "an empty model": lambda d: d.update(model={}),
    "a model that is a list": lambda d: d.update(model=[]),
    "another kind of model": lambda d: d["model"].update(type="WordPiece"),
    "no vocabulary": lambda d: d["model"].update(vocab={}),
    "a vocabulary that is a list": lambda d: d["model"].update(vocab=[["a", 0]]),
    "an id that is no number": vocab(lambda v: v.update(the="1")),
    "an id that is negative": vocab(lambda v: v.update(the=-1)),
    "an id that is true": vocab(lambda v: v.update(the=True)),
    "an id beyond 32 bits": vocab(lambda v: v.update(the=2**32 + 5)),
    "an id beyond the embedding": vocab(lambda v: v.update(the=VOCAB)),
    "an id twice": vocab(lambda v: v.update(the=v["e"])),
    "a token missing": vocab(lambda v: v.pop("the")),
    "a byte missing": vocab(lambda v: v.pop("e")),
    "merges of nothing": lambda d: d["model"].update(merges=[["never", "seen"]]),
    "merges that are no pairs": lambda d: d["model"].update(merges=[1, 2]),
    "a prefix within words": lambda d: d["model"].update(continuing_subword_prefix="s"),
    "a suffix of words": lambda d: d["model"].update(end_of_word_suffix="</w>"),
    "dropout": lambda d: d["model"].update(dropout=0.5),
    "bytes as tokens": lambda d: d["model"].update(byte_fallback=True, vocab={f"<0x{i:02X}>": i for i in range(256)}),
    "no bytes": lambda d: d.update(pre_tokenizer={"type": "Whitespace"}),
    "no pre-tokenizer": lambda d: d.update(pre_tokenizer=None),
    "underscores for spaces": lambda d: d.update(
        pre_tokenizer={"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": True}
    ),
    "a space before": lambda d: d["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True),
    "no decoder": lambda d: d.update(decoder=None),
    "another decoder": lambda d: d.update(decoder={"type": "Fuse"}),
    "all in lower case": lambda d: d.update(normalizer={"type": "Lowercase"}),
    "another text": lambda d: d.update(normalizer={"type": "Replace", "pattern": {"String": "1"}, "content": "2"}),
    "a normalizer that panics": lambda d: d.update(normalizer={"type": "Precompiled"}),
    "a regex that is none": lambda d: d["pre_tokenizer"]["pretokenizers"][0].update(pattern={"Regex": "(("}),
    "added tokens that are none": lambda d: d.update(added_tokens=[None]),
    "added tokens without an id": lambda d: d.update(added_tokens=[{"content": "<x>", "special": True}]),
    "added tokens with another id": lambda d: d["added_tokens"][0].update(id=7),
    "added tokens that leave a gap": lambda d: d.update(added_tokens=d["added_tokens"][1:]),
    "half a surrogate pair": vocab(lambda v: v.update({"\ud800": 5})),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_tokenizer_json_that_is_no_whole_byte_level_bpe(folder, damage):
    edit(folder / "tokenizer.json", DAMAGES[damage])
    assert "tokenizer.json" in error_of(folder)


@pytest.mark.parametrize(
    "value", ["<unseen>", "the", 5, [], {}, {"content": 5}, {"content": "<unseen>"}, True, "\ud800"]
)
@pytest.mark.parametrize("role", ["eos_token", "bos_token", "pad_token", "unk_token"])
def test_special_tokens_that_are_none(folder, role, value):
    edit(folder / "tokenizer_config.json", lambda config: config.update({role: value}))
    message = error_of(folder)
    assert "tokenizer_config.json" in message
    assert role in message or "surrogate" in message


@pytest.mark.parametrize("value", [5, [], {"x": 1}, {"2035": 5}, {"2035": {}}, {"7": {"content": "<|im_end|>"}}])
def test_added_tokens_of_which_the_two_files_say_different_things(folder, value):
    edit(folder / "tokenizer_config.json", lambda config: config.update(added_tokens_decoder=value))
    assert "added_tokens_decoder" in error_of(folder)


def test_added_tokens_that_agree(folder):
    ids = load_tokenizer(folder, VOCAB).get_added_vocab()
    listed = {str(number): {"content": token, "special": True} for token, number in ids.items()}
    edit(folder / "tokenizer_config.json", lambda config: config.update(added_tokens_decoder=listed))
    load_tokenizer(folder, VOCAB)


@pytest.mark.parametrize("name", ["tokenizer_class", "auto_map", "init_inputs", "model_max_length", "gguf_file"])
@pytest.mark.parametrize("value", [None, 5, "PWN", ["code.Tokenizer", None], {"AutoTokenizer": ["code.T", "code.T"]}])
def test_neither_classes_nor_code_of_a_folder_are_looked_at(folder, name, value):
    expected = prompt(folder)
    (folder / "code.py").write_text("raise SystemExit('code of the folder ran')")
    edit(folder / "tokenizer_config.json", lambda config: config.update({name: value}))
    assert prompt(folder) == expected


def test_truncation_and_padding_of_a_training_run_are_no_part_of_a_model(folder):
    expected = prompt(folder, "long " * 100)
    edit(
        folder / "tokenizer.json",
        lambda document: document.update(
            truncation={"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0},
            padding={
                "strategy": {"Fixed": 4096},
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "!",
            },
        ),
    )
    assert prompt(folder, "long " * 100) == expected


def test_a_control_token_may_be_in_the_vocabulary_as_well(folder):
    constraint = OutputConstraint((ToolSpec("f", '{"type": "object"}'),), tool_choice="required")

    def beginning() -> tuple[int, ...]:
        grammar = GrammarFactory(load_tokenizer(folder, VOCAB), VOCAB).build(constraint)
        return grammar.forced()

    expected = beginning()
    edit(folder / "tokenizer.json", lambda d: d["model"]["vocab"].update({"<|endoftext|>": d["added_tokens"][0]["id"]}))
    assert beginning() == expected


# --- chat templates


def with_template(folder, template):
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    edit(folder / "tokenizer_config.json", lambda config: config.update(chat_template=template))
    return folder


@pytest.mark.parametrize("value", [5, [], ["x"], [{"name": "default"}], [{"template": "x"}], {"default": None}, True])
def test_templates_that_are_no_text(folder, value):
    with pytest.raises(BackboneError, match="chat_template"):
        prompt(with_template(folder, value))


def test_templates_by_name_are_read_in_both_forms(folder):
    plain = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    expected = prompt(folder)
    assert prompt(with_template(folder, plain)) == expected
    assert prompt(with_template(folder, [{"name": "default", "template": plain}])) == expected
    assert prompt(with_template(folder, {"default": plain, "other": "{{ wrong"})) == expected


def test_no_template_is_said_when_it_is_needed(folder):
    (folder / "chat_template.jinja").unlink()
    load_tokenizer(folder, VOCAB)
    with pytest.raises(BackboneError, match=r"no chat_template: .*chat_template\.jinja"):
        prompt(folder)


@pytest.mark.parametrize("damage", [b"\xff\xfe", b"x" * (2**20 + 1), None], ids=["binary", "huge", "a folder"])
def test_a_template_file_that_is_none(folder, damage):
    path = folder / "chat_template.jinja"
    path.unlink()
    if damage is None:
        path.mkdir()
    else:
        path.write_bytes(damage)
    assert "chat_template.jinja" in error_of(folder)


@pytest.mark.parametrize(
    "template",
    [
        "{% for %}",
        "{{ messages",
        "{{ nothing.at.all }}",
        "{{ 1 / 0 }}",
        "{{ messages + 1 }}",
        "{{ raise_exception('not today') }}",
        "{{ messages[9].content }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ messages.append(1) }}",
        "{{ range(10**9) | list }}",
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
        "{{ open('/etc/passwd') }}",
        "{{ messages | nothing }}",
    ],
)
def test_templates_that_fail(folder, template):
    with pytest.raises(BackboneError, match="chat_template fails"):
        prompt(with_template(folder, template))


# --- anything at all


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(NAMES))
def test_any_change_loads_or_is_told(folder, data, name):
    path = folder / name
    whole = (WHOLE / name).read_text(encoding="utf-8")
    path.write_text(json.dumps(mutate(data, json.loads(whole))), encoding="utf-8")
    try:
        tokenizer = load_tokenizer(folder, VOCAB)
        encode_rendered(tokenizer, render(tokenizer, [{"role": "user", "content": "Hello"}]))
    except BackboneError:
        pass
    finally:
        path.write_text(whole, encoding="utf-8")
