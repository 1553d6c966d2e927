"""A Ray cluster of two nodes on this machine."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def two_nodes() -> Iterator[str]:
    """The address of a head with one core and another node with one; it takes ten seconds to start."""
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
    yield cluster.address
    ray.shutdown()
    cluster.shutdown()
