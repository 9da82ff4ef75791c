"""What a model is called, as far as it can be judged before the libraries of models are imported."""

from pathlib import Path

from ...lake.errors import NotFoundError

GIVE = (
    "Give `tinymath`, a folder with config.json, model.safetensors and a tokenizer, or a Hugging Face id "
    "(which needs network or a filled cache)."
)


def check_model_name(name: str) -> None:
    """NotFoundError for what can only be a folder (an id of the hub has one slash at most) and is none."""
    is_path = name.startswith(("/", "./", "../", "~")) or name.count("/") > 1
    if is_path and not Path(name).is_dir():
        raise NotFoundError(f"Model {name!r} could not be loaded: there is no such folder. {GIVE}")
