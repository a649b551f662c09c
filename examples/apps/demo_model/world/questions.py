"""Questions about a simulated story, with answers that are true of it."""

import random
from dataclasses import dataclass

from .grammar import article, expand, parse, sentence_case
from .simulation import Fact
from .things import Person, Thing

# Each kind of fact: how it is asked, how it is answered. Every answer holds the fact's keys.
FORMS = {
    "kind": (
        [
            "What was {a.name}?",
            "What kind of creature was {a.name}?",
            "Who was {a.name}?",
            "Was {a.name} a person or an animal, and of what kind?",
        ],
        ["{a.name} was {a.akind}.", "{a.name} was {a.akind}."],
    ),
    "home": (
        ["Where did {a} live?", "Where was {a}'s home?", "Do you remember where {a} lived?"],
        ["{a.name} lived {p.where}.", "{a.name}'s home was {p.where}."],
    ),
    "gave": (
        ["Who gave {b} {t}?", "From whom did {b} get {t}?", "Who was it that gave {t} to {b}?"],
        ["{a} gave {t} to {b.name}.", "{b.name} got {t} from {a}.", "It was {a} who gave {b.name} {t}."],
    ),
    "look": (
        ["What was the {t.noun} in the story of {a} like?", "What kind of {t.noun} was it in the story about {a}?"],
        ["It was {t.a}.", "In the story of {a.name} there was {t.a}."],
    ),
    "about": (
        [
            "What was the story of {a.name} about?",
            "What was {a.name}'s story about?",
            "Can you sum up the story of {a.name} in one sentence?",
        ],
        ["It was about {a.new} and {t.a}.", "It was a story about {a.full} and {t.a}."],
    ),
    "contest": (
        ["What kind of contest did {a} take part in?", "What was held {p.where}?", "In what did {a} and {c} compete?"],
        ["It was {contest.a}.", "{a.name} took part in {contest.a}."],
    ),
    "winner": (
        ["Who won the {contest} {p.where}?", "Who was the winner of the {contest} that {a} took part in?"],
        ["{w} won.", "The winner was {w}."],
    ),
    "prize": (
        ["What was the prize of the {contest} {p.where}?", "What could {a} win {p.where}?"],
        ["The prize was {t.a}.", "It was {t.a}."],
    ),
    "taught": (
        ["Who taught {a} how to make {t}?", "From whom did {a} learn to make {t}?"],
        ["{b} taught {a.name}.", "{a.name} learned it from {b}."],
    ),
    "flaw": (
        ["What went wrong when {a} first tried to make {t}?", "Why was {a}'s first try to make {t} no good?"],
        ["It {flaw}.", "The trouble was that it {flaw}."],
    ),
    "verdict": (
        ["What did {c} tell {a} and {b.name} to do?", "How did {c.name} settle the quarrel of {a} and {b.name}?"],
        ["{c.name} told them to {verdict}.", "They were to {verdict}."],
    ),
    "judge": (
        ["Who settled the quarrel of {a} and {b.name}?", "Whom did {a} and {b.name} ask for advice?"],
        ["It was {c}.", "{c} settled it."],
    ),
    "quarrelled": (
        ["With whom did {a} quarrel about {t}?", "Who else wanted {t} that {a} saw?"],
        ["{a.name} quarrelled with {b}.", "It was {b}."],
    ),
    "fear": (
        ["What was {a} afraid of?", "What did {a} fear?"],
        ["{a.name} was afraid of {fear}.", "It was {fear} that {a.name} was afraid of."],
    ),
    "guest": (["Who was the guest of {a}?", "Who knocked at {a}'s door?"], ["It was {b}.", "{b} knocked at {a.name}'s door."]),
    "from": (
        ["Where did {b} come from?", "From which place had {b} come to {a.name}'s door?"],
        ["{b.name} came from {p}.", "{b.name} had come from {p}."],
    ),
    "left": (["What did {b} leave for {a.name}?", "What did {a} find after {b.name} had gone?"], ["{b.name} left {t.a}.", "It was {t.a}."]),
    "trouble": (
        ["Where was {b} when {b.he} needed help?", "At which place did {b} need help?", "Where did {a} have to go to help {b}?"],
        ["{b.name} was {p.where}.", "{b.name} needed help {p.where}."],
    ),
    "reason": (
        ["Why did {a} want to go to {p}?", "What did {a} want to do {p.where}?", "What was {a}'s reason for going to {p}?"],
        ["{a.name} wanted to {reason}.", "{a.name} went to {p} to {reason}."],
    ),
    "passed": (
        [
            "What did {a} use to get to {p}?",
            "With what did {a} get past the trouble on the way to {p}?",
            "What helped {a} on the way to {p}?",
        ],
        ["{a.name} used {t.full}.", "{a.name} got to {p} with {t.full}."],
    ),
    "inside": (
        [
            "What was in the {box} that {b} got?",
            "What did {a} put in the {box} for {b}?",
            "What did {b} find when {b.he} opened the {box}?",
        ],
        ["In the {box} was {t.full}.", "There was {t.a} in the {box}."],
    ),
    "inside_spot": (
        ["What did {a} find in the {box}?", "What was in the {box} that {a} found?", "What did the {box} in the story of {a} hold?"],
        ["In the {box} {a.name} found {t.full}.", "There was {t.a} in the {box}."],
    ),
    "owner": (
        ["Whose {t.noun} had gone missing when {a} was asked for help?", "To whom did {t.full} in the story of {a} belong?"],
        ["{t.full} belonged to {b}.", "It was {b}'s {t.noun}."],
    ),
    "thief": (
        [
            "Who took {t.full} in the story of {a}?",
            "Who had taken {t}, as {a} found out?",
            "Who was the thief in the story of {a} and {t.full}?",
        ],
        ["{b} took {t}.", "It was {b} who had taken {t}."],
    ),
    "motive": (
        ["Why did {b} take {t}?", "What was {b}'s reason for taking {t}?"],
        ["{b.name} took it because {b.he} {why}.", "{b.name} said that {b.he} {why}."],
    ),
    "companion": (
        ["Who went with {a} to {p}?", "Who came along when {a} went to {p}?"],
        ["{b} went with {a.name}.", "It was {b} who came along."],
    ),
    "found": (
        [
            "Where did {a} find {t}?",
            "Where exactly was {t} when {a} found it?",
            "Where was {t} that {a} found?",
            "In what spot did {a} find {t}?",
        ],
        ["{a.name} found {t} {spot}.", "{t} was {spot}.", "{a.name} found it {spot}."],
    ),
    "found_place": (
        ["At which place was {a} when {a.he} found {t}?", "To which place did {a} go to find {t}?"],
        ["{a.name} found {t} {p.where}.", "{a.name} was {p.where}."],
    ),
    "clue": (
        ["Who told {a} where to look for {t}?", "Who knew where {a} could find {t}?"],
        ["It was {b} who told {a.name}.", "{b} told {a.name} where to look."],
    ),
    "met": (
        ["Whom did {a} meet {p.where}?", "Who was {p.where} when {a} came there?", "Who did {a} meet {p.where}?"],
        ["{a.name} met {b} there.", "{p.where} {a.name} met {b}."],
    ),
    "lent": (["Who lent {a} {t}?", "From whom did {a} borrow {t}?"], ["{b} lent {a.name} {t}.", "{a.name} borrowed it from {b}."]),
    "promise": (
        ["What did {a} promise {b.name}?", "What was the promise that {a} made to {b.name}?", "What did {a.name} promise to do for {b}?"],
        ["{a.name} promised to {vow}.", "{a.name} promised {b.name} to {vow}."],
    ),
    "plight": (
        ["What was wrong with {b} when {a} came by?", "What was {b}'s trouble?", "Why did {b} need {a.name}'s help?"],
        ["{b.name} {plight}.", "The trouble was that {b.name} {plight}."],
    ),
    "traded": (
        ["What did {a} trade for {t}?", "What did {a} give {b} for {t}?", "What did {b.name} get from {a} in return for {t}?"],
        ["{a.name} traded {u.full} for {t}.", "{b.name} got {u.full} for it."],
    ),
    "weather": (
        ["What was the weather like when {a} went to {p}?", "How was the weather on {a}'s way to {p}?"],
        ["When {a.name} went to {p}, {weather}.", "On that day {weather}."],
    ),
}
PARSED = {kind: tuple([parse(form) for form in forms] for forms in pair) for kind, pair in FORMS.items()}


@dataclass(slots=True, frozen=True)
class Question:
    """A question, an answer, and the words that any right answer holds."""

    question: str
    answer: str
    keys: tuple[str, ...]


def ask(rng: random.Random, fact: Fact) -> Question:
    """One way of asking for the fact, and one of answering."""
    context = _Context(rng, fact)
    question, answer = (sentence_case(expand(forms[int(rng.random() * len(forms))], context, rng.random)) for forms in PARSED[fact.kind])
    return Question(question, answer, fact.keys)


def is_right(answer: str, keys: tuple[str, ...]) -> bool:
    """Whether the answer holds every key, capitals aside."""
    return all(key.lower() in answer.lower() for key in keys)


class _Context(dict):
    """The fields of a question; unlike in a story, nobody is a pronoun unless the template says so."""

    def __init__(self, rng: random.Random, fact: Fact) -> None:
        super().__init__()
        self.random, self.roles = rng.random, fact.roles
        self.long = rng.random() < 0.5

    def __missing__(self, key: str) -> str:
        name, _, form = key.partition(".")
        role = self.roles[name]
        if isinstance(role, str):
            return article(role) if form == "a" else role
        if isinstance(role, Person):
            return getattr(role, form) if form else role.full if self.random() < 0.5 else role.name
        if isinstance(role, Thing):
            return getattr(role, form) if form else role.full if self.long else role.the
        return role.where if form == "where" else role.name
