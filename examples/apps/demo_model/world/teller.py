"""Tells a simulated story as English: picks a sentence for each event, and a name, a kind or a pronoun for each person."""

import random

from . import words
from .goals import GOALS
from .grammar import article, expand, parse, sentence_case
from .phrases import PHRASES
from .simulation import Event, Story
from .things import Person, Thing

PARSED = {kind: [parse(template) for template in templates] for kind, templates in (PHRASES | GOALS).items()}


def tell(rng: random.Random, story: Story) -> str:
    """The story in paragraphs, each event told once."""
    teller = _Teller(rng, story)
    paragraphs: list[list[str]] = []
    for event in story.events:
        # Not every scene change earns a paragraph: short ones would read as a list.
        if not paragraphs or (event.opens and (len(paragraphs[-1]) > 1 or rng.random() < 0.3)):
            paragraphs.append([])
            teller.subject = None
        said = teller.sentence(event)
        # Two voices in one paragraph would run into each other.
        if paragraphs[-1] and said[0] == paragraphs[-1][-1][-1] == '"':
            paragraphs.append([])
        paragraphs[-1].append(said)
    return "\n\n".join(" ".join(sentences) for sentences in paragraphs)


class _Teller(dict):
    """The fields of one event, looked up by the templates; remembers who has been introduced and whom a pronoun would mean."""

    def __init__(self, rng: random.Random, story: Story) -> None:
        super().__init__()
        self.random = rng.random
        self.known: set[object] = set()
        self.subject: Person | None = None
        if story.events[0].kind == "again":
            self.known.add(story.hero)
        self.kinds = [person.kind for person in story.cast]
        self.event: Event | None = None

    def sentence(self, event: Event) -> str:
        self.clear()
        self.event = event
        templates = PARSED[event.kind]
        text = expand(templates[int(self.random() * len(templates))], self, self.random)
        # An empty choice leaves its space behind.
        text = sentence_case(text.replace("  ", " ").strip())
        others = [role for role in event.roles.values() if isinstance(role, Person)]
        hero = event.roles["a"]
        # A pronoun at the start of the next sentence must have one reading only.
        self.subject = hero if all(p is hero or p.she != hero.she for p in others) else None
        return text

    def __missing__(self, key: str) -> str:
        if key in _DRAWN:
            options = _DRAWN[key]
            # Kept, so that a template that says it twice does not contradict itself; no two traits of one event are alike.
            while (word := options[int(self.random() * len(options))]) in self.values():
                pass
            self[key] = word
            return word
        name, _, form = key.partition(".")
        role = self.event.roles[name]
        if isinstance(role, str):
            return article(role) if form == "a" else role
        if isinstance(role, Person):
            return self._person(role, name, form)
        if isinstance(role, Thing):
            return self._thing(role, form)
        return role.where if form == "where" else role.name

    def _person(self, person: Person, role: str, form: str) -> str:
        if form in ("name", "new", "full", "akind"):
            self.known.add(person)
        if form and form != "call":
            return getattr(person, form)
        if person not in self.known:
            self.known.add(person)
            return person.full if self.random() < 0.4 or person.full == person.name else person.new
        chance = self.random()
        if role == "a" and not form and person is self.subject and chance < 0.6:
            return person.he
        if chance > 0.8 and self.kinds.count(person.kind) < 2:
            return person.the
        return person.name

    def _thing(self, thing: Thing, form: str) -> str:
        if form == "want":
            return article(thing.noun)
        if form == "bare":
            self.known.add(thing)
            return f"{thing.look} {thing.noun}"
        if form == "The":
            return "The" + thing.the[3:]
        if not form and thing in self.known:
            form = "the" if self.random() < 0.6 else "full"
        elif form == "full" and thing not in self.known:
            form = "a"
        self.known.add(thing)
        return getattr(thing, form or "a")


_DRAWN = {"trait": words.TRAITS, "trait2": words.TRAITS, "time": words.TIMES}
