"""Trains the sentence splitter's parameters that NLTK's `word_tokenize` reads, on a text that is made up here.

NLTK downloads such data (`nltk.download("punkt")`), which a machine without the internet cannot do. These come from
NLTK's own `PunktTrainer`, in the layout `tokenizers/punkt_tab/english` that NLTK 3.8.2 and newer read; older versions
want a pickle, which is not provided. They know the abbreviations of this small text and no more: good for the
walk-through, no replacement for the published ones.

Run from the repository root: `python -m models.bidaf.punkt`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

from nltk.tokenize.punkt import PunktSentenceTokenizer, PunktTrainer

from models.bidaf import corpus
from models.bidaf.corpus import Kind

FOLDER = Path(__file__).parent / "source_dir" / "nltk_data" / "tokenizers" / "punkt_tab" / "english"
SEED = 0
SENTENCES = 3000

# Sentences with abbreviations: how often one stands before a lower-case word or a name is how Punkt learns them.
TITLES = "Mr. Mrs. Ms. Dr. Prof. St. Capt. Col. Gen. Lt. Sgt. Rev. Hon. Sen. Gov. Jr. Sr.".split()
SURNAMES = "Smith Jones Miller Taylor Wilson Clarke Evans Moore".split()
WORDINGS = [
    "{title} {name} saw the {animal} near the {place}.",
    "The {animal} of {title} {name} slept in the {place}.",
    "At approx. {number} {animal}s were with {title} {name} in the {place}.",
    "There was a {thing}, i.e. a {colour} one, from {title} {name} in the {place}.",
    "The {animal} and its friends, e.g. the {animal2}, ran past the {place}.",
    "The {thing}, a {colour} one (cf. p. {number}), was sold by {name} Inc. in the {place}.",
    "A {thing} etc. stood in the {place} at {number} p.m. or {number} a.m. near the {animal}.",
    "The firm of {name} Ltd. and that of {name2} Co. sold {thing}s, no. {number} in the {place}.",
]


def text() -> str:
    """Sentences of the model's own kind, mixed with those that hold abbreviations."""
    rng = random.Random(SEED)
    plain = corpus.examples(SEED, SENTENCES, Kind.SENTENCES)
    sentences = [" ".join(example.context).replace(" .", ".").rstrip(".") + "." for example in plain]
    for _ in range(SENTENCES // 2):
        names, animals = (rng.sample(words, 2) for words in (SURNAMES, corpus.ANIMALS))
        sentence = rng.choice(WORDINGS).format(
            title=rng.choice(TITLES),
            name=names[0],
            name2=names[1],
            animal=animals[0],
            animal2=animals[1],
            place=rng.choice(corpus.PLACES),
            thing=rng.choice(corpus.THINGS),
            colour=rng.choice(corpus.COLOURS),
            number=rng.choice(corpus.NUMBERS),
        )
        sentences.append(sentence)
    rng.shuffle(sentences)
    return " ".join(sentences)


def write(name: str, lines: Iterable[str]) -> None:
    """A table with its lines in order: NLTK's own writer leaves them in the order of a set."""
    (FOLDER / name).write_text("\n".join(sorted(lines)), encoding="utf-8", newline="\n")


def main() -> None:
    """Trains, writes the four tables, and splits two sentences with what was learned."""
    trainer = PunktTrainer()
    trainer.train(text(), verbose=False)
    learned = trainer.get_params()
    FOLDER.mkdir(parents=True, exist_ok=True)
    write("abbrev_types.txt", learned.abbrev_types)
    write("sent_starters.txt", learned.sent_starters)
    write("collocations.tab", ("\t".join(pair) for pair in learned.collocations))
    write("ortho_context.tab", (f"{word}\t{context}" for word, context in learned.ortho_context.items()))
    sample = "Mrs. Miller saw Dr. Jekyll at 5 p.m. near the park. The fox slept."
    found = PunktSentenceTokenizer(learned).tokenize(sample)
    if len(found) != 2:
        raise SystemExit(f"punkt: {sample!r} was split into {found}")
    print(f"punkt: {len(learned.abbrev_types)} abbreviations, {len(learned.ortho_context)} words")


if __name__ == "__main__":
    main()
