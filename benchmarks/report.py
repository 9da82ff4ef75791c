"""Stores results as JSON and writes the readable page over all of them; run it to write the page again."""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.measurement import Result

RESULTS = Path(__file__).parent / "results"
BEFORE = Path(__file__).with_name("before.json")
"""What was measured before the store wrote beside the model and batches were joined, by promise."""
TRIED = Path(__file__).with_name("tried.md")
ORDER = (
    *("collection", "plain_script", "store", "checked_reads", "queries", "startup", "memory", "sizes"),
    *("trajectories", "branching", "sampling", "second_order", "tracks", "sae"),
)
ELSEWHERE = ("gpu",)
"""Benchmarks that need another machine."""
SAME_MACHINE = ("cpu", "cores", "cores_of_machine", "memory_gb", "os", "python")


def finish(result: Result, options: argparse.Namespace) -> None:
    """Print the result; store it and rewrite the page, unless only a quick trial without an output folder was asked."""
    facts = result.as_json()
    print("\n".join(_section(facts)))
    if options.quick and options.output is None:
        return
    folder = options.output or RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{result.name}.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    write_page(folder)


def write_page(folder: Path) -> None:
    """Write README.md from the JSON files of `folder`."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}
    results = [
        found[name]
        for first in (*ORDER, *ELSEWHERE)
        for name in sorted(found)
        if name == first or name.startswith(f"{first}_")
    ]
    lines = [
        "# Results",
        "",
        "Written by the benchmarks (`make bench`); do not edit. Medians of interleaved rounds, with their range.",
        "",
        "## Promises",
        "",
        "| promise | goal | before | measured | | on |",
        "|---|---|---|---|---|---|",
    ]
    before = json.loads(BEFORE.read_text(encoding="utf-8"))
    for facts in results:
        for promise in facts["promises"]:
            verdict = "met" if promise["met"] else "**missed**"
            old = before.get(promise["what"])
            again = old if old and old["measured"] != promise["measured"] else None
            values = (
                promise["goal"],
                _measured(again) if again else "",
                _measured(promise),
                verdict,
                _processor(facts),
            )
            lines.append(f"| {promise['what']} | {' | '.join(values)} |")
    lines += ["", f"Before: {_when(before)}. Ratios hold within one run; other machines have other ones."]
    for facts in results:
        lines += ["", *_section(facts)]
    lines += ["", "## Tried, and whether it paid", "", TRIED.read_text(encoding="utf-8").rstrip()]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _processor(facts: dict[str, Any]) -> str:
    """Where a promise was measured, in a few words."""
    machine = facts["machine"]
    card = facts["settings"].get("card")
    cores = f"{machine['cores']} core{'s' * (machine['cores'] > 1)}"
    return card if card else f"{machine['cpu'].replace('(R)', '')}, {cores}"


def _when(before: dict[str, Any]) -> str:
    """When and where what is shown as `before` was measured."""
    places = sorted({(old["measured_at"], old["cpu"], old["cores"]) for old in before.values()})
    return "; ".join(f"{day} on {cores} cores of {cpu}" for day, cpu, cores in places)


def _measured(promise: dict[str, Any]) -> str:
    return f"{promise['measured']:.3g} {promise['unit']}"


def _section(facts: dict[str, Any]) -> list[str]:
    """One benchmark: its tables, then its circumstances."""
    lines = [f"## {facts['title']}", ""]
    for promise in facts["promises"]:
        verdict = "met" if promise["met"] else "**missed**"
        lines.append(f"- {promise['what']}: **{_measured(promise)}** (goal {promise['goal']}, {verdict})")
    for figures in facts["figures"]:
        lines += ["", f"### {figures['title']}", "", "| " + " | ".join(figures["columns"]) + " |"]
        lines.append("|" + "---|" * len(figures["columns"]))
        lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in figures["rows"]]
    if facts["notes"]:
        lines += ["", *(f"- {note}" for note in facts["notes"])]
    return [*lines, "", _circumstances(facts)]


def _circumstances(facts: dict[str, Any]) -> str:
    machine, load = facts["machine"], facts["load"]
    versions = ", ".join(f"{name} {value}" for name, value in machine.items() if name not in SAME_MACHINE)
    settings = ", ".join(f"{name} {_cell(value)}" for name, value in facts["settings"].items())
    return (
        f"Measured {facts['measured_at']} on {_cores(machine)} of {machine['cpu']}, {machine['memory_gb']} GB, "
        f"{machine['os']}; Python {machine['python']}, {versions}. Load average {load['load_average_before']} before, "
        f"{load['load_average_after']} after; other processes used {load['cpu_share_of_other_processes']:.0%} of the "
        f"cores during these {load['minutes']} minutes. Settings: {settings}."
    )


def _cores(machine: dict[str, Any]) -> str:
    """How many cores a benchmark could use; the others of the machine did something else."""
    others = machine.get("cores_of_machine", machine["cores"]) - machine["cores"]
    return f"{machine['cores']} cores" + (f" (held to them; the machine has {others} more)" if others else "")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value).replace("|", "\\|")


if __name__ == "__main__":
    write_page(RESULTS)
