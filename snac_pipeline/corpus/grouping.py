"""Groups of utterances that must stay on one side: connected through a speaker or through equal content."""

from collections.abc import Hashable, Iterable


class Components:
    """Union-find over any hashable members; `components()` lists the connected ones."""

    def __init__(self) -> None:
        self._parent: dict[Hashable, Hashable] = {}

    def find(self, member: Hashable) -> Hashable:
        root = self._parent.setdefault(member, member)
        while root != (above := self._parent[root]):
            root = above
        while member != root:  # path compression: near-constant time for millions of members
            self._parent[member], member = root, self._parent[member]
        return root

    def connect(self, one: Hashable, other: Hashable) -> None:
        self._parent[self.find(other)] = self.find(one)

    def components(self) -> Iterable[list[Hashable]]:
        found: dict[Hashable, list[Hashable]] = {}
        for member in self._parent:
            found.setdefault(self.find(member), []).append(member)
        return found.values()
