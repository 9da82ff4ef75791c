"""The child process of the grader `symbolic`: reads pairs of answers as JSON lines, writes whether they are equal.

It is killed when it thinks for too long, so nothing here limits its time. Its standard output belongs to the protocol.
"""

import json
import logging
import sys
from typing import Any


def main() -> None:
    """Say that the libraries are loaded, then answer line by line until standard input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr
    logging.disable(logging.CRITICAL)
    from math_verify import parse, verify  # pyright: ignore[reportMissingImports]  # an extra

    def equal(answer: str, reference: str) -> bool:
        gold, given = (
            parse(f"${text}$", parsing_timeout=None)  # pyright: ignore[reportArgumentType]
            for text in (reference, answer)
        )
        return bool(gold and given and verify(gold, given, timeout_seconds=None))

    def say(value: Any) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    equal("x+1", "1+x")  # what is loaded at the first call is not the time of an answer
    say("ready")
    for line in sys.stdin:
        say(equal(*json.loads(line)))


if __name__ == "__main__":
    main()
