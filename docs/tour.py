"""Run the commands of README.md and docs/sampling.md on new lakes and write what they print: `python docs/tour.py`.

A `console` block that begins with `$ lake ...` is such a command; the rest of the block is its output. The pictures
that `lake chart` makes on the way go to `docs/images/`. Not part of the installed package.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
README, SAMPLING = ROOT / "README.md", ROOT / "docs" / "sampling.md"
BLOCK = re.compile(r"^```console\n\$ (?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> list[tuple[str, str]]:
    """The commands of a page with the output shown."""
    return [_parts(match["body"]) for match in BLOCK.finditer(text)]


def _parts(body: str) -> tuple[str, str]:
    """The command, which ends with the first line that leaves no quote open, and its output."""
    lines = body.splitlines(keepends=True)
    for n in range(1, len(lines)):
        try:
            shlex.split("".join(lines[:n]))
        except ValueError:
            continue
        return "".join(lines[:n]).rstrip("\n"), "".join(lines[n:])
    return body.rstrip("\n"), ""


def run(command: str, folder: Path) -> str:
    """What a command prints on standard output, in a folder where `./lakehouse` is."""
    words = shlex.split(command)
    words[0] = str(Path(sys.executable).with_name("lake"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRACELAKE")}
    result = subprocess.run(words, cwd=folder, capture_output=True, text=True, env=environment)
    if result.returncode:
        sys.exit(f"{command}\n{result.stderr}")
    return result.stdout


def rewritten(text: str, folder: Path) -> str:
    """The page with fresh output."""
    return BLOCK.sub(lambda match: _block(_parts(match["body"])[0], folder), text)


def rewrite(page: Path, folder: Path) -> None:
    """Write the page again with fresh output."""
    page.write_text(rewritten(page.read_text(encoding="utf-8"), folder), encoding="utf-8")


def _block(command: str, folder: Path) -> str:
    return f"```console\n$ {command}\n{run(command, folder)}```"


def main() -> None:
    """Make the demonstration lake, or take a folder that has one, and rewrite the pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="folder with a ./lakehouse made by `lake demo`")
    given = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as scratch:
        folder = given or Path(scratch)
        if given is None:
            run("lake demo", folder)
        rewrite(README, folder)
        shutil.copytree(ROOT / "examples", folder / "examples", dirs_exist_ok=True)
        rewrite(SAMPLING, folder)
        (ROOT / "docs" / "images").mkdir(exist_ok=True)
        for picture in folder.glob("*.png"):
            shutil.copy(picture, ROOT / "docs" / "images" / picture.name)


if __name__ == "__main__":
    main()
