"""Locks end with their holder."""

from pathlib import Path

import pytest

from spira.domain.errors import TransientError
from spira.stores.locks import is_held, locked


def test_a_lock_is_held_while_its_holder_works(tmp_path: Path) -> None:
    """Another one is refused meanwhile; asking leaves no file behind."""
    lock = tmp_path / "locks" / "one"
    assert not is_held(lock)
    assert not lock.exists()

    with locked(lock):
        assert is_held(lock)
        with pytest.raises(TransientError, match="one: another spira process is at work"):
            locked(lock, wait=False).__enter__()

    assert not is_held(lock)


def test_readers_share_a_lock(tmp_path: Path) -> None:
    """Several writers hold off `runs clean`, and not one another."""
    with locked(tmp_path / "one", shared=True), locked(tmp_path / "one", shared=True, wait=False):
        assert not is_held(tmp_path / "one")
        with pytest.raises(TransientError):
            locked(tmp_path / "one", wait=False).__enter__()
