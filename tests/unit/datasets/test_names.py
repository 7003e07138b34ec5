"""Dataset versions are found by digest, prefix or name."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from spira.datasets.names import check_name, give_name, list_versions, require_undamaged, resolve
from spira.datasets.versions import load
from spira.domain.errors import InputError, IntegrityError
from spira.stores.artifacts import ArtifactStore

MARCH = datetime(2024, 3, 1, tzinfo=UTC)


def reopened(tmp_path: Path) -> ArtifactStore:
    """The store as another process finds it, with nothing verified yet."""
    return ArtifactStore.open(str(tmp_path / "store"), cache=tmp_path / "cache")


def test_a_version_is_found_by_digest_prefix_and_name(
    store: ArtifactStore, make_version: Any
) -> None:
    """All three mean the same recordings."""
    digest = make_version("mine").fingerprint

    for reference in (digest, digest[:6], digest[:20], "mine"):
        assert resolve(store, reference) == digest
        version = load(store, reference)
        assert version.digest == digest
        assert version.recordings["label"].to_list() == ["present", "absent"]
        assert version.summary.recordings.total == 2
        for sha256 in version.recordings["sha256"]:
            assert version.audio_path(sha256).read_bytes()[:4] == b"RIFF"


def test_a_name_means_its_latest_version(store: ArtifactStore, make_version: Any) -> None:
    """Older versions keep their digest; another name does not move."""
    first = make_version("mine", seed=1, at=MARCH).fingerprint
    make_version("other", seed=1, at=MARCH)
    second = make_version("mine", seed=2, at=MARCH + timedelta(days=1)).fingerprint

    assert resolve(store, "mine") == second
    assert resolve(store, "other") == first
    assert resolve(store, first) == first

    make_version("mine", seed=1, at=MARCH + timedelta(days=2))
    assert resolve(store, "mine") == first


def test_an_unknown_reference_names_the_nearest(store: ArtifactStore, make_version: Any) -> None:
    """Or says how to make the first."""
    with pytest.raises(InputError, match="'hospital': unknown; there is none yet"):
        resolve(store, "hospital")

    make_version("hospital-1")
    with pytest.raises(InputError, match="did you mean hospital-1"):
        resolve(store, "hospital")


def test_a_prefix_must_be_long_and_unique(store: ArtifactStore, make_version: Any) -> None:
    """Under 6 digits nothing is looked for; of two versions that begin so, neither is taken."""
    digest = make_version("mine").fingerprint
    with pytest.raises(InputError, match="too short for a digest; give at least 6 digits"):
        resolve(store, digest[:5])

    twin = digest[:8] + ("0" if digest[8] != "0" else "1") * 56
    store.commit("dataset", twin, {}, {"imported_at": MARCH.isoformat()})
    with pytest.raises(InputError, match="2 digests begin so; give more digits"):
        resolve(store, digest[:6])
    assert resolve(store, digest[:9]) == digest


def test_versions_are_listed_the_latest_first_with_their_names(
    store: ArtifactStore, make_version: Any
) -> None:
    """A version may have several names, or have lost the one it had."""
    make_version("a", seed=1, at=MARCH)
    make_version("b", seed=1, at=MARCH)
    make_version("c", seed=2, at=MARCH + timedelta(days=1))
    make_version("c", seed=3, at=MARCH + timedelta(days=2))

    listed = [(line.names, line.about["name"]) for line in list_versions(store)]

    assert listed == [(("c",), "c"), ((), "c"), (("a", "b"), "a")]


@pytest.mark.parametrize("name", ["", "a b", "á", "-x", "a" * 65, "../x", "0" * 64])
def test_names_that_could_be_mistaken_are_refused(name: str) -> None:
    """For a digest, an option or a path."""
    with pytest.raises(InputError, match="dataset name"):
        check_name(name)


def test_damage_is_told_and_not_passed_over(
    store: ArtifactStore, make_version: Any, tmp_path: Path
) -> None:
    """A manifest that cannot be read is no dataset that was never there."""
    digest = make_version("mine").fingerprint
    give_name(store, "mine", digest, MARCH)
    require_undamaged(store)
    (name,) = (tmp_path / "store/manifests/dataset-name").iterdir()
    name.write_bytes(b"damaged")

    with pytest.raises(IntegrityError, match="'mine': not among the names that can be read, and 1"):
        resolve(store, "mine")

    (tmp_path / "store/manifests/dataset" / f"{digest}.json").write_bytes(b"damaged")
    with pytest.raises(IntegrityError, match=f"{digest[:12]}: its manifest is damaged"):
        require_undamaged(reopened(tmp_path))
