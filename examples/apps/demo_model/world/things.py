"""What the world is made of: persons, things and places, drawn so that no two of one context are mistaken for each other."""

import random
from dataclasses import dataclass, field

from . import words
from .grammar import article


@dataclass(slots=True, eq=False)
class Person:
    """Somebody with a name and a kind; the other attributes are the words that speak of them."""

    name: str
    kind: str
    she: bool
    trait: str = "kind"
    the: str = field(init=False)
    full: str = field(init=False)

    def __post_init__(self) -> None:
        self.the = f"the {self.kind}"
        self.full = f"{self.name} the {self.kind}"

    @property
    def he(self) -> str:
        return "she" if self.she else "he"

    @property
    def He(self) -> str:  # noqa: N802  the capital is the meaning
        return "She" if self.she else "He"

    @property
    def him(self) -> str:
        return "her" if self.she else "him"

    @property
    def his(self) -> str:
        return "her" if self.she else "his"

    @property
    def His(self) -> str:  # noqa: N802
        return "Her" if self.she else "His"

    @property
    def self(self) -> str:
        return "herself" if self.she else "himself"

    @property
    def akind(self) -> str:
        return article(self.kind)

    @property
    def new(self) -> str:
        return f"{article(self.kind)} named {self.name}"


@dataclass(slots=True, eq=False)
class Relative(Person):
    """Somebody's aunt or uncle: spoken of by title and name."""

    def __post_init__(self) -> None:
        self.the = self.full = self.name


@dataclass(slots=True, eq=False)
class Thing:
    noun: str
    look: str
    use: str
    the: str = field(init=False)
    full: str = field(init=False)
    a: str = field(init=False)

    def __post_init__(self) -> None:
        self.the = f"the {self.noun}"
        self.full = f"the {self.look} {self.noun}"
        self.a = f"{article(self.look)} {self.noun}"

    @property
    def title(self) -> str:
        small = ("of", "with")
        return " ".join(w if w in small else w.capitalize() for w in f"{self.look} {self.noun}".split())


@dataclass(slots=True, eq=False)
class Place:
    at: str
    name: str
    kind: str

    @property
    def where(self) -> str:
        return f"{self.at} {self.name}"


class Stock:
    """Hands out persons, things and places; a name is never handed out twice, and a noun only once all are used."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.taken: set[str] = set()

    def pick(self, options):
        return options[int(self.rng.random() * len(options))]

    def fresh(self, options: tuple[str, ...]) -> str:
        """One of the options, not yet taken where twelve tries find such a one."""
        for _ in range(12):
            word = self.pick(options)
            if word not in self.taken:
                break
        self.taken.add(word)
        return word

    def name(self, kind: str, she: bool) -> str:
        while True:
            luck = self.rng.random()
            if luck < 0.2:
                name = self.unheard().capitalize()
            elif luck < 0.5:
                name = self.pick(words.NAME_HEADS) + self.pick(words.NAME_TAILS)
            elif kind in words.ANIMALS and self.rng.random() < 0.7:
                name = self.pick(words.PET_NAMES)
            else:
                name = self.pick(words.SHE_NAMES if she else words.HE_NAMES)
            if name not in self.taken:
                self.taken.add(name)
                return name

    def unheard(self) -> str:
        """A word that is in no list, of one to three syllables."""
        syllables = 1 + int(self.rng.random() * 2.5)
        word = "".join(self.pick(words.ONSETS) + self.pick(words.VOWELS) for _ in range(syllables))
        return word + self.pick(words.CODAS) if syllables == 1 or self.rng.random() < 0.5 else word

    def person(self, kind: str | None = None, name: str | None = None) -> Person:
        if kind is None:
            kinds = words.ANIMALS if self.rng.random() < 0.66 else words.PEOPLE + words.SHE_PEOPLE + words.HE_PEOPLE
            kind = self.fresh(kinds) if self.rng.random() < 0.97 else self.fresh(words.RARE_KINDS)
        she = kind in words.SHE_PEOPLE or (kind not in words.HE_PEOPLE and self.rng.random() < 0.5)
        if name is not None:
            self.taken.add(name)
            she = name in words.SHE_NAMES or (name not in words.HE_NAMES and she)
        return Person(name or self.name(kind, she), kind, she, self.pick(words.TRAITS))

    def relative(self) -> Relative:
        she = self.rng.random() < 0.5
        title = self.pick(("Aunt", "Grandmother", "Cousin") if she else ("Uncle", "Grandfather", "Cousin"))
        return Relative(f"{title} {self.name('girl', she)}", "relative", she)

    def thing(self, use: str | None = None, noun: str | None = None) -> Thing:
        noun = noun or self.fresh(words.USES[use] if use else words.THINGS)
        self.taken.add(noun)
        use = words.USE_OF.get(noun, "treasure")
        looks = words.FOOD_LOOKS if use == "food" else words.LOOKS
        while True:
            thing = Thing(noun, self.pick(looks), use)
            if thing.full not in self.taken:
                self.taken.add(thing.full)
                return thing

    def place(self) -> Place:
        while True:
            at, noun = self.pick(words.PLACE_NOUNS)
            name = f"the {self.pick(words.PLACE_LOOKS)} {noun}"
            if name not in self.taken:
                self.taken.add(name)
                return Place(at, name, noun)

    def spot(self) -> str:
        return self.fresh(words.SPOTS)
