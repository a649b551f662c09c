"""The engine over a real, tiny model: same tokens whatever the company, and nothing left behind."""

from __future__ import annotations

import pytest
import torch

from strobe import Invalid
from strobe.cache.formats import Float8, Format, Int4, Int8
from strobe.engine.engine import Engine
from strobe.engine.request import Finished, Sampling

from .tiny import eager, engine, greedy, model, prompts, words


def test_the_same_prompt_again_uses_its_pages_and_gives_the_same_tokens() -> None:
    e = engine()
    (asked,) = prompts([30])
    (first,) = e.generate([asked], greedy(20))
    computed = e.stats.computed_tokens
    (second,) = e.generate([asked], greedy(20))
    assert first.tokens == second.tokens
    assert e.stats.prompt_tokens_reused == 28  # whole pages of 4 before the last token
    assert e.stats.computed_tokens - computed == computed - 28
    assert e.stats.prefix_hit_rate == 28 / 60


@pytest.mark.parametrize("numbers", [Int8(), Float8(), Int4()], ids=str)
def test_a_narrow_cache_answers_and_is_smaller(numbers: Format) -> None:
    asked = prompts([30, 9, 14])
    wide, e = engine(), Engine(model(), words(), pages=64, page_size=4, budget=32, running=8, cache=numbers)
    answers = e.generate(asked, greedy(20))
    assert [answer.finished for answer in answers] == [Finished.LENGTH] * 3
    assert e.stats.cache_bytes < wide.stats.cache_bytes / 2  # of float32
    again = e.generate(asked, greedy(20))  # over the pages that are remembered
    assert [x.tokens for x in again] == [x.tokens for x in answers] and e.stats.prompt_tokens_reused > 0
    if numbers == Int8():
        assert [x.tokens[0] for x in answers] == [x.tokens[0] for x in wide.generate(asked, greedy(20))]
    e.check_integrity()


def test_a_cache_of_what_is_no_format_is_refused() -> None:
    with pytest.raises(Invalid, match="cache is Int8"):
        Engine(model(), words(), cache="int8")  # type: ignore[arg-type]


def test_a_longer_prompt_continues_an_answer() -> None:
    e = engine()
    (asked,) = prompts([10])
    (first,) = e.generate([asked], greedy(20))
    longer = [*asked, *first.tokens, 7, 8, 9]
    (found,) = e.generate([longer], greedy(20))
    assert e.stats.prompt_tokens_reused == 28
    assert [list(found.tokens)] == eager(model(), [longer], 20)


def test_a_tiny_cache_loses_no_token() -> None:
    asked = prompts([9, 14, 5, 21])
    e = engine(pages=17)
    answers = e.generate(asked, greedy(40))
    assert e.stats.preemptions > 0
    assert [list(answer.tokens) for answer in answers] == eager(model(), asked, 40)
    e.check_integrity()
    e.forget_prefixes()
    assert e.stats.pages_used_now == 0 and e.stats.pages_remembered_now == 0


def test_preemption_does_not_move_a_seeded_draw() -> None:
    asked = prompts([9, 14, 5, 21])
    sampling = Sampling(max_tokens=40, temperature=1.0, top_p=0.9, seed=5)
    roomy, tight = engine(pages=64), engine(pages=17)
    assert [a.tokens for a in roomy.generate(asked, sampling)] == [a.tokens for a in tight.generate(asked, sampling)]
    assert tight.stats.preemptions > 0 == roomy.stats.preemptions


def test_a_seed_repeats_and_does_not_depend_on_the_batch() -> None:
    one, *others = prompts([12, 3, 25])
    sampling = Sampling(max_tokens=30, temperature=1.2, seed=3)
    (alone,) = engine().generate([one], sampling)
    assert engine().generate([one], sampling)[0].tokens == alone.tokens
    e = engine()
    numbers = [e.submit(p, Sampling(max_tokens=30, temperature=0.7, seed=9 + i)) for i, p in enumerate(others)]
    number = e.submit(one, sampling)
    assert e.answer(number).tokens == alone.tokens
    assert [len(e.answer(n).tokens) for n in numbers] == [30, 30]


def test_no_seed_is_a_fresh_one() -> None:
    (asked,) = prompts([12])
    sampling = Sampling(max_tokens=30, temperature=2.0)
    e = engine()
    assert e.generate([asked], sampling)[0].tokens != e.generate([asked], sampling)[0].tokens


def test_streams_give_the_answer_in_pieces_and_may_run_side_by_side() -> None:
    e = engine()
    asked = prompts([7, 15])
    expected = e.generate(asked, greedy(25))
    streams = [e.stream(p, greedy(25)) for p in asked]
    pieces = [[], []]
    while any(streams):
        for i, stream in enumerate(streams):
            if stream is not None and (piece := next(stream, None)) is not None:
                pieces[i].append(piece)
            else:
                streams[i] = None
    for got, answer in zip(pieces, expected, strict=True):
        assert tuple(t for p in got for t in p.tokens) == answer.tokens
        assert "".join(p.text for p in got) == answer.text
        assert [p.finished for p in got if p.finished] == [Finished.LENGTH] and got[-1].finished
    assert e.idle


def test_streamed_text_has_no_broken_character() -> None:
    e = engine()
    for number, asked in enumerate(prompts([5, 9, 13])):
        pieces = list(e.stream(asked, Sampling(max_tokens=60, temperature=3.0, seed=number)))
        tokens = [t for p in pieces for t in p.tokens]
        whole = words().decode(tokens, skip_special_tokens=True)
        assert "".join(p.text for p in pieces) == whole.rstrip("\ufffd")
        assert not any(p.text.endswith("\ufffd") for p in pieces)


def test_a_stop_string_ends_the_answer_before_it() -> None:
    e = engine()
    (asked,) = prompts([8])
    (free,) = e.generate([asked], greedy(40))
    stop = free.text[10:13]
    at = free.text.find(stop)
    (cut,) = e.generate([asked], greedy(40, stop=(stop,)))
    assert cut.text == free.text[:at] and cut.finished is Finished.STOP
    assert cut.tokens == free.tokens[: len(cut.tokens)] and len(cut.tokens) < 40


def test_stop_tokens_and_the_end_of_text() -> None:
    e = engine()
    (asked,) = prompts([8])
    (free,) = e.generate([asked], greedy(40))
    end = free.tokens[12]
    first = free.tokens.index(end)
    (cut,) = e.generate([asked], greedy(40, stop_token_ids=(end,)))
    assert cut.tokens == free.tokens[: first + 1] and cut.finished is Finished.STOP
    e.model.stop_tokens = frozenset({end})
    (cut,) = e.generate([asked], greedy(40))
    assert cut.tokens == free.tokens[: first + 1] and cut.finished is Finished.STOP
    (on,) = e.generate([asked], greedy(40, ignore_eos=True))
    assert on.tokens == free.tokens and on.finished is Finished.LENGTH


def test_cancelled_requests_free_their_pages() -> None:
    e = engine()
    running, waiting = e.submit(prompts([20])[0], greedy(50)), e.submit(prompts([9])[0], greedy(50))
    e.step()
    assert e.stats.pages_used_now > 0
    e.cancel(running)
    e.cancel(waiting)
    e.cancel(waiting)  # again: nothing
    assert e.idle and e.stats.pages_used_now == 0 and e.stats.cancelled == 2
    e.check_integrity()
    assert e.answer(running).finished is Finished.CANCELLED


def test_a_stream_that_is_left_is_cancelled() -> None:
    e = engine()
    stream = e.stream(prompts([20])[0], greedy(50))
    next(stream)
    stream.close()
    assert e.idle and e.stats.pages_used_now == 0 and e.stats.cancelled == 1


def test_a_step_that_fails_can_be_run_again() -> None:
    e = engine()
    (asked,) = prompts([40])
    (expected,) = e.generate([asked], greedy(10))
    e = engine()
    number = e.submit(asked, greedy(10))
    logits, calls = e.model.logits, 0

    def failing(*arguments: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls % 2:
            raise KeyboardInterrupt
        return logits(*arguments)  # type: ignore[arg-type]

    e.model.logits = failing  # type: ignore[method-assign]
    while not e.idle:
        try:
            e.step()
        except KeyboardInterrupt:
            e.check_integrity()
    assert e.answer(number).tokens == expected.tokens


def test_long_prompts_report_their_progress() -> None:
    e = engine(budget=16)
    told: list[tuple[int, int]] = []
    e.answer(e.submit(prompts([40])[0], greedy(3), progress=lambda done, of: told.append((done, of))))
    assert told == [(16, 40), (32, 40), (40, 40)]


def test_the_context_and_the_cache_end_an_answer() -> None:
    e = engine(pages=200, budget=512)
    (asked,) = prompts([500])
    (found,) = e.generate([asked], Sampling())
    assert len(found.tokens) == 12 and found.finished is Finished.LENGTH
    assert len(e.generate([asked], greedy(50))[0].tokens) == 12
    small = engine(pages=5)
    (found,) = small.generate(prompts([10]), Sampling())
    assert len(found.tokens) == 11 and found.finished is Finished.LENGTH  # 20 computed, and one after them


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ([], "the prompt is empty"),
        ("", "the prompt is empty"),
        ([300], "0 … 299; got 300"),
        ([-1], "got -1"),
        ([True], "got True"),
        (["a"], "got 'a'"),
        (None, "a text or a list of token ids; got a NoneType"),
        (5, "got a int"),
        (b"the cat", "got a bytes"),
        ("the \udcff cat", "half of a character .* read it as UTF-8"),
        (torch.tensor([5, 6]), "got a Tensor"),
        ([5] * 512, "512 tokens and the model's context 512"),
    ],
)
def test_prompts_that_make_no_sense(prompt: object, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        engine().submit(prompt)  # type: ignore[arg-type]


def test_a_request_that_can_never_fit_is_refused_with_the_numbers() -> None:
    e = engine(pages=5)
    with pytest.raises(Invalid, match=r"may take 30 tokens, 8 pages of 4; the whole cache has 5 pages \(20 tokens\)"):
        e.submit(prompts([10])[0], greedy(20))
    with pytest.raises(Invalid, match="may take 23 tokens"):
        e.submit(prompts([22])[0])
    assert e.idle
    e.submit(prompts([10])[0], greedy(11))


@pytest.mark.parametrize("wrong", [[], None, "half \udcff", [5] * 512], ids=["empty", "none", "half a character", "too long"])
def test_generate_queues_all_or_none(wrong: object) -> None:
    e = engine()
    with pytest.raises(Invalid):
        e.generate([[5, 6], wrong])  # type: ignore[list-item]
    assert e.idle and e.stats.pages_used_now == 0
    e.check_integrity()


@pytest.mark.parametrize("prompts", ["the cat", None, 5])
def test_generate_takes_a_list(prompts: object) -> None:
    with pytest.raises(Invalid, match="a list of prompts; got a .* For one prompt"):
        engine().generate(prompts)  # type: ignore[arg-type]


@pytest.mark.parametrize("sampling", [None, {"temperature": 1}, 3])
def test_sampling_is_a_sampling(sampling: object) -> None:
    with pytest.raises(Invalid, match=r"sampling is a Sampling\("):
        engine().submit([5, 6], sampling)  # type: ignore[arg-type]


def test_a_refused_request_leaves_the_others_as_they_were() -> None:
    """In the middle of others' work, with the cache full: refusals take no page, and those who run and wait say the same."""
    asked = prompts([9, 14, 5, 21])
    expected = engine(pages=17).generate(asked, greedy(30))
    e = engine(pages=17)
    numbers = [e.submit(prompt, greedy(30)) for prompt in asked]
    while not e.idle:
        e.step()
        before = (e.stats.requests, e.stats.prompt_tokens, e.stats.pages_used_now, e.stats.waiting_now)
        for wrong in ([], [999], [5] * 512, [5] * 80, None):
            with pytest.raises(Invalid):
                e.submit(wrong, greedy(30))  # type: ignore[arg-type]
        assert before == (e.stats.requests, e.stats.prompt_tokens, e.stats.pages_used_now, e.stats.waiting_now)
        e.check_integrity()
    assert [e.answer(number).tokens for number in numbers] == [answer.tokens for answer in expected]
    assert e.stats.preemptions > 0 and e.stats.pages_used_now == 0


def test_in_a_full_cache_a_request_waits_while_others_go_on() -> None:
    e = engine(pages=6)
    one, two = prompts([8, 16])
    first = e.submit(one, greedy(12))
    e.step()
    second = e.submit(two, greedy(4))
    e.step()
    assert (e.stats.running_now, e.stats.waiting_now) == (1, 1)
    e.check_integrity()
    assert len(e.answer(first).tokens) == 12 and len(e.answer(second).tokens) == 4
    e.check_integrity()


def test_numbers_of_an_engine_that_make_no_sense() -> None:
    for wrong in ({"pages": 0}, {"page_size": 0}, {"budget": -1}, {"running": 0}, {"pages": 1.5}, {"budget": 31}):
        with pytest.raises(Invalid, match=next(iter(wrong))):
            Engine(model(), words(), **wrong)  # type: ignore[arg-type]


def test_unknown_requests() -> None:
    e = engine()
    for ask in (e.cancel, e.answer, e.clock):
        with pytest.raises(Invalid, match="no request 7"):
            ask(7)
    with pytest.raises(Invalid, match="no request 7"):
        next(e.pieces(7))


def test_text_prompts_and_the_default_cache() -> None:
    e = Engine(model(), words())
    (found,) = e.generate(["the cat sat"], greedy(5))
    assert found.tokens == e.generate([words().encode("the cat sat")], greedy(5))[0].tokens
    assert e.stats.cache_pages == 4 * 512 // 16


def test_stats_count() -> None:
    e = engine(running=2)
    e.submit(prompts([6])[0], greedy(4))
    e.submit(prompts([6])[0], greedy(4))
    e.submit(prompts([6])[0], greedy(4))
    e.step()
    assert (e.stats.running_now, e.stats.waiting_now) == (2, 1)
    while not e.idle:
        e.step()
    s = e.stats
    assert (s.requests, s.finished, s.generated_tokens, s.first_tokens, s.prompt_tokens) == (3, 3, 12, 3, 18)
    assert s.tokens_per_s > 0 and s.first_token_s > 0 and s.cache_use == 0
    assert s.cache_bytes == 64 * 4 * 2 * (2 * 8 * 2) * 4
    assert e.clock(0).tokens == 4 and e.clock(0).first_token_s > 0 and e.clock(0).tokens_per_s > 0
