"""The tree and its proofs: by the RFC's definitions, its example, and whatever was changed."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastforget.serving.history.merkle import MerkleTree, follows, holds, leaf_hash

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def defined(data: list[bytes]) -> bytes:
    """The hash of a list as section 2.1.1 defines it."""
    if len(data) < 2:
        return hashlib.sha256(b"\x00" + data[0]).digest() if data else hashlib.sha256().digest()
    left = max(2**k for k in range(20) if 2**k < len(data))
    return hashlib.sha256(b"\x01" + defined(data[:left]) + defined(data[left:])).digest()


def leaves(count: int) -> list[bytes]:
    return [f"d{n}".encode() for n in range(count)]


def tree_of(data: list[bytes]) -> MerkleTree:
    tree = MerkleTree()
    for one in data:
        tree.append(leaf_hash(one))
    return tree


def test_the_example_of_the_rfc() -> None:
    """Section 2.1.5, with its names of nodes."""
    data, tree = leaves(7), tree_of(leaves(7))
    a, b, c, d, e, f, j = (defined([one]) for one in data)
    g, h, i = defined(data[0:2]), defined(data[2:4]), defined(data[4:6])
    k, middle = defined(data[0:4]), defined(data[4:7])
    assert tree.root(7) == defined(data)
    assert tree.inclusion(0, 7) == [b, h, middle]
    assert tree.inclusion(3, 7) == [c, g, middle]
    assert tree.inclusion(4, 7) == [f, j, k]
    assert tree.inclusion(6, 7) == [i, k]
    assert tree.consistency(3, 7) == [c, d, g, middle]
    assert tree.consistency(4, 7) == [middle]
    assert tree.consistency(6, 7) == [i, j, k]
    assert (a, e) == (leaf_hash(b"d0"), leaf_hash(b"d4"))


def test_every_tree_up_to_40_leaves() -> None:
    """Each root is the defined one, each proof is accepted, and no proof stands for another leaf or tree."""
    data, tree = leaves(40), tree_of(leaves(40))
    roots = [defined(data[:size]) for size in range(41)]
    assert roots[0].hex() == EMPTY
    assert [tree.root(size) for size in range(41)] == roots
    for size in range(1, 41):
        for index in range(size):
            path = tree.inclusion(index, size)
            assert len(path) <= (size - 1).bit_length()
            found = [place for place in range(size) if holds(leaf_hash(data[index]), place, size, path, roots[size])]
            assert found == [index]
        for old in range(size + 1):
            path = tree.consistency(old, size)
            assert follows(old, roots[old], size, roots[size], path)
            if 0 < old < size:
                assert not follows(old, roots[old - 1], size, roots[size], path)
                assert not follows(old, roots[old], size, roots[size - 1], path)
                assert not follows(old, roots[old], size, roots[size], [])


def flipped(path: list[bytes], place: int, bit: int) -> list[bytes]:
    changed = bytearray(path[place])
    changed[bit // 8] ^= 1 << bit % 8
    return [*path[:place], bytes(changed), *path[place + 1 :]]


@given(st.data())
def test_a_changed_proof_is_refused(drawn: st.DataObject) -> None:
    data = drawn.draw(st.lists(st.binary(max_size=4), min_size=2, max_size=70))
    size = len(data)
    tree = tree_of(data)
    index, old = drawn.draw(st.integers(0, size - 1)), drawn.draw(st.integers(1, size - 1))
    inclusion, consistency = tree.inclusion(index, size), tree.consistency(old, size)
    leaf, root, smaller = leaf_hash(data[index]), tree.root(size), tree.root(old)
    assert root == defined(data)
    assert holds(leaf, index, size, inclusion, root)
    assert follows(old, smaller, size, root, consistency)
    bit = drawn.draw(st.integers(0, 255))
    place = drawn.draw(st.integers(0, len(inclusion) - 1))
    for wrong in (flipped(inclusion, place, bit), inclusion[:-1], inclusion[1:], [*inclusion, root]):
        assert not holds(leaf, index, size, wrong, root)
    place = drawn.draw(st.integers(0, len(consistency) - 1))
    for wrong in (flipped(consistency, place, bit), consistency[:-1], [*consistency, root]):
        assert not follows(old, smaller, size, root, wrong)
    other = list(data)
    other[drawn.draw(st.integers(0, old - 1))] += b"!"  # history was changed
    assert not follows(old, smaller, size, tree_of(other).root(size), tree_of(other).consistency(old, size))


def test_what_there_is_not() -> None:
    tree = tree_of(leaves(3))
    for call, text in (
        (lambda: tree.root(4), r"^`size` must lie in \[0, 3\], got 4$"),
        (lambda: tree.inclusion(0, 0), r"^`size` must lie in \[1, 3\], got 0$"),
        (lambda: tree.inclusion(2, 2), r"^`index` must lie in \[0, 2\), got 2$"),
        (lambda: tree.consistency(3, 2), r"^`old` must lie in \[0, 2\], got 3$"),
    ):
        with pytest.raises(ValueError, match=text):
            call()
    assert not holds(leaf_hash(b"d0"), -1, 3, tree.inclusion(0, 3), tree.root(3))
    assert not follows(3, tree.root(3), 2, tree.root(2), [])
    assert not follows(0, tree.root(1), 2, tree.root(2), [])


def test_a_leaf_costs_constant_work(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastforget.serving.history import merkle

    counted, real = [0], merkle._node

    def counting(left: bytes, right: bytes) -> bytes:
        counted[0] += 1
        return real(left, right)

    monkeypatch.setattr(merkle, "_node", counting)
    tree = tree_of(leaves(5000))
    assert counted[0] < 5000
    counted[0] = 0
    tree.root(5000), tree.inclusion(1234, 4999), tree.consistency(1234, 4999)
    assert counted[0] < 5 * 13
