"""The demo model: its world is true and repeatable, its tokenizer loses nothing, its training learns, its checkpoint remembers."""

import random
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "src" / "strobe" / "data" / "demo"
sys.path.insert(0, str(ROOT / "examples" / "apps" / "demo_model"))

import measure  # noqa: E402
import tokens  # noqa: E402
import train  # noqa: E402
from transformers import AutoTokenizer, LlamaForCausalLM  # noqa: E402
from world import Stock, Talker, Wish, ask, conversation, is_right, simulate, tell, words  # noqa: E402


pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(DEMO)


@pytest.fixture(scope="module")
def model():
    return LlamaForCausalLM.from_pretrained(DEMO, dtype=torch.float32)


def test_a_seed_is_one_world():
    assert conversation(random.Random(7), 6000) == conversation(random.Random(7), 6000)
    assert conversation(random.Random(7), 6000) != conversation(random.Random(8), 6000)


def test_every_fact_is_told_and_every_answer_holds_it():
    kinds = set()
    for seed in range(400):
        rng = random.Random(seed)
        talker = Talker(rng)
        story = simulate(rng, talker.stock, talker.wish())
        text = tell(rng, story)
        for fact in story.facts:
            kinds.add(fact.kind)
            assert is_right(text, fact.keys), f"seed {seed}: the story does not say {fact.kind} {fact.keys}:\n{text}"
            assert is_right(ask(rng, fact).answer, fact.keys)
    assert len(kinds) > 30


@pytest.mark.parametrize("kind", ["fox", "baker", "unicorn"])
@pytest.mark.parametrize("noun", ["lantern", "honey cake", "spaceship"])
def test_a_story_is_about_what_was_asked(kind, noun):
    for seed in range(20):
        rng = random.Random(seed)
        text = tell(rng, simulate(rng, Stock(rng), Wish(kinds=(kind,), nouns=(noun,))))
        assert kind in text and noun in text


def test_names_of_one_conversation_are_different_people():
    talker = Talker(random.Random(3))
    for _ in range(30):
        talker.story()
    names = [fact.roles["a"].name for facts in talker.told for fact in facts if fact.kind == "kind"]
    assert len(names) == len(set(names)) == 30


def test_places_have_something_to_see():
    from world.scenes import SCENES

    assert {noun for _, noun in words.PLACE_NOUNS} == set(SCENES)


@pytest.mark.parametrize(
    "text",
    [
        "A fox and a lantern.",
        "  two  spaces \n\n and\ttabs ",
        "naïve café, 你好, здравствуйте, 🦊🏮",
        "\x00\x7f\u2028 e\u0301",
        "<b>1 + 1 = 2</b>",
    ],
)
def test_tokenizer_gives_any_text_back(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_tokenizer_gives_random_text_back(tokenizer):
    rng = random.Random(0)
    for _ in range(200):
        text = "".join(
            chr(rng.choice((rng.randrange(1, 0xD800), rng.randrange(0xE000, 0x110000), rng.randrange(1, 128)))) for _ in range(20)
        )
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_chat_template_is_what_the_model_was_trained_on(tokenizer):
    turns = conversation(random.Random(1), 1500)[:3]
    messages = [{"role": turn.role, "content": turn.text} for turn in turns]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids == measure.prompt(tokens.Encoder(tokenizer), turns)


def test_fast_encoder_is_the_tokenizer(tokenizer):
    text = "".join(turn.text for turn in conversation(random.Random(2), 20000))
    assert tokens.Encoder(tokenizer).text(text) == tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.slow
def test_smoke_training_learns(tmp_path):
    result = train.main(["--out", str(tmp_path), "--smoke"])
    assert result["curve"][-1]["loss"] < result["curve"][0]["loss"] - 1.5
    assert {path.name for path in tmp_path.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json", "loss.json"}


def test_shipped_files_are_small():
    assert sum(path.stat().st_size for path in DEMO.iterdir()) <= 12_000_000


@pytest.mark.slow
def test_tells_a_story_about_a_fox_and_a_lantern(model, tokenizer):
    (story,) = measure.greedy(
        model,
        tokenizer,
        [measure.prompt(tokens.Encoder(tokenizer), [measure.Turn("user", "Tell me a story about a fox and a lantern.")])],
        200,
    )
    assert "fox" in story and "lantern" in story
    assert len(story) > 300, story


@pytest.mark.slow
def test_remembers_two_thousand_tokens_back(model, tokenizer):
    right, answers = measure.accuracy(model, tokenizer, 2000, range(8), batch=8)
    assert right >= 0.85, [answer for answer in answers if not answer["right"]]
