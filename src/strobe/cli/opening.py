"""A checkpoint folder, or the demonstration model, opened with a line for every mistake."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from strobe.cli.screen import waiting
from strobe.errors import Invalid

if TYPE_CHECKING:
    from strobe.cache.formats import Format
    from strobe.models.linears import Weights

MODELS = ("transformers", "tokenizers", "safetensors", "jinja2")


@dataclass(frozen=True)
class Opened:
    """A model with its tokenizer, and where it came from."""

    model: Any
    tokenizer: Any
    folder: Path
    demonstration: bool


def demo_folder() -> Path:
    """Where the demonstration model lies."""
    return Path(__file__).resolve().parents[1] / "data" / "demo"


def require_models() -> None:
    """Raises `Invalid` where the packages that models need are not installed."""
    missing = [name for name in MODELS if util.find_spec(name) is None]
    if missing:
        raise Invalid(f"models need {', '.join(missing)}: pip install 'strobe-attention[models]'")


def checkpoint(folder: str | None) -> Path:
    """The folder that was asked for, or the demonstration model's.

    Raises:
        Invalid: the extra is not installed, or no folder was named and no demonstration model is here.
    """
    require_models()
    if folder is not None:
        return Path(folder)
    if not (demo_folder() / "config.json").exists():
        raise Invalid("the demonstration model is not part of this installation; name a checkpoint's folder with --model")
    return demo_folder()


def device_of(word: str) -> str:
    """What `--device` asks for; auto is a GPU where torch sees one."""
    if word != "auto":
        return word
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def load_quietly(folder: Path, dtype: str, device: str = "cpu") -> tuple[Any, Any]:
    """`strobe.models.load.load`, without transformers' own bars and remarks."""
    from transformers.utils import logging

    from strobe.models.load import load

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    return load(folder, dtype=dtype, device=device)


def open_model(folder: str | None, dtype: str = "auto", device: str = "cpu", announce: bool = True) -> Opened:
    """The model of `--model`, or the demonstration model, which is announced as what it is."""
    where = checkpoint(folder)
    if folder is None and announce:
        print("the demonstration model, 5.7 million parameters: it tells stories of a small world and knows nothing else", file=sys.stderr)
    with waiting("loading"):
        model, tokenizer = load_quietly(where, dtype, device)
    return Opened(model, tokenizer, where, folder is None)


def weights_of(word: str) -> Weights:
    """What `--weights` asks for."""
    from strobe.models.linears import AS_LOADED, Int8

    return Int8() if word == "int8" else AS_LOADED


def cache_of(word: str) -> Format:
    """What `--cache` asks for."""
    from strobe.cache.formats import AS_COMPUTED, Float8, Int4, Int8

    return {"int8": Int8(), "int4": Int4(), "float8": Float8()}.get(word, AS_COMPUTED)


def asked(tokenizer: Any, messages: list[dict[str, str]], raw: bool = False) -> list[int]:
    """The tokens of a conversation that waits for an answer; of the bare text where there is no chat template, or `raw`."""
    if raw or not getattr(tokenizer, "chat_template", None):
        return list(tokenizer.encode("\n".join(message["content"] for message in messages)))
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return list(tokenizer.encode(text, add_special_tokens=False))


@dataclass
class Spoken:
    """A conversation so far: its messages, and the text and tokens that the engine has seen of it.

    The tokens that were generated are kept, not read anew from their text: the same text may have other tokens, and
    then nothing of it would be found in the cache.
    """

    tokenizer: Any
    messages: list[dict[str, str]] = field(default_factory=list)
    text: str = ""
    tokens: list[int] = field(default_factory=list)

    def asked(self, said: str) -> tuple[str, list[int]]:
        """(text, tokens) of the conversation with this said by the user, waiting for an answer."""
        messages = [*self.messages, {"role": "user", "content": said}]
        if not getattr(self.tokenizer, "chat_template", None):
            text = f"{self.text}\n{said}\n" if self.text else f"{said}\n"
        else:
            text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        if self.text and text.startswith(self.text):
            return text, [*self.tokens, *self.tokenizer.encode(text[len(self.text) :], add_special_tokens=False)]
        return text, asked(self.tokenizer, messages)

    def answered(self, said: str, text: str, tokens: list[int], answer: str, generated: list[int]) -> None:
        """Notes a turn: what the user said, the text and tokens it was asked with, and what came."""
        self.messages += [{"role": "user", "content": said}, {"role": "assistant", "content": answer}]
        ended = generated[-1:] == [self.tokenizer.eos_token_id]
        self.text, self.tokens = text + answer, [*tokens, *(generated[:-1] if ended else generated)]


def readable(text: str, name: str) -> str:
    """The text, if it says something and is UTF-8.

    Raises:
        Invalid: it is empty, or holds bytes that are no UTF-8 (which Python keeps as lone surrogates).
    """
    if not text.strip():
        raise Invalid(f"{name} is empty; say something")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as wrong:
        raise Invalid(f"{name} is not UTF-8: byte {ord(text[wrong.start]) & 0xFF:#04x} at character {wrong.start}") from None
    return text


def read_prompts(path: str) -> list[str]:
    """The prompts of a file, one a line; empty lines are passed over.

    Raises:
        Invalid: the file cannot be read, is not UTF-8, or holds no prompt.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except OSError as wrong:
        raise Invalid(f"{path} cannot be read: {wrong.strerror}") from None
    except UnicodeDecodeError as wrong:
        raise Invalid(f"{path} is not UTF-8: byte {wrong.object[wrong.start]:#04x} at place {wrong.start}") from None
    text = text.removeprefix("\ufeff")  # the mark that some editors begin UTF-8 with is no part of a prompt
    prompts = [line for line in text.splitlines() if line.strip()]
    if not prompts:
        raise Invalid(f"{path} holds no prompt; one a line is wanted")
    return prompts
