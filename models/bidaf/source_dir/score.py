"""The entry script of the walk-through: answers a question about a text with words of the text.

A request is {"query": …, "context": …}; the answer is the list of the context's words that answer the query.
"""

import json
import os

import nltk
import numpy as np
import onnxruntime
from nltk import word_tokenize

LETTERS_A_WORD = 16


def init():
    """Called once in every worker, before its first request."""
    global session
    # Without the internet this says so and goes on; the data are then found where NLTK_DATA points.
    nltk.download("punkt")
    session = onnxruntime.InferenceSession(os.path.join(os.environ["AZUREML_MODEL_DIR"], "model.onnx"))


def preprocess(text):
    """A text's words, in lower case, as a column; and their letters, each word cut or filled to sixteen."""
    tokens = word_tokenize(text)
    words = np.array([token.lower() for token in tokens], dtype=object).reshape(-1, 1)
    letters = [list(token[:LETTERS_A_WORD]) + [""] * (LETTERS_A_WORD - len(token)) for token in tokens]
    return words, np.array(letters, dtype=object).reshape(-1, 1, 1, LETTERS_A_WORD)


def run(request):
    """Called for every request with the body's text; what it returns is sent as JSON."""
    print(request)
    body = json.loads(request)
    query_word, query_char = preprocess(body["query"])
    context_word, context_char = preprocess(body["context"])
    start, end = session.run(
        ["start_pos", "end_pos"],
        {
            "query_word": query_word,
            "query_char": query_char,
            "context_word": context_word,
            "context_char": context_char,
        },
    )
    answer = context_word[start.item() : end.item() + 1]
    return answer.ravel().tolist()
