"""A Merkle tree that grows, and proofs that it holds a leaf and that it continues a smaller tree.

Source: RFC 9162, "Certificate Transparency Version 2.0", section 2.1, with SHA-256. A proof has about as many
hashes as the tree has levels. This module needs the standard library alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

__all__ = ["MerkleTree", "follows", "holds", "leaf_hash"]


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf, 32 bytes: ``SHA-256(0x00 || data)``."""
    return hashlib.sha256(b"\x00" + data).digest()


class MerkleTree:
    """A tree to which leaves are added at the end; earlier trees can be asked about by their size.

    Hashes of full subtrees are kept, so that a leaf costs constant work on average, and a root or a proof O(log N).

    Example:
        >>> tree = MerkleTree()
        >>> for word in (b"a", b"b", b"c"):
        ...     tree.append(leaf_hash(word))
        >>> holds(leaf_hash(b"c"), 2, len(tree), tree.inclusion(2, 3), tree.root(3))
        True
        >>> follows(2, tree.root(2), 3, tree.root(3), tree.consistency(2, 3))
        True
    """

    def __init__(self) -> None:
        self._levels: list[list[bytes]] = [[]]  # by height: the hashes of full subtrees from left to right

    def __len__(self) -> int:
        """Return the number of leaves."""
        return len(self._levels[0])

    def append(self, leaf: bytes) -> None:
        """Add a leaf by its hash, see `leaf_hash`."""
        height, found = 0, leaf
        self._levels[0].append(leaf)
        while len(self._levels[height]) % 2 == 0:
            found = _node(self._levels[height][-2], found)
            height += 1
            if height == len(self._levels):
                self._levels.append([])
            self._levels[height].append(found)

    def root(self, size: int) -> bytes:
        """Return the hash of the tree of the first leaves.

        Args:
            size: How many leaves; 0 for the empty tree.

        Returns:
            32 bytes.

        Raises:
            ValueError: There are fewer leaves.
        """
        self._check(size, least=0)
        return self._hash(0, size) if size else hashlib.sha256(b"").digest()

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """Return the proof that a tree holds a leaf; `holds` checks it.

        Args:
            index: Of the leaf, from 0.
            size: Number of leaves of the tree.

        Returns:
            Hashes, from the leaf to the root.

        Raises:
            ValueError: There is no such leaf or tree.
        """
        self._check(size, least=1)
        if not 0 <= index < size:
            raise ValueError(f"`index` must lie in [0, {size}), got {index}")
        path: list[bytes] = []
        start, end = 0, size
        while end - start > 1:
            middle = start + _split(end - start)
            if index < middle:
                path.append(self._hash(middle, end))
                end = middle
            else:
                path.append(self._hash(start, middle))
                start = middle
        return path[::-1]

    def consistency(self, old: int, new: int) -> list[bytes]:
        """Return the proof that a tree begins with all leaves of a smaller one; `follows` checks it.

        Args:
            old: Number of leaves of the smaller tree.
            new: Number of leaves of the larger one.

        Returns:
            Hashes; none where the trees are equal, or the smaller one is empty.

        Raises:
            ValueError: There is no such tree, or the first one is the larger one.
        """
        self._check(new, least=0)
        if not 0 <= old <= new:
            raise ValueError(f"`old` must lie in [0, {new}], got {old}")
        if old in (0, new):
            return []
        path: list[bytes] = []
        start, end = 0, new
        while end != old:
            middle = start + _split(end - start)
            if old <= middle:
                path.append(self._hash(middle, end))
                end = middle
            else:
                path.append(self._hash(start, middle))
                start = middle
        return [*([self._hash(start, end)] if start else []), *path[::-1]]

    def _check(self, size: int, least: int) -> None:
        if not least <= size <= len(self):
            raise ValueError(f"`size` must lie in [{least}, {len(self)}], got {size}")

    def _hash(self, start: int, end: int) -> bytes:
        """Return the hash of a subtree; it begins where the RFC's rule of splitting makes one begin."""
        count = end - start
        height = count.bit_length() - 1
        if count == 1 << height:
            return self._levels[height][start >> height]
        middle = start + _split(count)
        return _node(self._hash(start, middle), self._hash(middle, end))


def holds(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Return whether a proof shows that a tree holds a leaf.

    Source: RFC 9162, section 2.1.3.2.

    Args:
        leaf: Hash of the leaf.
        index: Its place, from 0.
        size: Number of leaves of the tree.
        path: The proof.
        root: Hash of the tree.
    """
    if not 0 <= index < size:
        return False
    place, last, found = index, size - 1, leaf
    for other in path:
        if not last:
            return False
        if place % 2 or place == last:
            found = _node(other, found)
            while place and not place % 2:
                place, last = place >> 1, last >> 1
        else:
            found = _node(found, other)
        place, last = place >> 1, last >> 1
    return not last and found == root


def follows(old: int, old_root: bytes, new: int, new_root: bytes, path: Sequence[bytes]) -> bool:
    """Return whether a proof shows that a tree begins with all leaves of a smaller one.

    Source: RFC 9162, section 2.1.4.2, and for trees without a proof section 2.1.4.

    Args:
        old: Number of leaves of the smaller tree.
        old_root: Its hash.
        new: Number of leaves of the larger one.
        new_root: Its hash.
        path: The proof.
    """
    if not 0 < old < new:
        same = old == new and old_root == new_root
        return not path and (same or (old == 0 < new and old_root == hashlib.sha256(b"").digest()))
    hashes = [old_root, *path] if old & (old - 1) == 0 else list(path)
    if not path:
        return False
    place, last = old - 1, new - 1
    while place % 2:
        place, last = place >> 1, last >> 1
    found_old = found_new = hashes[0]
    for other in hashes[1:]:
        if not last:
            return False
        if place % 2 or place == last:
            found_old, found_new = _node(other, found_old), _node(other, found_new)
            while place and not place % 2:
                place, last = place >> 1, last >> 1
        else:
            found_new = _node(found_new, other)
        place, last = place >> 1, last >> 1
    return not last and (found_old, found_new) == (old_root, new_root)


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def _split(count: int) -> int:
    """Return how many leaves are on the left: the largest power of two below their number."""
    return int(1 << (count - 1).bit_length() - 1)
