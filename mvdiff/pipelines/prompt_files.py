"""Prompts: expand the forms that a pipeline accepts, and read prompt files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvdiff.files.paths import expanded, same_name
from mvdiff.files.text import parse_json, read_json, read_lines
from mvdiff.samples.ids import check_ids


@dataclass(frozen=True)
class PromptEntry:
    """One panorama to generate.

    Args:
        sample_id: Name, unique within a file.
        prompt: One text for all views, or one per view.
    """

    sample_id: str
    prompt: str | tuple[str, ...]


def expand_prompts(prompt: str | Sequence[str] | Sequence[Sequence[str]], num_views: int) -> list[list[str]]:
    """Expand prompts to one list per sample with one text per view.

    Args:
        prompt: Any form that `MVDiffusionPanoramaPipeline.__call__` accepts.
        num_views: Number of views per sample.

    Raises:
        ValueError: There are no prompts, or a sample has not exactly `num_views` texts.

    Example:
        >>> expand_prompts(["a kitchen", ["a door", "a bed"]], 2)
        [['a kitchen', 'a kitchen'], ['a door', 'a bed']]
    """
    if not isinstance(prompt, str | Sequence):
        raise ValueError(f"prompt must be a text, a list of texts, or a list of lists; got {type(prompt).__name__}.")
    samples = [prompt] if isinstance(prompt, str) else list(prompt)
    if not samples:
        raise ValueError("prompt must hold at least one text; got none.")
    expanded = []
    for index, sample in enumerate(samples):
        views = list(sample) if isinstance(sample, Sequence) and not isinstance(sample, str) else [sample] * num_views
        if len(views) != num_views or not all(isinstance(view, str) for view in views):
            raise ValueError(
                f"prompts must be one text for all views, or one text per view ({num_views}); got "
                f"{json.dumps(views, default=repr)[:200]} ({len(views)}), in sample {index}."
            )
        expanded.append(views)
    return expanded


def expand_negative_prompt(negative_prompt: str | Sequence[str] | None, num_views: int) -> list[str]:
    """Expand a negative prompt (one text, one text per view, or None for the empty prompt) to one text per view.

    Raises:
        ValueError: It has another type, or a list has not exactly `num_views` texts.

    Example:
        >>> expand_negative_prompt("fog", 2), expand_negative_prompt(["fog", ""], 2), expand_negative_prompt(None, 2)
        (['fog', 'fog'], ['fog', ''], ['', ''])
    """
    if negative_prompt is None or isinstance(negative_prompt, str):
        return [negative_prompt or ""] * num_views
    if not isinstance(negative_prompt, Sequence) or not all(isinstance(text, str) for text in negative_prompt):
        raise ValueError(
            "negative_prompt must be one text for all views, or a list of one text per view; got "
            f"{str(negative_prompt)[:200]}."
        )
    if len(negative_prompt) != num_views:
        raise ValueError(
            f"negative_prompt must be one text for all views, or one per view ({num_views}); got "
            f"{len(negative_prompt)}."
        )
    return list(negative_prompt)


def read_prompts(path: str | Path) -> list[PromptEntry]:
    """Read a file of prompts, one entry per panorama.

    A text file has one prompt per line, used for all views. A `.json` file is a list of entries; a `.jsonl` file has
    one entry per line. An entry is a text for all views, a list of one text per view, or an object
    `{"prompt": text or list, "id": name}`. Entries without id are named "0000", "0001", ... by position.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not UTF-8 text, an entry is empty or malformed, or an id is not unique or cannot name a
            folder; the message names file and line or entry.
    """
    path = expanded(path)
    if not path.is_file():
        raise FileNotFoundError(f"prompts must be an existing file; got {path}. Pass a text as --prompt.")
    if path.suffix.lower() == ".json":
        values = read_json(path)
        if not isinstance(values, list):
            raise ValueError(f"prompts must be a JSON list; got {type(values).__name__}, in {path}.")
        places = [(f"{path} entry {index}", value) for index, value in enumerate(values)]
    else:
        lines = read_lines(path)
        lines = lines if lines[-1] else lines[:-1]  # the last line feed ends the last line
        places = [(f"{path}:{number}", line) for number, line in enumerate(lines, start=1)]
        if path.suffix.lower() == ".jsonl":
            places = [(where, parse_json(line, where)) for where, line in places]
    if not places:
        raise ValueError(f"prompts must have at least one entry; got none, in {path}.")
    entries = [_entry(value, f"{index:04d}", where) for index, (where, value) in enumerate(places)]
    check_ids((entry.sample_id, where) for entry, (where, _) in zip(entries, places, strict=True))
    return entries


def repeated(entries: Sequence[PromptEntry], num_samples: int) -> list[PromptEntry]:
    """Return each entry `num_samples` times, with distinct names and therefore distinct noise.

    Example:
        >>> [entry.sample_id for entry in repeated([PromptEntry("hall", "a hall")], 2)]
        ['hall-0', 'hall-1']
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1; got {num_samples}.")
    if num_samples == 1:
        return list(entries)
    copies = [PromptEntry(f"{one.sample_id}-{copy}", one.prompt) for one in entries for copy in range(num_samples)]
    ids = ((entry.sample_id, "the copies that num_samples asks for") for entry in copies)
    check_ids(ids, lambda: False)  # `read_prompts` warns of case
    return copies


def _entry(value: Any, default_id: str, where: str) -> PromptEntry:
    sample_id = default_id
    if isinstance(value, dict):
        if "prompt" not in value or not set(value) <= {"prompt", "id"}:
            raise ValueError(f"entry must have the key prompt and optionally id; got {sorted(value)}, in {where}.")
        sample_id, value = value.get("id", default_id), value["prompt"]
        if isinstance(sample_id, bool) or not isinstance(sample_id, str | int):
            raise ValueError(f"id must be a text or a whole number; got {json.dumps(sample_id)[:200]}, in {where}.")
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(
            f"prompt must be a non-empty text, or a list of one per view; got {json.dumps(value)[:200]}, in {where}."
        )
    return PromptEntry(same_name(str(sample_id)), value if isinstance(value, str) else tuple(value))
