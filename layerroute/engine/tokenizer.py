"""The tokenizer of a checkpoint folder."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from layerroute.errors import BackboneError


def load_tokenizer(folder: Path, vocab_size: int) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint, whose model has embeddings for the ids below `vocab_size`.

    Raises:
        BackboneError: its files are missing or damaged; the message names the file and the remedy.
    """
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise BackboneError(
            f"{folder} holds no tokenizer that transformers can read ({error}): "
            "copy tokenizer.json and tokenizer_config.json of the model beside its weights"
        ) from error
