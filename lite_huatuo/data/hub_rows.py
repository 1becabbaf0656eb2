"""Rows of a data set on the Hugging Face Hub. No code of the data set's is run.

Files that `files` reads are read by it, so that a data set gives the same records from the Hub as from a copy on disk:
the library `datasets` makes other values of them (4.8: a column that holds numbers and texts becomes JSON, in which the
text "1.50" is the number 1.5; dates become dates; in tables "007" becomes 7). Other files, such as Parquet, have types
of their own and are read by the library.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lite_huatuo import hub_access
from lite_huatuo.data import files
from lite_huatuo.errors import RecordError

CONVERTED = (
    "refs/convert/parquet"  # the branch in which the Hub keeps most data sets as Parquet: config/split/*.parquet
)
_SCRIPT = "scripts are no longer supported"  # datasets >= 4, of a data set that is a program
_PLAIN = {"field": None, "sep": ",", "delimiter": None, "names": None, "column_names": None, "skiprows": None}
_URL = re.compile(r"hf://datasets/([^/]+/[^/@]+)@([^/]+)/(.+)")


def rows(source: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield ("source[index]", row) of org/name[:config][@revision][#split]; RecordError where it cannot be loaded."""
    name, _, split = source.partition("#")
    name, _, revision = name.partition("@")
    name, _, config = name.partition(":")
    split = split or "train"
    unasked = hub_access.failure()
    try:
        found = _load(name, config, revision, split)
    except RecordError:
        raise
    except Exception as error:  # the library raises many kinds, network errors among them
        reason = unasked or f"{type(error).__name__}: {str(error).strip().split(chr(10))[0]}"
        if _SCRIPT in reason:
            raise RecordError(
                f"{source}: this data set is a program, which is never run; name its data instead, "
                f"{name}:{config or 'CONFIG'}@{CONVERTED}#{split}, or give a local file"
            ) from None
        raise RecordError(
            f"{source}: cannot be loaded from the Hub ({reason}); "
            "check the name, your network and HF_TOKEN, or give a local .json or .jsonl file"
        ) from None
    for index, row in enumerate(found):
        yield f"{source}[{index}]", row


def _load(name: str, config: str, revision: str, split: str) -> Any:
    """Return the rows of a split, in a sequence or a table of the library's."""
    import datasets

    options: dict[str, Any] = {"revision": revision} if revision else {}
    if revision == CONVERTED:
        whole = re.split(r"\W", split, maxsplit=1)[0]
        options["data_files"] = {whole: f"{config or 'default'}/{whole}/*.parquet"}
        config = ""
    paths = _own_files(name, config or None, options)
    if paths is None:
        return datasets.load_dataset(name, config or None, split=split, **options)
    parts = [part for part in paths if part in re.findall(r"[\w.-]+", split)]
    if not parts:
        raise RecordError(f"{name}: no split {split}; there are {', '.join(paths)}")
    read = {part: [row for path in paths[part] for _, row in files.rows(path())] for part in parts}
    instruction = datasets.ReadInstruction.from_spec(split)
    chosen = instruction.to_absolute({part: len(found) for part, found in read.items()})
    return [row for one in chosen for row in read[one.splitname][one.from_ : one.to]]


def _own_files(name: str, config: str | None, options: Mapping[str, Any]) -> dict[str, list[Callable[[], Path]]] | None:
    """Return {split: how to get each of its files}, None where the library is to read them: files of another kind, or
    settings of the data set's own that say how. Where the Hub cannot be asked, the files that were fetched before."""
    import datasets
    from huggingface_hub import constants, snapshot_download

    folder = None
    if constants.HF_HUB_OFFLINE and "data_files" not in options:
        with contextlib.suppress(OSError, ValueError):  # not fetched before
            folder = snapshot_download(name, repo_type="dataset", local_files_only=True, **options)
    try:
        builder = datasets.load_dataset_builder(folder or name, config, **({} if folder else options))
    except Exception:
        if folder is None:
            raise
        return None
    found = getattr(builder.config, "data_files", None)
    plain = all(getattr(builder.config, key, usual) == usual for key, usual in _PLAIN.items())
    if not found or not plain or not all(str(url).endswith(files.ENDINGS) for urls in found.values() for url in urls):
        return None
    return {str(part): [partial(_file, str(url)) for url in urls] for part, urls in found.items()}


def _file(url: str) -> Path:
    """Return a data set's file, which is fetched where it is on the Hub."""
    from huggingface_hub import hf_hub_download

    match = _URL.fullmatch(url)
    if match is None:
        return Path(url)
    return Path(hf_hub_download(match[1], match[3], repo_type="dataset", revision=match[2]))
