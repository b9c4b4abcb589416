"""Reading checkpoints that may be wrong. An error is one line with its cause; a checkpoint's own code is not run."""

from __future__ import annotations

import errno
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedConfig
from transformers.utils import logging

logger = logging.get_logger(__name__)


def checkpoint_config(source: str) -> dict[str, Any]:
    """Return the config.json of a directory or of a hub name.

    Raises:
        OSError: If there is none.
    """
    require_place(source)
    if Path(source).is_dir() and not Path(source, "config.json").exists():
        raise FileNotFoundError(f"{source}: no checkpoint, as there is no config.json in it")
    try:
        return PreTrainedConfig.get_config_dict(source)[0]
    except OSError as error:
        where = "" if Path(source).is_dir() else "no such directory, and the hub does not give it: "
        raise OSError(f"{source}: {where}{in_one_line(error)}") from error


def require_place(source: str) -> None:
    """Raise FileNotFoundError for what is no directory and does not look like a hub name."""
    if Path(source).is_file():
        raise FileNotFoundError(f"{source}: a file; give the directory of the checkpoint")
    if not Path(source).is_dir() and (source.startswith(("/", ".", "~")) or source.count("/") != 1):
        raise FileNotFoundError(f"{source}: no such directory, and a hub name would be OWNER/NAME")


def load_texts(load: Callable[..., Any], source: str, trust_remote_code: bool = False, **options: Any) -> Any:
    """Load a tokenizer or a processor from a checkpoint's files.

    Args:
        load: A class's from_pretrained().
        source: The checkpoint.
        trust_remote_code: Whether to run code that comes with the checkpoint. Nobody is asked.
        options: Passed to `load`.

    Raises:
        ValueError: If files are missing, damaged, or need such code.
    """
    try:
        return load(source, trust_remote_code=trust_remote_code, **options)
    except (ValueError, OSError) as error:
        cause = in_one_line(error)
        if "trust_remote_code" in cause and not trust_remote_code:
            cause = (
                "it is Python code of the checkpoint's own, which is not run: take a checkpoint whose tokenizer is one "
                "of transformers', or, if you have read that code, load_pretrained_model(..., trust_remote_code=True)"
            )
        raise ValueError(f"{source}: its tokenizer or processor cannot be loaded: {cause}") from error


def load_whole(
    load: Callable[..., Any], source: Any, *args: Any, borrowed: str | None = None, **options: Any
) -> tuple[Any, dict[str, Any]]:
    """Load a model, and refuse weights that do not fit.

    Args:
        load: A class's from_pretrained().
        source: The checkpoint.
        args: Passed to `load`.
        borrowed: Prefix of weights that may be missing because they come from elsewhere.
        options: Passed to `load`.

    Returns:
        The model, and transformers' loading info.

    Raises:
        ValueError: If weights are missing, of another shape, or in files that cannot be read.
    """
    options["ignore_mismatched_sizes"] = True  # the loading info tells what does not fit
    with readable(source), errors_only():  # transformers would log a table
        model, info = load(source, *args, output_loading_info=True, **options)
    name = type(model).__name__
    if wrong := sorted(info["mismatched_keys"]):
        key, held, needed = wrong[0]
        raise ValueError(
            f"{source} does not fit its config.json: {len(wrong)} weights of {name} have another shape, for one "
            f"{key}, {[*held]} in the file, {[*needed]} by the config. Take both from one checkpoint, or download "
            "it again"
        )
    if missing := sorted(key for key in info["missing_keys"] if borrowed is None or not key.startswith(borrowed)):
        raise ValueError(f"{source} lacks {len(missing)} weights of {name}, {missing[0]} for one")
    if unused := sorted(info["unexpected_keys"]):
        logger.warning(f"{source} has {len(unused)} weights that {name} does not have, {unused[0]} for one")
    return model, info


@contextmanager
def errors_only() -> Iterator[None]:
    """A context in which transformers logs errors only."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


@contextmanager
def readable(source: Any) -> Iterator[None]:
    """A context for reading weights.

    Raises:
        ValueError: If a file is damaged, or could only be read by running code in it.
    """
    try:
        yield
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{source}: a weights file (*.bin) is a pickle that holds more than tensors, or is damaged; it is not "
            "opened, as pickles can run any code: convert to safetensors where you trust it, or download it again"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        cause = in_one_line(error)
        torchs = "PytorchStreamReader" in cause or getattr(error, "errno", None) == errno.EINVAL
        if not (torchs or isinstance(error, SafetensorError | EOFError)):
            raise
        raise ValueError(f"{source}: a weights file is damaged or cut off ({cause}): download it again") from error


def in_one_line(error: Exception) -> str:
    """Return an error's message without line breaks."""
    return " ".join(str(error).split())
