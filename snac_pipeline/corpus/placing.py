"""Placing speakers and contents in the ledger: joining what is connected to known groups, then filling the splits.

Everything here changes the ledger in memory only; `update_splits` saves it. Files are manifest rows with `name`, which
is "corpus/speaker"; an edge is a distinct (name, digest) of them; contents are the first file of each digest.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import polars as pl
import xxhash

from snac_pipeline.corpus.grouping import component_of
from snac_pipeline.corpus.ledger import SIDES, TRAIN, Ledger
from snac_pipeline.errors import PipelineError

LINKS = {"name": pl.String, "digest": pl.String, "reason": pl.String}
"""Edges that would connect groups of two splits, each with the reason for quarantine."""

# A group that would carry a split beyond this multiple of its share goes to train: one long speaker is not all of val.
_OVERSHOOT = 2.0

# Durations are summed as whole microseconds: in any order, on any number of threads, the sum is the same.
_MICROSECONDS = (pl.col("duration") * 1e6).round().cast(pl.Int64).sum()


def place_given(files: pl.DataFrame, sides: Mapping[str, str], ledger: Ledger) -> pl.DataFrame:
    """Place all of each corpus in `sides` (corpus -> split) there; return the links.

    Content that is on another side already keeps it; what several of these corpora hold goes to train before val before
    test. Raises PipelineError for a corpus that has speakers on another side, or nothing but content that has.
    """
    found = [pl.DataFrame(schema=LINKS)]
    for split in SIDES:
        corpora = [corpus for corpus, side in sides.items() if side == split]
        mine = files.filter(pl.col("corpus").is_in(corpora))
        if mine.is_empty():
            continue
        edges = edges_of(mine, ledger)
        _refuse_other_side(edges, split)
        elsewhere = (pl.col("digest_split") != split).fill_null(False)
        reason = pl.format("this content is in {}, and its corpus is all of {}", "digest_split", pl.lit(split))
        found.append(edges.filter(elsewhere).select("name", "digest", reason=reason))
        _, fresh = join_known(edges.filter(~elsewhere), ledger)
        add_groups(fresh, new_groups(distinct(mine), fresh).with_columns(split=pl.lit(split)), ledger)
    return pl.concat(found)


def _refuse_other_side(edges: pl.DataFrame, split: str) -> None:
    corpora = edges.group_by(pl.col("name").str.extract("^([^/]*)").alias("corpus")).agg(
        speakers=pl.col("name").filter(pl.col("name_split") != split).n_unique(),
        contents=(pl.col("digest_split") != split).fill_null(False).all(),
    )
    for corpus, speakers, contents in corpora.sort("corpus").iter_rows():
        if speakers:
            found = f"{speakers} of its speakers were placed elsewhere by earlier runs"
        elif contents:
            found = "all of its recordings are in other splits"
        else:
            continue
        raise PipelineError(
            f"corpus {corpus} is all of {split} (`split` in the settings), but {found}, and no file ever changes "
            "side; set `split` back, or use another `home`"
        )


def edges_of(files: pl.DataFrame, ledger: Ledger) -> pl.DataFrame:
    """name, digest, the number of `files`, and the group and split that the ledger has for either, or null."""
    edges = files.group_by("name", "digest").agg(pl.len().alias("files"))
    for member, kind in (("name", "speaker"), ("digest", "digest")):
        places = ledger.places(kind).rename({"group": f"{member}_group", "split": f"{member}_split"})
        edges = edges.join(places, left_on=member, right_on="member", how="left")
    return edges


def join_known(edges: pl.DataFrame, ledger: Ledger) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Give new members their place where the ledger decides it; return the links, and what is left: (name, digest,
    component) of new groups.

    New members connected with each other share one fate: the split to which most of their files connect them (at a tie,
    train first). Their files that connect to another split are the links.
    """
    old_name, old_digest = pl.col("name_split").is_not_null(), pl.col("digest_split").is_not_null()
    reason = pl.format("speaker {} is in {}, but this content is in {}", "name", "name_split", "digest_split")
    across = edges.filter(old_name & old_digest & (pl.col("name_split") != pl.col("digest_split")))
    touching = edges.filter(~(old_name & old_digest))
    # Only what is new connects: a known member is, for each new one, a member of its own.
    touching = touching.with_columns(
        component_of(
            touching,
            pl.when(old_name).then("\0" + pl.col("digest")).otherwise("name"),
            pl.when(old_digest).then("\0" + pl.col("name")).otherwise("digest"),
        ),
        group=pl.coalesce("name_group", "digest_group"),
        split=pl.coalesce("name_split", "digest_split"),
    )
    ties = touching.filter(pl.col("split").is_not_null())
    joined = _elected(ties)
    members = touching.join(joined, on="component", suffix="_joined")
    for member, kind in (("name", "speaker"), ("digest", "digest")):
        new = members.filter(pl.col(f"{member}_split").is_null()).unique(member)
        ledger.add(kind, new.select(pl.col(member).alias("member"), group="group_joined", split="split_joined"))
    torn = members.filter(pl.col("split") != pl.col("split_joined"))
    torn_reason = pl.format(
        "connects group {} of {} with group {} of {}", "group_joined", "split_joined", "group", "split"
    )
    links = [across.select("name", "digest", reason=reason), torn.select("name", "digest", reason=torn_reason)]
    fresh = touching.join(joined, on="component", how="anti").select("name", "digest", "component")
    return pl.concat(links), fresh


def _elected(ties: pl.DataFrame) -> pl.DataFrame:
    """component, group, split: the split with the most files, and of its groups the first."""
    votes = ties.group_by("component", "split").agg(pl.col("files").sum(), pl.col("group").min())
    votes = votes.sort("files", "split", descending=[True, False])  # splits in the order of SIDES
    return votes.unique("component", keep="first", maintain_order=True).select("component", "group", "split")


def new_groups(contents: pl.DataFrame, fresh: pl.DataFrame) -> pl.DataFrame:
    """component, group, stratum (that of most of its duration) and microseconds of each new group, in the order of
    `group`, which is the order in which they are offered to the splits.

    A group's name is the smallest xxh3_128 of its speakers' names: unchanged by new files and, mostly, by new members.
    """
    speakers = fresh.select("name", "component").unique()
    hashes = pl.Series([xxhash.xxh3_128_hexdigest(name.encode()) for name in speakers["name"]], dtype=pl.String)
    names = speakers.with_columns(group=hashes).group_by("component").agg(pl.col("group").min())
    durations = (
        contents.join(fresh.select("digest", "component").unique("digest"), on="digest")
        .group_by("component", "stratum")
        .agg(microseconds=_MICROSECONDS)
        .sort("microseconds", "stratum", descending=[True, False])
        .group_by("component", maintain_order=True)
        .agg(pl.col("stratum").first(), pl.col("microseconds").sum())
    )
    return names.join(durations, on="component").sort("group")


def choose_splits(
    groups: pl.DataFrame, contents: pl.DataFrame, shares: Mapping[str, float], ledger: Ledger
) -> pl.DataFrame:
    """`groups` (from `new_groups`) with `split`: stratum by stratum, so that each split gets its share of the
    duration of `contents`."""
    places = ledger.places("digest").select("member", "split")
    known = contents.join(places, left_on="digest", right_on="member").group_by("stratum", "split").agg(_MICROSECONDS)
    chosen = [groups.clear().with_columns(split=pl.lit(None, pl.String))]
    for (stratum,), offered in groups.group_by("stratum"):
        filled = Counter(dict(known.filter(stratum=stratum).select("split", "duration").iter_rows()))
        splits = _choose(offered["microseconds"].to_list(), offered["group"].to_list(), filled, shares)
        chosen.append(offered.with_columns(split=pl.Series(splits, dtype=pl.String)))
    return pl.concat(chosen)


def _choose(
    durations: Sequence[int], names: Sequence[str], filled: Counter[str], shares: Mapping[str, float]
) -> list[str]:
    """The split of each new group of one stratum; `filled` is the duration that each split of it has already."""
    total = filled.total() + sum(durations)
    chosen = [TRAIN] * len(durations)
    wanting = {name: share * total for name, share in shares.items() if filled[name] < share * total}
    for index, duration in enumerate(durations):
        for name, wanted in wanting.items():
            if filled[name] + duration <= _OVERSHOOT * wanted:
                chosen[index] = name
                filled[name] += duration
                break
        wanting = {name: wanted for name, wanted in wanting.items() if filled[name] < wanted}
        if not wanting:
            break
    in_train = filled[TRAIN] + sum(
        duration for duration, split in zip(durations, chosen, strict=True) if split == TRAIN
    )
    for name in [name for name, share in shares.items() if share > 0 and not filled[name]]:
        spare = [index for index, split in enumerate(chosen) if split == TRAIN]
        smallest = min(spare, key=lambda index: (durations[index], names[index]), default=None)
        if smallest is not None and in_train > durations[smallest]:  # train keeps something
            chosen[smallest] = name
            in_train -= durations[smallest]
    return chosen


def add_groups(fresh: pl.DataFrame, groups: pl.DataFrame, ledger: Ledger) -> None:
    """Give the members of new groups (from `join_known`) the place of their group."""
    members = fresh.join(groups.select("component", "group", "split"), on="component")
    for member, kind in (("name", "speaker"), ("digest", "digest")):
        ledger.add(kind, members.unique(member).select(pl.col(member).alias("member"), "group", "split"))


def distinct(files: pl.DataFrame) -> pl.DataFrame:
    """The first file of each content."""
    return files.unique("digest", keep="first", maintain_order=True)
