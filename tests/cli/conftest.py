"""A checkpoint that takes no time: two layers, a token a byte, random weights; and the command line as a process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SPECIAL = ("<|start|>", "<|user|>", "<|assistant|>", "<|end|>")
TEMPLATE = (
    "{{ '<|start|>' }}{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
CONTEXT = 512
# Each step waits, so that whoever reads its first byte can act before its last. What a shell starts in the background ignores Ctrl-C, and
# so does all that it starts, unless told otherwise.
PROCESS = f"""
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, {str(ROOT / "src")!r})
from strobe.cli import main
from strobe.engine.engine import Engine
step = Engine.step
Engine.step = lambda engine: (time.sleep(0.02), step(engine))[1]
sys.exit(main([*sys.argv[1:], "--threads", "1"]))
"""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint's folder; its model never ends a text by itself."""
    pytest.importorskip("transformers")
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    words = {token: i for i, token in enumerate((*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())))}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=SPECIAL[0], eos_token=SPECIAL[3], chat_template=TEMPLATE)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=CONTEXT, bos_token_id=0, eos_token_id=3, pad_token_id=3, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    with torch.no_grad():  # letters only: no token that ends the text, no half of a character
        weight = model.lm_head.weight
        letters = [words[chr(c)] for c in range(ord("a"), ord("z") + 1)]
        others = [i for i in range(len(words)) if i not in letters]
        weight[others] = -weight[letters].mean(0) * 0.0
        model.model.norm.weight *= 4.0
    folder = tmp_path_factory.mktemp("tiny") / "model"
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture
def start() -> Callable[..., subprocess.Popen[bytes]]:
    """Starts `strobe …` as a process of its own, one thread, its streams piped."""

    def run(*words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", PROCESS, *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT,
        )  # fmt: skip

    return run
