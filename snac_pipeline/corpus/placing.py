"""Placing speakers and contents in the ledger: joining what is connected to known groups, then filling the splits.

Everything here changes the ledger in memory only; `update_splits` saves it. Files are manifest rows with `name`, which
is "corpus/speaker".
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from snac_pipeline.corpus.grouping import Components
from snac_pipeline.corpus.ledger import Ledger, Member, Place, group_name

TRAIN = "train"

# A group that would carry a split beyond this multiple of its share goes to train: one long speaker is not all of val.
_OVERSHOOT = 2.0


@dataclass
class NewGroup:
    name: str
    members: list[Member]
    stratum: str
    duration: float


def join_known(files: pl.DataFrame, ledger: Ledger) -> dict[tuple[str, str], str]:
    """Give new members their place where the ledger decides it; return {(speaker name, digest): reason} of links.

    New members connected with each other share one fate: the split to which most of their files connect them (at a tie,
    train first). Their files that connect to another split are the linking ones.
    """
    edges = Counter(files.select("name", "digest").iter_rows())
    linking: dict[tuple[str, str], str] = {}
    components = Components()
    for name, digest in edges:
        speaker, content = ("speaker", name), ("digest", digest)
        there, here = ledger.place(speaker), ledger.place(content)
        if there and here and there.split != here.split:
            linking[name, digest] = f"speaker {name} is in {there.split}, but this content is in {here.split}"
        for member, place in ((speaker, there), (content, here)):
            if place is None:
                components.find(member)
        if not there and not here:
            components.connect(speaker, content)
    ties = defaultdict(list)
    for (name, digest), count in edges.items():
        there, here = ledger.place(("speaker", name)), ledger.place(("digest", digest))
        if (there is None) != (here is None):
            new = ("speaker", name) if there is None else ("digest", digest)
            ties[components.find(new)].append((name, digest, there or here, count))
    for members in components.components():
        _join_one(members, ties[components.find(members[0])], ledger, linking)
    return linking


def _join_one(members: list[Member], ties: list, ledger: Ledger, linking: dict[tuple[str, str], str]) -> None:
    if not ties:
        return
    votes = Counter()
    for _, _, place, count in ties:
        votes[place.split] += count
    split = min(votes, key=lambda name: (-votes[name], name != TRAIN, name))
    home = Place(min(place.group for _, _, place, _ in ties if place.split == split), split)
    for member in members:
        ledger.add(member, home)
    for name, digest, place, _ in ties:
        if place.split != split:
            linking[name, digest] = f"connects group {home.group} of {split} with group {place.group} of {place.split}"


def find_new_groups(files: pl.DataFrame, ledger: Ledger) -> list[NewGroup]:
    """Connected components of what the ledger does not know, in the order of their hash."""
    unknown = files.filter(
        pl.Series([ledger.place(("speaker", name)) is None for name in files["name"]], dtype=pl.Boolean)
    )
    components = Components()
    for name, digest in unknown.select("name", "digest").unique().iter_rows():
        components.connect(("speaker", name), ("digest", digest))
    durations: dict = defaultdict(Counter)
    for digest, stratum, duration in distinct(unknown).select("digest", "stratum", "duration").iter_rows():
        durations[components.find(("digest", digest))][stratum] += duration
    groups = []
    for members in components.components():
        by_stratum = durations[components.find(members[0])]
        stratum = min(by_stratum, key=lambda name: (-by_stratum[name], name))
        groups.append(NewGroup(group_name(members), sorted(members), stratum, sum(by_stratum.values())))
    return sorted(groups, key=lambda group: group.name)


def known_durations(files: pl.DataFrame, ledger: Ledger) -> dict[str, Counter]:
    """Seconds of known content per stratum and split."""
    found: dict[str, Counter] = defaultdict(Counter)
    for digest, stratum, duration in distinct(files).select("digest", "stratum", "duration").iter_rows():
        if place := ledger.place(("digest", digest)):
            found[stratum][place.split] += duration
    return found


def assign(groups: list[NewGroup], known: dict[str, Counter], shares: Mapping[str, float], ledger: Ledger) -> None:
    by_stratum: dict[str, list[NewGroup]] = defaultdict(list)
    for group in groups:
        by_stratum[group.stratum].append(group)
    for stratum, offered in sorted(by_stratum.items()):
        for group, split in zip(offered, _choose(offered, known[stratum], shares), strict=True):
            for member in group.members:
                ledger.add(member, Place(group.name, split))


def _choose(groups: list[NewGroup], filled: Counter, shares: Mapping[str, float]) -> list[str]:
    """The split of each new group of one stratum; `filled` are the seconds that each split of it has already."""
    total = filled.total() + sum(group.duration for group in groups)
    filled = Counter(filled)
    chosen = []
    for group in groups:
        wanting = [
            name
            for name, share in shares.items()
            if filled[name] < share * total and filled[name] + group.duration <= _OVERSHOOT * share * total
        ]
        chosen.append(wanting[0] if wanting else TRAIN)
        filled[chosen[-1]] += group.duration
    for name in [name for name, share in shares.items() if share > 0 and not filled[name]]:
        spare = [index for index, split in enumerate(chosen) if split == TRAIN]
        smallest = min(spare, key=lambda index: (groups[index].duration, groups[index].name), default=None)
        if smallest is not None and filled[TRAIN] > groups[smallest].duration:  # train keeps something
            chosen[smallest] = name
            filled[TRAIN] -= groups[smallest].duration
    return chosen


def distinct(files: pl.DataFrame) -> pl.DataFrame:
    """The first file of each content."""
    return files.unique("digest", keep="first", maintain_order=True)
