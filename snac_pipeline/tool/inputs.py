"""What a command line names: files, folders, globs and "-"; and where what is made of each goes.

In: the arguments. Out: `Item`s with a source and a target. Below the output folder paths are kept as they are below the
deepest folder that holds everything named, whether it is there or not: what an argument becomes depends on the others,
never on what is found.
"""

import contextlib
import glob
import os
import shutil
import stat
import sys
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from snac_pipeline.corpus.naming import stored_path
from snac_pipeline.errors import PipelineError

STANDARD = "-"
"""Standard input or output."""


@dataclass(frozen=True)
class Item:
    """One file to work on."""

    source: str
    """A path, or STANDARD."""
    relative: str
    """Its path below the folder that everything named lies in."""
    problem: str | None = None
    """Why there is nothing to work on, where that is known already."""

    @property
    def name(self) -> str:
        """For people and for files: UTF-8 whatever the path is."""
        return "standard input" if self.source == STANDARD else stored_path(self.source)

    @contextlib.contextmanager
    def readable(self) -> Iterator[str]:
        """A path that can be read anywhere; what comes through a pipe is copied to a temporary file first."""
        if self.source == STANDARD:
            with _copied(sys.stdin.buffer) as path:
                yield path
        elif os.path.exists(self.source) and not stat.S_ISREG(os.stat(self.source).st_mode):  # <(...) of a shell
            with open(self.source, "rb") as pipe, _copied(pipe) as path:
                yield path
        else:
            yield self.source


def find_items(arguments: Sequence[str], extensions: Collection[str], to: str) -> list[Item]:
    """Every file that `arguments` name, once, in their order; of folders those with one of `extensions`, at any depth.

    What is named and not there is an item with a problem. `to`, where output goes, is left out of folders.
    """
    if STANDARD in arguments:
        if len(arguments) > 1:
            raise PipelineError("`-`, standard input, is one recording; give it alone")
        return [Item(STANDARD, "stdin")]
    found: dict[str, str | None] = {}
    known: set[str] = set()  # one file by two names is one
    roots = []
    for argument in arguments:
        files, root = _files(argument, extensions, to)
        roots.append(os.path.abspath(root))
        if not files:
            found[argument] = _nothing(argument, extensions)
        for file in files:
            if (place := os.path.abspath(file)) not in known:
                known.add(place)
                found[file] = None
    base = os.path.commonpath(roots)
    return [
        Item(source, os.path.relpath(source, base) if problem is None else source, problem)
        for source, problem in found.items()
    ]


def _files(argument: str, extensions: Collection[str], to: str) -> tuple[list[str], str]:
    """The files of one argument, and the folder that it says they are all in."""
    if os.path.isdir(argument):
        return list(_walk(argument, extensions, to)), argument
    if os.path.lexists(argument):
        return [argument], os.path.dirname(argument) or "."
    if not glob.has_magic(argument):
        return [], os.path.dirname(argument) or "."
    parts = Path(argument).parts
    fixed = parts[: next(i for i, part in enumerate(parts) if glob.has_magic(part))]
    matches = sorted(path for path in glob.glob(argument, recursive=True) if os.path.isfile(path))
    return matches, os.path.join(*fixed) if fixed else "."


def _walk(folder: str, extensions: Collection[str], to: str) -> Iterator[str]:
    output = os.path.realpath(to)
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if os.path.realpath(os.path.join(place, name)) != output)
        for name in sorted(files):
            path = os.path.join(place, name)
            hidden = name.startswith(".")  # unfinished files of ours, among others
            if not hidden and os.path.splitext(name)[1].lower() in extensions and os.path.isfile(path):
                yield path


def _nothing(argument: str, extensions: Collection[str]) -> str:
    kinds = ", ".join(sorted(extensions))
    if os.path.isdir(argument):
        return f"no {kinds} file in the folder {argument}; name files, or a folder that has some"
    what = "no file matches" if glob.has_magic(argument) else "there is no file or folder"
    return f"{what} {argument}; correct the path"


def targets(items: Sequence[Item], to: str, extension: str, known: Collection[str]) -> list[Path | None]:
    """Where each item's output goes; None: standard output.

    to: STANDARD, a file (with one of the `known` extensions, for one item), or a folder. In a folder a file keeps its
    name with the new `extension`, and the old one before it where two would have one name: a.wav.txt and a.flac.txt.
    Raises PipelineError for a place that cannot take the items.
    """
    if to == STANDARD:
        if len(items) != 1:
            raise PipelineError(f"`--to -`, standard output, takes one recording, not {len(items)}; give a folder")
        return [None]
    _check_place(to, known)
    if is_file(to, known):
        if len(items) != 1:
            raise PipelineError(f"`--to {to}` is one file, for {len(items)} recordings; give a folder")
        return [Path(to)]
    stems = [os.path.splitext(item.relative)[0] for item in items]
    taken = Counter(stems)
    names = [stem if taken[stem] == 1 else item.relative for stem, item in zip(stems, items, strict=True)]
    taken = Counter(names)  # a.wav that keeps its own and a.wav.flac would still have one
    names = [name if taken[name] == 1 else item.relative for name, item in zip(names, items, strict=True)]
    if same := [name for name, count in Counter(names).items() if count > 1]:
        raise PipelineError(f"several recordings would have the output {same[0]}{extension}; give them one by one")
    return [Path(to) / (name + extension) for name in names]


def is_file(to: str, known: Collection[str]) -> bool:
    """Whether `to` means one file and no folder."""
    return to != STANDARD and not os.path.isdir(to) and os.path.splitext(to)[1].lower() in known


def _check_place(to: str, known: Collection[str]) -> None:
    """That the folder which `to` is, or is in, is there or can be made."""
    if not to:
        raise PipelineError("`--to` is empty; give a folder, a file, or - for standard output")
    place = Path(os.path.abspath(to))
    folders = place.parents if is_file(to, known) else (place, *place.parents)
    there = next(path for path in folders if os.path.lexists(path))
    if not there.is_dir():
        raise PipelineError(
            f"`--to {to}`: {there} is a file and can be no folder; give another folder, or one file whose name ends in "
            f"{', '.join(known)}"
        )


@contextlib.contextmanager
def _copied(pipe: BinaryIO) -> Iterator[str]:
    with tempfile.NamedTemporaryFile(prefix="snac-pipeline-") as copy:
        shutil.copyfileobj(pipe, copy, 1 << 20)
        copy.flush()
        yield copy.name
