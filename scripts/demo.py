"""Sends one digit to a deployed service and shows it as a person would see it, with what the service makes of it.

    python3 scripts/demo.py SCORING_URI REQUEST.json METRICS.json

Ends with an error if the answer is not the digit that it is known to be.
"""

import json
import math
import sys
import urllib.request

SHADES = " .:-=+*#%@"


def drawing(image: list[list[float]]) -> list[str]:
    """The image in characters, twice as wide as high because characters are half as wide."""
    most = len(SHADES) - 1
    return ["".join(SHADES[round(v * most)] * 2 for v in row) for row in image]


def probabilities(logits: list[float]) -> list[float]:
    """Softmax, shifted by the maximum so that nothing overflows."""
    top = max(logits)
    powers = [math.exp(v - top) for v in logits]
    return [p / sum(powers) for p in powers]


def main() -> None:
    uri, request_path, metrics_path = sys.argv[1:4]
    with open(request_path, encoding="utf-8") as file:
        request = json.load(file)
    with open(metrics_path, encoding="utf-8") as file:
        label = json.load(file)["first_held_out_label"]
    post = urllib.request.Request(
        uri, data=json.dumps(request).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(post, timeout=30) as answer:
        device = answer.headers["x-triscore-device"]
        scored = json.load(answer)
    chances = probabilities(scored["logits"][0])
    digit = max(range(10), key=chances.__getitem__)
    bars = [f"{i} {'█' * round(30 * p)} {p:.1%}" for i, p in enumerate(chances)]
    picture = drawing(request["x"][0][0])
    for left, right in zip(picture + [" " * 16] * (len(bars) - len(picture)), bars):
        print(f"    {left}    {right}")
    print(f"\nThe service says {digit}, on {device}. The digit is a {label}.")
    if digit != label:
        sys.exit("demo: the answer is wrong")


if __name__ == "__main__":
    main()
