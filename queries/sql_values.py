"""Values for the `$names` of a typed statement, given as text."""

import json
from collections.abc import Mapping
from contextlib import closing

from ..lake.errors import UsageError, did_you_mean

SqlValue = str | int | float | bool | None


def sql_values(statement: str, given: Mapping[str, str]) -> dict[str, SqlValue]:
    """One value per `$name` of the statement; UsageError where one is missing or is not used.

    What reads as a number, true, false or null is one; anything else is text, and so is what stands in quotes.
    """
    if not given and "$" not in statement and "?" not in statement:
        return {}  # a parser costs a tenth of a small answer
    import duckdb

    try:
        with closing(duckdb.connect()) as parser:
            statements = parser.extract_statements(statement)
    except duckdb.Error:
        return {}  # the lake's own connection says what is wrong with it
    names = sorted({name for part in statements for name in part.named_parameters})
    for name in given:
        if name not in names and name != "run":  # --run also chooses the rows
            raise UsageError(f"The SQL has no parameter ${name}.{did_you_mean(name, names)}")
    missing = [name for name in names if name not in given]
    if missing:
        hint = "--run RUN" if missing[0] == "run" else f"--param {missing[0]}=VALUE"
        raise UsageError(f"The SQL has a parameter ${missing[0]} without a value. Give it with {hint}.")
    return {name: _value(given[name]) for name in names}


def _value(text: str) -> SqlValue:
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'")
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if value is None or isinstance(value, bool | int | float) else text
