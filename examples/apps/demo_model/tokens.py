"""The demo model's tokenizer, and the world's conversations as rows of tokens with a weight each."""

import random
import re
from array import array

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from world import Turn, document

START, USER, ASSISTANT, END, PAD = "<|start|>", "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>"
SPECIAL = (START, USER, ASSISTANT, END, PAD)
VOCABULARY = 2048
# A word with the space before it, one digit, or a run of anything else.
WORDS = r" ?[A-Za-z]+| ?[0-9]| ?[^ \t\r\nA-Za-z0-9]+|[ \t\r\n]+"
CHARACTERS_PER_TOKEN = 3.8
# An answer is a few tokens among thousands; without a weight, recall would be learned last.
ANSWER_WEIGHT = 5
TEMPLATE = (
    "{{ '<|start|>' }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ '<|user|>' + message['content'] + '<|end|>' }}"
    "{% else %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def build_tokenizer(documents: int = 1500, seed: int = 0) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer learned from the world's own words; every UTF-8 text can be encoded and comes back whole."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORDS), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    rng = random.Random(seed)
    tokenizer.train_from_iterator((turn.text for _ in range(documents) for turn in document(rng, 2500)), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", pair=f"{START} $A {START} $B", special_tokens=[(START, tokenizer.token_to_id(START))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=16384,
        model_input_names=["input_ids", "attention_mask"],
    )


class Encoder(dict):
    """Encodes the world's text as the tokenizer does, but faster: a word is looked up, and only a new word is tokenized."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self._encode = tokenizer.backend_tokenizer.encode
        self._words = re.compile(WORDS).findall
        self.start, self.user, self.assistant, self.end, _ = tokenizer.convert_tokens_to_ids(list(SPECIAL))

    def __missing__(self, word: str) -> list[int]:
        ids = self[word] = self._encode(word, add_special_tokens=False).ids
        return ids

    def text(self, text: str) -> list[int]:
        return [i for word in self._words(text) for i in self[word]]

    def turns(self, turns: list[Turn]) -> tuple[list[int], bytearray]:
        """A document's tokens, and the weight of each in the loss."""
        tokens, weights = [self.start], bytearray([1])
        roles = {"user": [self.user], "assistant": [self.assistant], "text": []}
        for turn in turns:
            said = [*self.text(turn.text), self.end]
            tokens += roles[turn.role] + said
            weights += bytes([1] * len(roles[turn.role])) + bytes([ANSWER_WEIGHT if turn.keys else 1]) * len(said)
        return tokens, weights

    def row(self, rng: random.Random, length: int) -> tuple[array, bytearray]:
        """`length` tokens of whole documents, the last one cut: half of the rows are one conversation, so that recall has far to reach."""
        tokens, weights = [], bytearray()
        while len(tokens) < length:
            left = length - len(tokens)
            share = 0.95 if rng.random() < 0.5 else min(1.0, 150 / left) ** rng.random()
            more, worth = self.turns(document(rng, int(left * share * CHARACTERS_PER_TOKEN)))
            tokens += more
            weights += worth
        return array("H", tokens[:length]), weights[:length]
