"""The question-answering network: bidirectional attention between a text and a question, small.

    words ─ vectors ──────────┐
    letters ─ vectors ─ conv ─ max ─┴─ token ─ conv ─ encoded        (text and question share these weights)
    text × question ─ attention both ways ─ dilated convs ─ scores of start and end ─ best span

It follows BiDAF (Seo, Kembhavi, Farhadi, Hajishirzi, 2016) with convolutions in place of its LSTMs. A word that the
vocabulary lacks has the one vector of all such words; its letters tell it from others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.bidaf.corpus import Example, vocabulary
from models.bidaf.tape import Array, Indices, Tape, Value

LETTERS_A_WORD = 16
"""Longer tokens are cut, shorter ones filled with empty strings, as the model's inputs want them."""

LONGEST_ANSWER = 8
"""In tokens."""

WORD, LETTER, TOKEN, HIDDEN = 24, 12, 48, 64
"""The widths of the vectors."""

LETTER_WINDOW, TOKEN_WINDOW, SPAN_WINDOW = 5, 3, 5
DILATIONS = (1, 2, 4)
"""The last layers see 14 tokens to either side."""

WORDS = vocabulary()
LETTERS = [chr(code) for code in range(ord("!"), ord("~") + 1)]
WORD_IDS = {word: i + 1 for i, word in enumerate(WORDS)}
"""0 is every other word."""
LETTER_IDS = {"": 0} | {letter: i + 1 for i, letter in enumerate(LETTERS)}
OTHER_LETTER = len(LETTER_IDS)


def initial_weights(rng: np.random.Generator) -> dict[str, Array]:
    """Random weights and zero biases."""

    def table(rows: int, width: int) -> Array:
        return (rng.standard_normal((rows, width)) * 0.3).astype(np.float32)

    def dense(rows: int, columns: int) -> Array:
        return (rng.standard_normal((rows, columns)) * np.sqrt(1.5 / rows)).astype(np.float32)

    weights = {
        "word.vectors": table(len(WORDS) + 1, WORD),
        "letter.vectors": table(len(LETTER_IDS) + 1, LETTER),
        "letter.conv": dense(LETTER_WINDOW * LETTER, TOKEN),
        "token.dense": dense(WORD + TOKEN, TOKEN),
        "encode.conv": dense(TOKEN_WINDOW * TOKEN, TOKEN),
        "match.text": dense(TOKEN, TOKEN),
        "focus": dense(TOKEN, 1),
        "join.dense": dense(5 * TOKEN + 1, HIDDEN),
        "join.question": dense(TOKEN, HIDDEN),
        "score": dense(HIDDEN, 2),
    }
    weights |= {f"span.conv{i}": dense(SPAN_WINDOW * HIDDEN, HIDDEN) for i in range(len(DILATIONS))}
    widths = {"letter.conv": TOKEN, "token.dense": TOKEN, "encode.conv": TOKEN, "join.dense": HIDDEN}
    widths |= {f"span.conv{i}": HIDDEN for i in range(len(DILATIONS))}
    return weights | {f"{name}.bias": np.zeros(width, np.float32) for name, width in widths.items()}


@dataclass(frozen=True)
class Batch:
    """Examples as numbers: every distinct token once, and the texts and questions as rows of token numbers."""

    word_ids: Indices
    letter_ids: Indices
    text: Indices
    text_there: NDArray[np.bool_]
    query: Indices
    query_there: NDArray[np.bool_]
    start: Indices
    end: Indices


def make_batch(examples: Sequence[Example], rng: np.random.Generator | None = None) -> Batch:
    """Pads and numbers. With `rng`, some words are treated as unknown, so that their letters must do."""
    tokens: dict[tuple[str, bool], int] = {}

    def rows(sequences: list[list[str]], forgotten: list[set[str]]) -> tuple[Indices, NDArray[np.bool_]]:
        longest = max(map(len, sequences))
        ids = np.zeros((len(sequences), longest), np.int64)
        there = np.zeros(ids.shape, dtype=bool)
        for row, (sequence, gone) in enumerate(zip(sequences, forgotten, strict=True)):
            ids[row, : len(sequence)] = [
                tokens.setdefault((word, word.lower() in gone), len(tokens)) for word in sequence
            ]
            there[row, : len(sequence)] = True
        return ids, there

    forgotten: list[set[str]] = [set() for _ in examples]
    if rng is not None:
        for gone, example in zip(forgotten, examples, strict=True):
            words = sorted({word.lower() for word in example.context + example.query})
            gone.update(word for word, chance in zip(words, rng.random(len(words)), strict=True) if chance < 0.06)
    text, text_there = rows([example.context for example in examples], forgotten)
    query, query_there = rows([example.query for example in examples], forgotten)
    letter_ids = np.zeros((len(tokens), LETTERS_A_WORD), np.int64)
    for i, (word, _) in enumerate(tokens):
        letters = [LETTER_IDS.get(letter, OTHER_LETTER) for letter in word[:LETTERS_A_WORD]]
        letter_ids[i, : len(letters)] = letters
    return Batch(
        np.array([0 if gone else WORD_IDS.get(word.lower(), 0) for word, gone in tokens], np.int64),
        letter_ids,
        text,
        text_there,
        query,
        query_there,
        np.array([example.start for example in examples], np.int64),
        np.array([example.end for example in examples], np.int64),
    )


def scores(tape: Tape, w: dict[str, Value], batch: Batch) -> Value:
    """How well every token of every text starts and ends the answer: [batch, text, 2]."""

    def dense(x: Value, name: str) -> Value:
        return tape.add(tape.matmul(x, w[name]), w[f"{name}.bias"])

    letters = tape.gather(w["letter.vectors"], batch.letter_ids)
    features = tape.relu(dense(tape.windows(letters, LETTER_WINDOW), "letter.conv"))
    spelling = tape.reshape(tape.largest(features, axis=1), (len(batch.letter_ids), TOKEN))
    meaning = tape.gather(w["word.vectors"], batch.word_ids)
    token = tape.relu(dense(tape.concat([meaning, spelling]), "token.dense"))

    def encoded(ids: Indices, there: NDArray[np.bool_]) -> tuple[Value, Value]:
        x = tape.mul(tape.gather(token, ids), Value(there[..., None].astype(np.float32)))
        return x, tape.add(x, tape.relu(dense(tape.windows(x, TOKEN_WINDOW), "encode.conv")))

    text_tokens, text = encoded(batch.text, batch.text_there)
    query_tokens, query = encoded(batch.query, batch.query_there)

    in_query, in_text = batch.query_there[:, None, :], batch.text_there[:, None, :]
    # Tokens are matched before the convolution, so that the same word is the same wherever it stands.
    match = tape.matmul(tape.matmul(text_tokens, w["match.text"]), tape.turn(query_tokens))
    attended = tape.matmul(tape.softmax(match, in_query), query)
    best = tape.largest(tape.add(match, Value(np.where(in_query, 0, np.float32(-1e4)).astype(np.float32))), axis=2)
    matched = tape.matmul(tape.softmax(tape.turn(best), in_text), text)
    focus = tape.softmax(tape.turn(tape.matmul(query, w["focus"])), in_query)
    question = tape.matmul(focus, query)

    joined = tape.concat(
        [text, attended, tape.mul(text, attended), tape.mul(text, matched), tape.mul(text, question), best]
    )
    hidden = tape.relu(tape.add(dense(joined, "join.dense"), tape.matmul(question, w["join.question"])))
    there = Value(batch.text_there[..., None].astype(np.float32))
    for i, dilation in enumerate(DILATIONS):
        windows = tape.windows(tape.mul(hidden, there), SPAN_WINDOW, dilation)
        hidden = tape.add(hidden, tape.relu(dense(windows, f"span.conv{i}")))
    return tape.matmul(hidden, w["score"])


def best_span(start: Array, end: Array) -> tuple[int, int]:
    """The span of at most `LONGEST_ANSWER` tokens with the highest sum of scores."""
    total = start[:, None] + end[None, :]
    distance = np.arange(len(start))[None, :] - np.arange(len(start))[:, None]
    total = np.where((distance >= 0) & (distance < LONGEST_ANSWER), total, np.float32(-1e9))
    first, last = divmod(int(total.argmax()), len(start))
    return first, last
