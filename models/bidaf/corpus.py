"""Short texts with questions about them, made up by rule: who, what, where, how many, what colour.

Every example is a few sentences about animals, people and things, a question about one of them, and the answer as a
span of the text's tokens. Within one text nothing occurs twice, so each question has one answer. The examples are
token lists as NLTK's `word_tokenize` would cut them.

Three kinds of words and wordings are kept from training and measured apart: `Kind` says which.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

COLOURS = "red blue green yellow brown black white grey pink orange purple golden".split()
ADJECTIVES = (
    "quick lazy small big old young happy tired clever brave hungry angry quiet proud friendly sleepy new heavy "
    "dusty pretty"
).split()
ANIMALS = (
    "fox dog cat horse cow hen goat duck rabbit lion tiger bear pig donkey frog bird snake spider eagle monkey "
    "elephant parrot"
).split()
THINGS = (
    "ball chair table car boat hat book cup lamp door bicycle apple bottle coat basket pencil stone flower wagon "
    "blanket"
).split()
NAMES = "Anna Peter Laura Thomas Julia Martin Susan Robert Emma David Helen George Alice Henry Clara Oscar".split()
PLACES = (
    "garden house park kitchen forest barn school market field library station harbour village tower church shop"
).split()
NUMBERS = "two three four five six seven eight nine ten eleven twelve 2 3 4 5 6 7 8 9 10 15 20 40".split()
# Past tense and base form.
MOVES = [
    ("jumped", "jump"),
    ("ran", "run"),
    ("walked", "walk"),
    ("climbed", "climb"),
    ("flew", "fly"),
    ("crawled", "crawl"),
    ("hopped", "hop"),
    ("stepped", "step"),
    ("leapt", "leap"),
]
STAYS = [
    ("slept", "sleep"),
    ("sat", "sit"),
    ("stood", "stand"),
    ("waited", "wait"),
    ("rested", "rest"),
    ("hid", "hide"),
]
DEEDS = [
    ("bought", "buy"),
    ("found", "find"),
    ("saw", "see"),
    ("sold", "sell"),
    ("painted", "paint"),
    ("carried", "carry"),
    ("lost", "lose"),
    ("washed", "wash"),
    ("drew", "draw"),
]
OVER = "over under around past across behind".split()
AT = "in at near behind beside".split()

# Never in the training data: the model knows these words by their letters and by where they stand.
UNSEEN = {
    "colour": "silver scarlet turquoise violet".split(),
    "adjective": "nervous elegant gentle muddy".split(),
    "animal": "otter badger heron beaver squirrel lizard".split(),
    "thing": "kettle ladder drum carpet violin candle".split(),
    "name": "Maria Viktor Olga Samuel Nadia Felix".split(),
    "place": "museum bakery cellar meadow castle".split(),
}

# The walk-through's text. Training never sees a jumping fox, so that its answer is not learned by heart.
WALK_THROUGH_SUBJECT, WALK_THROUGH_MOVE = "fox", "jumped"


class Kind(Enum):
    """Which data to make."""

    TRAINING = "training"
    """Known words and wordings, and words made up from syllables, so that letters must be read."""
    SENTENCES = "new sentences"
    """Known words and wordings in sentences of another seed."""
    WORDS = "unseen words"
    """At least one noun, name or place that the vocabulary lacks."""
    WORDINGS = "unseen wordings"
    """Sentences or questions built in a way that training never showed."""


@dataclass(frozen=True)
class Example:
    """A text, a question and the answer: the context's tokens from `start` to `end`, both included."""

    context: list[str]
    query: list[str]
    start: int
    end: int

    @property
    def answer(self) -> list[str]:
        """The answer's tokens."""
        return self.context[self.start : self.end + 1]


Span = tuple[int, int]


@dataclass
class Sentence:
    """Tokens, and the questions that they answer: each a question's tokens with the span of its answer."""

    tokens: list[str] = field(default_factory=list)
    questions: list[tuple[list[str], Span]] = field(default_factory=list)
    unseen: list[tuple[list[str], Span]] = field(default_factory=list)
    """Questions in words that are kept from training."""

    def add(self, *words: str) -> Span:
        """Appends words; returns their span."""
        first = len(self.tokens)
        self.tokens.extend(words)
        return first, len(self.tokens) - 1

    def ask(self, text: str, answer: Span) -> None:
        """Notes a question."""
        self.questions.append((text.split(), answer))

    def ask_otherwise(self, text: str, answer: Span) -> None:
        """Notes a question in words that are kept from training."""
        self.unseen.append((text.split(), answer))


@dataclass
class Phrase:
    """A noun with what describes it: its words, and where among them the colour stands."""

    noun: str
    words: list[str]
    colour_at: int | None


class Maker:
    """Makes the sentences of one example: draws every word at most once."""

    def __init__(self, rng: random.Random, kind: Kind) -> None:
        self.rng = rng
        self.kind = kind
        self._used: set[str] = set()

    def draw(self, category: str, words: Sequence[str], *, made_up: float = 0.3) -> str:
        """A word of a category that this example has not used."""
        while True:
            chance = self.rng.random()
            if self.kind is Kind.TRAINING and chance < made_up:
                word = self._made_up(category)
            elif self.kind is Kind.WORDS and category in UNSEEN and chance < 0.6:
                word = self.rng.choice(UNSEEN[category])
            else:
                word = self.rng.choice(words)
            if word not in self._used:
                self._used.add(word)
                return word

    def _made_up(self, category: str) -> str:
        """A word of two or three syllables that no list has."""
        syllables = self.rng.choice((1, 2, 2, 2, 3))
        word = "".join(
            self.rng.choice("b c d f g h k l m n p r s t v w z br cl dr fl gr st tr sh".split())
            + self.rng.choice("a e i o u ai ea oo".split())
            for _ in range(syllables)
        ) + self.rng.choice(("", "n", "r", "t", "l", "x", "nd", "ck"))
        known = {
            *COLOURS,
            *ADJECTIVES,
            *ANIMALS,
            *THINGS,
            *PLACES,
            *(word for words in UNSEEN.values() for word in words),
        }
        if word in known:
            return self._made_up(category)
        return word.capitalize() if category == "name" else word

    def verb(self, verbs: Sequence[tuple[str, str]]) -> tuple[str, str]:
        """A verb, drawn like every other word."""
        past = self.draw("verb", [past for past, _ in verbs], made_up=0.0)
        return past, dict(verbs)[past]

    def colour(self) -> str:
        """A colour. Few are made up: what a colour is must come from knowing the words."""
        return self.draw("colour", COLOURS, made_up=0.08)

    def noun(self, category: str) -> str:
        """An animal or a thing."""
        return self.draw(category, ANIMALS if category == "animal" else THINGS)

    def name(self) -> str:
        """A person."""
        return self.draw("name", NAMES)

    def place(self) -> str:
        """A place."""
        return self.draw("place", PLACES)

    def adjective(self) -> str:
        """A describing word that is no colour."""
        return self.draw("adjective", ADJECTIVES, made_up=0.15)

    def phrase(self, category: str, *, plural: bool = False, colour: float = 0.6) -> Phrase:
        """A noun, often with an adjective or a colour, in either order."""
        words = [self.adjective()] if self.rng.random() < 0.45 else []
        colour_at = None
        if self.rng.random() < colour:
            colour_at = 0 if words and self.rng.random() < 0.25 else len(words)
            words.insert(colour_at, self.colour())
        noun = self.noun(category) + ("s" if plural else "")
        return Phrase(noun, [*words, noun], colour_at)

    def ask_colour(self, sentence: Sentence, phrase: Phrase, first: int, *, plural: bool = False) -> None:
        """Asks for the colour of a phrase that begins at token `first`, if it has one."""
        if phrase.colour_at is None:
            return
        place = first + phrase.colour_at
        be = self.rng.choice(("are", "were") if plural else ("is", "was"))
        colour = self.rng.choice(("color", "color", "colour"))
        noun = phrase.noun
        if self.rng.random() < 0.2:
            noun = " ".join(word for i, word in enumerate(phrase.words) if i != phrase.colour_at)
        wording = self.rng.choice(
            [f"What {colour} {be} the {noun}"] * 4
            + [f"Which {colour} {be} the {noun}", f"What {be} the {colour} of the {noun}"]
        )
        sentence.ask(wording, (place, place))
        sentence.ask_otherwise(f"Tell me the {colour} of the {noun}", (place, place))
        sentence.ask_otherwise(f"The {noun} {be} what {colour}", (place, place))

    # The sentences. An answer is a phrase without its article; a place comes with its preposition.

    def move(self) -> Sentence:
        """The quick brown fox jumped over the lazy dog."""
        s = Sentence()
        who, whom = self.phrase("animal"), self.phrase(self.rng.choice(("animal", "thing")))
        (past, base), over = self.verb(MOVES), self.rng.choice(OVER)
        if self.kind is Kind.TRAINING and who.noun == WALK_THROUGH_SUBJECT and past == WALK_THROUGH_MOVE:
            return self.move()
        s.add(self.rng.choice(("The", "The", "A")))
        subject = s.add(*who.words)
        s.add(past, over, self.rng.choice(("the", "the", "a")))
        target = s.add(*whom.words)
        self.ask_colour(s, who, subject[0])
        self.ask_colour(s, whom, target[0])
        target_words = " ".join(whom.words) if self.rng.random() < 0.5 else whom.noun
        asker = self.rng.choice(("Who", "Who", "What", "Which animal"))
        s.ask(f"{asker} {past} {over} the {target_words}", subject)
        s.ask(self.rng.choice((f"{asker} {past}", f"{asker} {past} {over} the {whom.noun}")), subject)
        s.ask(f"What did the {who.noun} {base} {over}", target)
        s.ask_otherwise(f"Name the animal that {past} {over} the {whom.noun}", subject)
        return s

    def stay(self) -> Sentence:
        """The old cat slept in the barn."""
        s = Sentence()
        who, place = self.phrase("animal"), self.place()
        past, base = self.verb(STAYS)
        s.add(self.rng.choice(("The", "A")))
        subject = s.add(*who.words)
        s.add(past)
        where = s.add(self.rng.choice(AT), "the", *([self.adjective()] if self.rng.random() < 0.2 else []), place)
        self.ask_colour(s, who, subject[0])
        s.ask(f"Where did the {who.noun} {base}", where)
        s.ask(self.rng.choice((f"Where was the {who.noun}", f"Where is the {who.noun}")), where)
        s.ask(f"{self.rng.choice(('Who', 'Which animal'))} {past} {s.tokens[where[0]]} the {place}", subject)
        s.ask_otherwise(f"In which place did the {who.noun} {base}", where)
        return s

    def deed(self) -> Sentence:
        """Anna bought three red apples at the market."""
        s = Sentence()
        category = self.rng.choice(("thing", "thing", "animal"))
        plural = self.rng.random() < 0.5
        what, (past, base) = self.phrase(category, plural=plural), self.verb(DEEDS)
        who = s.add(self.name())
        name = s.tokens[who[0]]
        s.add(past)
        number = s.add(self.draw("number", NUMBERS, made_up=0.0)) if plural else None
        if not plural:
            s.add(self.rng.choice(("a", "the")))
        thing = s.add(*what.words)
        the_thing = " ".join(what.words) if self.rng.random() < 0.3 else what.noun
        if self.rng.random() < 0.5:
            where = s.add(self.rng.choice(AT), "the", self.place())
            s.ask(f"Where did {name} {base} the {the_thing}", where)
        s.ask(f"Who {past} the {the_thing}", who)
        s.ask_otherwise(f"Name the person who {past} the {the_thing}", who)
        s.ask(f"What did {name} {base}", (number or thing)[:1] + thing[1:])
        if number:
            s.ask(f"How many {the_thing} did {name} {base}", number)
        self.ask_colour(s, what, thing[0], plural=plural)
        return s

    def there(self) -> Sentence:
        """There are five green boats in the harbour."""
        s = Sentence()
        what, place = self.phrase(self.rng.choice(("animal", "thing")), plural=True), self.place()
        be = self.rng.choice(("are", "were"))
        s.add("There", be)
        number = s.add(self.draw("number", NUMBERS, made_up=0.0))
        thing = s.add(*what.words)
        where = s.add(self.rng.choice(AT), "the", place)
        s.ask(f"How many {what.noun} {be} {s.tokens[where[0]]} the {place}", number)
        s.ask(self.rng.choice((f"How many {what.noun} {be} there", f"How many {what.noun}")), number)
        s.ask(f"Where {be} the {what.noun}", where)
        s.ask_otherwise(f"What is the number of {what.noun}", number)
        self.ask_colour(s, what, thing[0], plural=True)
        return s

    def be(self) -> Sentence:
        """The ball is small and red."""
        s = Sentence()
        noun, be = self.noun(self.rng.choice(("animal", "thing"))), self.rng.choice(("is", "was"))
        s.add("The", noun, be)
        if self.rng.random() < 0.3:
            where = s.add(self.rng.choice(AT), "the", self.place())
            s.ask(f"Where {be} the {noun}", where)
            return s
        before = [self.adjective(), "and"] if self.rng.random() < 0.3 else []
        after = ["and", self.adjective()] if not before and self.rng.random() < 0.3 else []
        s.add(*before)
        at = s.add(self.colour())
        s.add(*after)
        self.ask_colour(s, Phrase(noun, [s.tokens[at[0]], noun], 0), at[0])
        return s

    def place_first(self) -> Sentence:
        """In the garden, the brown hen sat. Kept from training."""
        s = Sentence()
        who, (past, base) = self.phrase("animal", colour=0.8), self.verb(STAYS)
        where = s.add(self.rng.choice(("In", "At", "Near")), "the", self.place())
        s.add(",", "the")
        subject = s.add(*who.words)
        s.add(past)
        self.ask_colour(s, who, subject[0])
        s.ask(f"Where did the {who.noun} {base}", where)
        s.ask(f"Who {past}", subject)
        return s

    def pair(self) -> Sentence:
        """A white duck and a black goat waited. Kept from training."""
        s = Sentence()
        one, other, (past, _) = self.phrase("animal", colour=1.0), self.phrase("animal", colour=1.0), self.verb(STAYS)
        s.add("A")
        first = s.add(*one.words)
        s.add("and", "a")
        second = s.add(*other.words)
        s.add(past, self.rng.choice(AT), "the", self.place())
        self.ask_colour(s, one, first[0])
        self.ask_colour(s, other, second[0])
        return s

    def example(self) -> Example:
        """One to three sentences and a question about one of them."""
        known: list[Callable[[], Sentence]] = [
            self.move,
            self.move,
            self.stay,
            self.deed,
            self.deed,
            self.there,
            self.be,
        ]
        sentences = [self.rng.choice(known)() for _ in range(self.rng.choice((1, 1, 2, 2, 3)))]
        about = self.rng.randrange(len(sentences))
        if self.kind is Kind.WORDINGS:
            if self.rng.random() < 0.5:
                sentences[about] = self.rng.choice((self.place_first, self.pair))()
            else:
                sentences[about].questions = sentences[about].unseen
        if not sentences[about].questions:
            return Maker(self.rng, self.kind).example()
        words, (start, end) = self.rng.choice(sentences[about].questions)
        query = [words[0] if self.rng.random() < 0.85 else words[0].lower(), *words[1:]]
        if self.rng.random() < 0.5:
            query.append("?")
        context: list[str] = []
        offset = 0
        for i, sentence in enumerate(sentences):
            if i == about:
                offset = len(context)
            context += sentence.tokens
            for j, word in enumerate(context[:-1]):
                if word in ("a", "A") and context[j + 1][0] in "aeiou":
                    context[j] += "n"
            if i + 1 < len(sentences) or self.rng.random() < 0.85:
                context.append(".")
        return Example(context, query, start + offset, end + offset)


def examples(seed: int, count: int, kind: Kind) -> list[Example]:
    """`count` examples; the same ones for the same seed."""
    rng = random.Random(f"{kind.value} {seed}")
    return [made for made in (_suitable(rng, kind) for _ in range(count))]


def _suitable(rng: random.Random, kind: Kind) -> Example:
    """An example that has what its kind is about."""
    unseen = {word for words in UNSEEN.values() for word in words}
    while True:
        made = Maker(rng, kind).example()
        if kind is not Kind.WORDS or any(word.removesuffix("s") in unseen for word in made.query + made.answer):
            return made


def vocabulary() -> list[str]:
    """Every lower-case word with a vector of its own: what training can show, without the made-up words."""
    verbs = [form for pair in MOVES + STAYS + DEEDS for form in pair]
    plurals = [noun + "s" for noun in ANIMALS + THINGS]
    grammar = (
        "the a an and there are were is was who what which where how many did of animal color colour . ? ,"
    ).split()
    words = [
        *COLOURS,
        *ADJECTIVES,
        *ANIMALS,
        *THINGS,
        *plurals,
        *NAMES,
        *PLACES,
        *NUMBERS,
        *verbs,
        *OVER,
        *AT,
        *grammar,
    ]
    return sorted({word.lower() for word in words})
