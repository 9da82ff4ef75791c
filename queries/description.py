"""Facts about a run, the schema, saved queries and checks, as plain values and as text for a terminal."""

import json
from typing import Any

from ..lake import Lake
from ..lake.output.printable import printable
from ..lake.schema import TABLES, stored_tables
from ..lake.values import Json


def describe_run(lake: Lake, run_id: str) -> Json:
    """The `runs` row of a run, what it keeps and the rows and bytes of its tables; `run_id` must exist."""
    row = next(row for row in lake.runs() if row["run_id"] == run_id)
    about = lake.run_json(run_id)
    tables: dict[str, dict[str, int]] = {}
    snapshot = lake.snapshot(run_id)
    for table in stored_tables():
        files = snapshot.files(table.name)
        if files:
            tables[table.name] = {
                "n_files": len(files),
                "n_rows": sum(file.rows for file in files),
                "n_bytes": sum(file.size for file in files),
            }
    return {
        "run": {name: _parsed(name, value) for name, value in row.items()},
        "unmeasured": about.get("unmeasured") or {},
        "n_segments": len((about.get("plan") or {}).get("segments") or []),
        "tables": tables,
    }


def _parsed(name: str, value: object) -> Any:
    return json.loads(value) if name in ("config", "versions") and isinstance(value, str) else value


def run_text(facts: Json) -> str:
    """The facts of a run, for reading."""
    run = facts["run"]
    lines = [f"{name:<20}{printable(str(value))}" for name, value in run.items() if _worth_showing(name, value)]
    defaults = {name: value for name, value in (run["config"] or {}).items() if value not in (None, [], False)}
    width = max((18, *(len(name) + 2 for name in (*defaults, *facts["tables"]))))
    lines += ["", "configuration", *(f"  {name:<{width}}{printable(str(value))}" for name, value in defaults.items())]
    lines += ["", f"{'table':<{width}}{'files':>8}{'rows':>14}{'bytes':>16}"]
    for table, sizes in sorted(facts["tables"].items()):
        lines.append(f"{table:<{width}}{sizes['n_files']:>8,}{sizes['n_rows']:>14,}{sizes['n_bytes']:>16,}")
    for name, reason in facts["unmeasured"].items():
        lines.append(f"not measured: {name} ({reason})")
    return "\n".join(lines)


def _worth_showing(name: str, value: object) -> bool:
    return value is not None and name not in ("config", "versions")


def describe_schema() -> list[Json]:
    """Every table and column with type, unit and meaning, and the derived views."""
    from .derived_views import views

    found = [
        {
            "table": table.name,
            "doc": table.doc,
            "key": list(table.key),
            "columns": [
                {"name": c.name, "type": _type_name(table.name, c.name, str(c.type)), "unit": c.unit, "doc": c.doc}
                for c in table.columns
            ],
        }
        for table in TABLES.values()
    ]
    for view in views().values():
        columns = [{"name": name, "type": None, "unit": None, "doc": text} for name, text in view.columns.items()]
        found.append({"table": view.name, "doc": view.description, "key": [], "columns": columns})
    return found


def _type_name(table: str, column: str, name: str) -> str:
    return "list<float>" if TABLES[table].vector == column else name.replace("element: ", "").replace("item: ", "")


def schema_text(tables: list[Json]) -> str:
    """The schema, for reading."""
    lines = []
    for table in tables:
        lines += [table["table"], f"  {table['doc']}"]
        if table["key"]:
            lines.append(f"  key: {', '.join(table['key'])}")
        for column in table["columns"]:
            unit = f" [{column['unit']}]" if column["unit"] else ""
            lines.append(f"    {column['name']:<24}{column['type'] or '':<14}{column['doc']}{unit}")
        lines.append("")
    return "\n".join(lines)


def query_list(queries: list[Json]) -> str:
    """Names and first sentences of saved queries; `*` marks those with a chart."""
    width = max((len(q["name"]) for q in queries), default=0) + 2
    lines = [f"{q['name']:<{width}}{'*' if q['chart'] else ' '} {printable(q['summary'])}" for q in queries]
    return "\n".join([*lines, "", "* has a chart: lake chart NAME. Run one with: lake query NAME --run RUN"])


def verify_text(report: Json) -> str:
    """What a verification found, for reading."""
    counts = ", ".join(f"{report[name]:,} {name}" for name in ("runs", "files", "bytes"))
    head = f"{report['level']}: {counts} checked"
    lines = [f"  {_problem(problem)}" for problem in report["problems"]]
    notes = [f"  note: {_problem(note)}" for note in report["notes"]]
    return "\n".join([f"{head}; {len(lines)} problems" if lines else f"{head}; no problems", *lines, *notes])


def _problem(problem: Json) -> str:
    return printable(" ".join(str(value) for value in problem.values() if value is not None))
