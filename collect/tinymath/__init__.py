"""The bundled model `tinymath`: its weights folder, its problems, and the script that trains it.

Importing this package loads no model library; `train` and `evaluate` do.
"""

from pathlib import Path

from .problems import LEVELS, METHODS, Problem, problems

WEIGHTS: Path = Path(__file__).resolve().parent / "weights"
"""Folder for `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained`."""

__all__ = ["LEVELS", "METHODS", "WEIGHTS", "Problem", "problems"]
