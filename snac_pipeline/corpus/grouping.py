"""Groups of utterances that must stay on one side: connected through a speaker or through equal content."""

import numpy as np
import polars as pl


def component_of(edges: pl.DataFrame, one: pl.Expr, other: pl.Expr) -> pl.Series:
    """The component of each row of `edges`, as the number of one of its `one`: equal for rows that are connected.

    Rows with an equal `one`, or with an equal `other`, are connected, directly or through rows between them.
    """
    names = edges.select(one.alias("one"), other.alias("other"))
    numbers = names.select("one").unique().with_row_index("number")
    names = names.join(numbers, on="one", how="left", maintain_order="left").select("number", "other")
    pairs = names.select("number", pl.col("number").min().over("other").alias("first"))
    apart = pairs.filter(pl.col("number") != pl.col("first"))  # the rest connect nothing, and are nearly all
    labels = _connected(apart["number"].to_numpy(), apart["first"].to_numpy(), len(numbers))
    return pl.Series("component", labels[pairs["number"].to_numpy()])


def _connected(one_E: np.ndarray, other_E: np.ndarray, count: int) -> np.ndarray:
    """The smallest number that each of `count` numbers is connected with by E edges: roots are hooked to smaller
    neighbouring roots and paths made short, until no edge joins two roots."""
    label = np.arange(count)
    while len(one_E):
        low, high = np.minimum(label[one_E], label[other_E]), np.maximum(label[one_E], label[other_E])
        np.minimum.at(label, high, low)
        while not np.array_equal(shorter := label[label], label):
            label = shorter
        apart = label[one_E] != label[other_E]
        one_E, other_E = one_E[apart], other_E[apart]
    return label
