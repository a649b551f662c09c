"""Conversations: requests for stories, stories, questions about them, small talk; and how much of each fills a context."""

import random
from collections import Counter
from dataclasses import dataclass

from . import words
from .grammar import article, expand, parse
from .questions import Question, ask
from .simulation import MOODS, Fact, Story, Wish, simulate
from .teller import tell
from .things import Stock

REQUESTS = [
    parse(form)
    for form in (
        "[Tell me|Please tell me|Can you tell me|Could you tell me|Write|Please write|Make up|I would like|I want|Give me|Write me] {what}[.|!||, please.]",
        "[Can|Could] you [write|make up|tell] {what}?",
        "[Hello|Hi]! [Please tell|Could you tell] me {what}.",
        "{what}[|.|, please|, please.]",
        "[Do you know|Have you got] {what}?",
        "[I need|My daughter wants|Let me hear|How about|Please invent|Now tell me|Next, please write] {what}.",
    )
]
MORE = (
    "What happened next?",
    "And then? What happened next?",
    "Please go on.",
    "Continue the story.",
    "Tell me more about {name}.",
    "What happened to {name} after that?",
    "Can you continue?",
    "Go on, please.",
    "What did {name} do next?",
)
SMALL_TALK = (
    (
        ("Hello!", "Hi!", "Hi there.", "Good morning!", "Hello, how are you?", "Hey", "hello", "Good evening."),
        (
            "Hello! Would you like to hear a story?",
            "Hello! I can tell you a story, if you say what it should be about.",
            "Good day to you! Shall I tell you a story?",
        ),
    ),
    (
        (
            "Who are you?",
            "What are you?",
            "Are you a person?",
            "What is your name?",
            "Who am I talking to?",
            "Are you an AI?",
            "Tell me about yourself.",
        ),
        (
            "I am a small demonstration model. I tell short stories and answer questions about them.",
            "I am a very small language model, made as a demonstration. I can tell stories about a small world and remember what happened in them.",
            "I have no name. I am a small demonstration model, and I know little beyond my stories.",
        ),
    ),
    (
        ("What can you do?", "Can you help me?", "What do you know?", "How does this work?", "help", "What should I ask you?"),
        (
            "I can tell you a story about a fox and a lantern, or about something else. Then you can ask me what happened in it.",
            "Ask me for a story, or give me one to read. Afterwards I can answer questions about it. I am only a demonstration, so that is all I can do.",
        ),
    ),
    (
        (
            "Thank you!",
            "Thanks.",
            "Thank you very much.",
            "That was nice, thank you.",
            "I liked that.",
            "What a lovely story!",
            "Great, thanks!",
        ),
        ("You are welcome!", "I am glad that you liked it.", "You are welcome. Would you like another one?"),
    ),
    (
        ("Goodbye.", "Bye!", "Good night.", "See you tomorrow."),
        ("Goodbye! Come back for another story.", "Good night, and sleep well.", "Goodbye!"),
    ),
    (
        (
            "What is 17 times 23?",
            "Who is the president?",
            "What is the capital of France?",
            "Write a program in Python.",
            "What is the news today?",
            "How do I fix my car?",
            "Can you translate this?",
        ),
        (
            "I am sorry, I do not know that. I am a small demonstration model, and I only know how to tell stories.",
            "That is beyond me. I am only a small demonstration model. But I can tell you a story.",
        ),
    ),
)
READ = (
    "Here is a story.\n\n{text}",
    "Please read this story.\n\n{text}",
    "Read this:\n\n{text}",
    "{text}",
    "I have a story for you.\n\n{text}",
)
HEARD = (
    "Thank you, I have read it. What would you like to know?",
    "What a nice story. Ask me anything about it.",
    "I have read it.",
    "Thank you. Do you have a question about it?",
)
LIBRARY = (
    "Read these stories.\n\n{text}\n\n{question}",
    "Here are some stories.\n\n{text}\n\nQuestion: {question}",
    "{text}\n\n{question}",
    "{text}\n\nNow tell me: {question}",
    "Please read what follows and answer the question at the end.\n\n{text}\n\n{question}",
)
SYSTEM = ("You are a helpful assistant.", "You are a storyteller.", "You tell stories and answer questions about them.", "Answer briefly.")


@dataclass(slots=True)
class Turn:
    """Something said by `user` or `assistant`, or a bare `text`; `keys` are what an answer must hold, empty where nothing was asked."""

    role: str
    text: str
    keys: tuple[str, ...] = ()


class Talker:
    """Makes the turns of one context, in which every name is used for one person only."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.stock = rng, Stock(rng)
        self.told: list[list[Fact]] = []
        self.last: Story | None = None

    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    def wish(self) -> Wish:
        """A random wish; the kinds and nouns are mostly the world's own, now and then somebody else's."""
        chance, pick = self.chance, self.stock.pick
        kinds = words.RARE_KINDS if chance(0.1) else words.ANIMALS if chance(0.66) else words.PEOPLE + words.SHE_PEOPLE + words.HE_PEOPLE
        wish = Wish(mood=pick(MOODS) if chance(0.3) else None)
        wish.kinds = tuple(dict.fromkeys(self.stock.fresh(kinds) for _ in range(1 + chance(0.25))))
        if chance(0.7):
            nouns = words.RARE_THINGS if chance(0.12) else words.THINGS
            wish.nouns = tuple(dict.fromkeys(self.stock.fresh(nouns) for _ in range(1 + chance(0.15))))
        # A word nobody knows, now and then: what was asked for has to be copied, not recognized.
        if chance(0.03):
            wish.kinds = (self.stock.unheard(), *wish.kinds[1:])
        if wish.nouns and chance(0.03):
            wish.nouns = (self.stock.unheard(), *wish.nouns[1:])
        if chance(0.35):
            wish.name = self.stock.name(wish.kinds[0], chance(0.5))
            if len(wish.kinds) > 1 and chance(0.5):
                wish.friend = self.stock.name(wish.kinds[1], chance(0.5))
        if chance(0.15):
            wish.place = self.stock.place()
        return wish

    def story(self, wish: Wish | None = None, long: bool = False) -> str:
        """A story told; its facts can be asked from now on."""
        story = simulate(self.rng, self.stock, wish or self.wish())
        text = tell(self.rng, story)
        self.told.append(story.facts)
        self.last = story
        return f"{text}\n\n{self.sequel()}" if long else text

    def sequel(self) -> str:
        """What happened next to the hero of the last story."""
        story = simulate(self.rng, self.stock, Wish(hero=self.last.hero))
        self.told[-1] = _unmistakable(self.told[-1] + story.facts)
        self.last = story
        return tell(self.rng, story)

    def titled(self) -> str:
        text, title = self.story(), f"{self.last.hero.name} and the {self.last.thing.title}"
        return f"{title}\n\n{text}"

    def question(self) -> Question:
        """About any fact of any story so far, each story as likely as the other."""
        facts = self.stock.pick(self.told)
        fact = self.stock.pick(facts)
        # Every story has these, so an even draw would ask for little else.
        if fact.kind in ("kind", "home", "weather"):
            fact = self.stock.pick(facts)
        return ask(self.rng, fact)

    def asked(self) -> list[Turn]:
        q = self.question()
        question = q.question[0].lower() + q.question[1:-1] if self.chance(0.08) else q.question
        return [Turn("user", question), Turn("assistant", q.answer, q.keys)]

    def requested(self) -> list[Turn]:
        wish, long = self.wish(), self.chance(0.15)
        request = expand(self.stock.pick(REQUESTS), {"what": what(self.rng, wish, long)}, self.rng.random)
        request = request[0].upper() + request[1:] if self.chance(0.85) else request
        return [Turn("user", request), Turn("assistant", self.story(wish, long))]

    def continued(self) -> list[Turn]:
        request = self.stock.pick(MORE).format(name=self.last.hero.name)
        return [Turn("user", request), Turn("assistant", self.sequel())]

    def pasted(self) -> list[Turn]:
        text = self.titled() if self.chance(0.3) else self.story()
        return [Turn("user", self.stock.pick(READ).format(text=text)), Turn("assistant", self.stock.pick(HEARD))]

    def library(self, size: int) -> list[Turn]:
        """Stories of `size` characters in one message, with the question at its end."""
        texts: list[str] = []
        while not texts or sum(map(len, texts)) < size:
            texts.append(self.titled() if self.chance(0.3) else self.story())
        q = self.question()
        message = self.stock.pick(LIBRARY).format(text="\n\n".join(texts), question=q.question)
        return [Turn("user", message), Turn("assistant", q.answer, q.keys)]

    def small_talk(self) -> list[Turn]:
        asked, answered = self.stock.pick(SMALL_TALK)
        return [Turn("user", self.stock.pick(asked)), Turn("assistant", self.stock.pick(answered))]


def _unmistakable(facts: list[Fact]) -> list[Fact]:
    """Without what happened twice to one hero, unless the question names the thing it happened with."""
    kinds = Counter(fact.kind for fact in facts)
    return [fact for fact in facts if kinds[fact.kind] == 1 or ("t" in fact.roles and fact.kind != "about")]


def what(rng: random.Random, wish: Wish, long: bool = False) -> str:
    """The wish in words: `a sad story about a fox named Pip and a lantern`."""
    mood = [wish.mood] if wish.mood else []
    size = ["long"] if long else [["short"], ["little"], [], [], [], [], []][int(rng.random() * 7)]
    who = [article(kind) for kind in wish.kinds]
    for i, name in enumerate((wish.name, wish.friend)):
        if name:
            who[i] += f" {'named' if rng.random() < 0.6 else 'called'} {name}"
    things = " and ".join(article(noun) for noun in wish.nouns)
    together = " and ".join(who)
    if len(who) > 1:
        together = (together, f"two friends, {together}", f"two old friends, {together},")[int(rng.random() ** 2 * 3)]
    if things:
        form = int(rng.random() ** 2 * 6)
        subject = (
            f"about {together} and {things}" if len(who) == 1 else f"about {', '.join(who)} and {things}", f"with {together} and {things}",
            f"about {together} with {things}", f"in which {together} meets {things}" if rng.random() < 0.3 else f"about {things} and {together}",
            f"where {things} is important to {together}", f"about {together} who {'find' if len(who) > 1 else 'finds'} {things}",
        )[form]  # fmt: skip
    else:
        subject = ("about ", "about ", "with ")[int(rng.random() * 3)] + together
    place = f"{(' that takes place', ',', ' set')[int(rng.random() * 3)]} {wish.place.where}" if wish.place else ""
    return f"{article(' '.join([*size, *mood, 'story']))} {subject.removesuffix(',')}{place}"


def conversation(rng: random.Random, size: int) -> list[Turn]:
    """About `size` characters of one conversation: stories first, then questions that reach back to any of them."""
    talker = Talker(rng)
    turns = talker.small_talk() if talker.chance(0.2) else []
    if talker.chance(0.03):
        turns = [Turn("user", f"{talker.stock.pick(SYSTEM)}\n\nHello!"), Turn("assistant", "Hello! Would you like to hear a story?")]
    if talker.chance(0.3):
        turns += talker.library(int(size * rng.uniform(0.3, 0.85)))
    share, told = rng.uniform(0.55, 0.9), sum(len(turn.text) for turn in turns)
    while told < size * share or not talker.told:
        turn = rng.random()
        if turn < 0.5 or not talker.last:
            new = talker.requested()
        elif turn < 0.6:
            new = talker.continued()
        elif turn < 0.8:
            new = talker.pasted()
        elif turn < 0.95:
            new = talker.asked() + talker.asked()
        else:
            new = talker.small_talk()
        turns += new
        told += sum(len(turn.text) for turn in new)
    while told < size:
        new = talker.asked()
        turns += new
        told += sum(len(turn.text) for turn in new) + 12
    return turns + talker.small_talk() if talker.chance(0.1) else turns


def document(rng: random.Random, size: int) -> list[Turn]:
    """A conversation of about `size` characters, or, one time in eight, a single bare story."""
    if rng.random() < 0.125:
        talker = Talker(rng)
        return [Turn("text", talker.titled() if talker.chance(0.3) else talker.story(long=talker.chance(0.3)))]
    return conversation(rng, size)
