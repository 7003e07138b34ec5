"""The key ring: what it signs and hides, for ever, and what it refuses."""

import base64
import errno
import hashlib
import hmac
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from hypothesis import given, settings
from hypothesis import strategies as st

from spira.domain.errors import InputError, IntegrityError, TransientError
from spira.intake.keys import KeyRing, sealed_with, verify

PASSPHRASE = "uma frase que ninguém adivinha"


_opened = Path.open


def read_only(path: Path, mode: str = "r", **how: Any) -> Any:
    """`Path.open` where nothing can be written; root may write whatever the mode is."""
    if mode != "rb":
        raise OSError(errno.EROFS, "Read-only file system", str(path))
    return _opened(path, mode, **how)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a ring is made."""
    return tmp_path / "keys"


def files(folder: Path) -> dict[str, bytes]:
    """Every key file and its bytes."""
    return {path.name: path.read_bytes() for path in folder.glob("*.json")}


def test_a_ring_is_for_its_owner_alone(folder: Path) -> None:
    """Whatever the umask is, nobody else can read the folder or a key, whoever made it."""
    ring = KeyRing.open(folder)
    ring.hash_record("ward", "1")

    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.glob("*.json")} == {0o600}
    assert len(files(folder)) == 2


@pytest.mark.parametrize(
    ("what", "mode", "says"),
    [
        ("", 0o750, r"keys: others may use it \(mode 750\).*chmod 700"),
        ("", 0o701, r"mode 701"),
        ("*.json", 0o640, r"\.json: others may use it \(mode 640\).*chmod 600"),
        ("*.json", 0o604, r"mode 604"),
    ],
)
def test_a_ring_that_others_may_read_is_refused(
    folder: Path, what: str, mode: int, says: str
) -> None:
    """In a sentence that says what to do; nothing is signed with it."""
    KeyRing.open(folder)
    place = next(folder.glob(what)) if what else folder
    place.chmod(mode)

    with pytest.raises(InputError, match=says):
        KeyRing.open(folder)
    with pytest.raises(InputError, match=says):
        KeyRing(folder).list_keys()


def test_a_file_in_the_place_of_the_folder_is_told(folder: Path) -> None:
    """It may be anything; it is left alone."""
    folder.write_text("notes")

    with pytest.raises(InputError, match="a file is in its place"):
        KeyRing.open(folder)
    with pytest.raises(InputError, match="a file is in its place"):
        KeyRing(folder).list_keys()
    assert folder.read_text() == "notes"


def test_looking_makes_nothing(folder: Path) -> None:
    """Neither keys nor a folder; and what is not there cannot be rotated or saved."""
    ring = KeyRing(folder)

    assert ring.list_keys() == ()
    with pytest.raises(InputError, match="keys for receipts: there are none yet"):
        ring.rotate("receipts")
    with pytest.raises(InputError, match="holds no keys"):
        ring.backup(folder.parent / "saved", PASSPHRASE)
    assert not folder.exists()


def test_a_signature_is_over_exactly_the_bytes(folder: Path) -> None:
    """A JWS whose payload is what was given, with the id of the key and what it is."""
    ring = KeyRing.open(folder)
    payload = b'{"b": 1,\n "a": "\xc3\xa3"}'

    token = ring.sign(payload, typ="thing")

    head, body, _ = token.split(".")
    padded = [base64.urlsafe_b64decode(part + "==") for part in (head, body)]
    assert padded[1] == payload
    assert json.loads(padded[0]) == {
        "alg": "Ed25519",
        "kid": ring.list_keys()[0].id,
        "typ": "thing",
    }
    assert verify(token, ring.public(), typ="thing") == payload


def changed(token: str, part: int) -> str:
    """Another character in the middle of one part."""
    parts = token.split(".")
    middle = len(parts[part]) // 2
    letter = "A" if parts[part][middle] != "A" else "B"
    parts[part] = parts[part][:middle] + letter + parts[part][middle + 1 :]
    return ".".join(parts)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda token: changed(token, 0),
        lambda token: changed(token, 1),
        lambda token: changed(token, 2),
        lambda token: token.rpartition(".")[0],
        lambda token: token.rpartition(".")[0] + ".",
        lambda token: "",
        lambda token: "ã.ã.ã",
        lambda token: "\ud800",
    ],
)
def test_what_was_not_signed_is_found(folder: Path, spoil: Callable[[str], str]) -> None:
    """Changed anywhere, cut, or no signature at all."""
    ring = KeyRing.open(folder)
    with pytest.raises(IntegrityError, match="thing: "):
        verify(spoil(ring.sign(b"payload", typ="thing")), ring.public(), typ="thing")


def test_a_signature_counts_for_its_key_its_algorithm_and_its_kind(folder: Path) -> None:
    """Not for other keys, not as `none` or HMAC with a public key, not as another thing."""
    ring, other = KeyRing.open(folder), KeyRing.open(folder.parent / "other")
    token = ring.sign(b"payload", typ="thing")
    _, body, _ = token.split(".")

    def forged(alg: str) -> str:
        head = json.dumps({"alg": alg, "kid": ring.list_keys()[0].id, "typ": "thing"}).encode()
        start = base64.urlsafe_b64encode(head).decode().rstrip("=") + "." + body
        key = ring.public()["keys"][0]["x"].encode()
        mac = hmac.digest(key, start.encode(), "sha256") if alg == "HS256" else b""
        return start + "." + base64.urlsafe_b64encode(mac).decode().rstrip("=")

    for wrong, keys, typ in (
        (token, other.public(), "thing"),
        (token, {"keys": []}, "thing"),
        (token, {}, "thing"),
        (token, ring.public(), "other thing"),
        (forged("none"), ring.public(), "thing"),
        (forged("HS256"), ring.public(), "thing"),
    ):
        with pytest.raises(IntegrityError):
            verify(wrong, keys, typ=typ)


def test_published_keys_hold_no_secret(folder: Path) -> None:
    """Nor does anything else that a ring shows; old keys are published too, the newest first."""
    ring = KeyRing.open(folder)
    ring.rotate("receipts")
    ring.hash_record("ward", "1")

    shown = json.dumps(ring.public()) + repr(ring.public()) + repr(ring.list_keys())

    secrets = [json.loads(data)["secret"] for data in files(folder).values()]
    assert len(secrets) == 3
    assert not any(secret.rstrip("=") in shown for secret in secrets)
    public = ring.public()["keys"]
    assert all(set(key) == {"kty", "crv", "x", "kid", "use", "alg"} for key in public)
    assert [key["kid"] for key in public] == [
        key.id for key in ring.list_keys() if key.use == "receipts"
    ]


def test_a_hash_is_the_one_that_is_documented(folder: Path) -> None:
    """HMAC-SHA256 under the first key of system | number, then of the hash under each next key."""
    ring = KeyRing.open(folder)
    first = ring.hash_record("ward", "12.345-a")
    ring.rotate("records", "ward")
    second = ring.hash_record("ward", "12345A")

    kept = {key["id"]: key for key in map(json.loads, files(folder).values())}
    one, two = (base64.urlsafe_b64decode(kept[h.split(":")[0]]["secret"]) for h in (first, second))
    inner = hmac.new(one, b"record-number|12345A", hashlib.sha256)
    outer = hmac.new(two, inner.digest(), hashlib.sha256)
    assert first.split(":")[1] == inner.hexdigest()
    assert second.split(":")[1] == outer.hexdigest()
    assert ring.record_hashes("ward", "12345a") == (second, first)


def test_a_site_without_a_key_waits_where_none_can_be_made(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of the keys may only be read. That is nobody's mistake at a bed: it is tried again,
    and who made the site's key beforehand is not asked for another."""
    ring = KeyRing.open(folder)
    ring.make_for("ward")

    monkeypatch.setattr(Path, "open", read_only)

    assert ring.hash_record("ward", "1")
    with pytest.raises(TransientError, match=r"of site other.*`spira keys create other` makes it"):
        ring.hash_record("other", "1")
    assert [key.site for key in ring.list_keys() if key.use == "records"] == ["ward"]


def test_a_spoken_consent_waits_where_no_key_can_be_made(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a site's record numbers do; where the key was made beforehand, it is used."""
    ring = KeyRing.open(folder)
    monkeypatch.setattr(Path, "open", read_only)

    with pytest.raises(
        TransientError, match=r"no key for spoken consents.*`spira keys create SITE"
    ):
        ring.seal(b"eu aceito", about="consents/1")
    monkeypatch.undo()
    ring.make_for_consents()
    monkeypatch.setattr(Path, "open", read_only)

    assert ring.unseal(ring.seal(b"eu aceito", about="x"), about="x") == b"eu aceito"


def test_what_is_sealed_is_as_documented(folder: Path) -> None:
    """Whoever has the keys, and no SPIRA, opens it in years to come."""
    ring = KeyRing.open(folder)
    sealed = ring.seal(b"eu aceito", about="consents/1.original")

    (kept,) = (json.loads(data) for name, data in files(folder).items() if "consents" in name)
    secret = base64.urlsafe_b64decode(kept["secret"])
    siv = AESSIV(hmac.digest(secret, b"AES-256-SIV", "sha512"))
    head = f"spira sealed 1 {kept['id']}\n".encode()
    assert sealed[: len(head)] == head
    told = [head, b"consents/1.original"]
    assert siv.decrypt(sealed[len(head) :], told) == b"eu aceito"


def test_what_is_sealed_twice_is_the_same_and_opens_after_every_rotation(folder: Path) -> None:
    """New ones are sealed under the newest key; also by a ring that was restored from a backup."""
    ring = KeyRing.open(folder)
    old = ring.seal(b"eu aceito", about="x")
    assert ring.seal(b"eu aceito", about="x") == old
    rotated = ring.rotate("consents")
    new = ring.seal(b"eu aceito", about="x")
    ring.backup(folder.parent / "saved.json", PASSPHRASE)

    restored = KeyRing.restore(
        folder.parent / "elsewhere", folder.parent / "saved.json", PASSPHRASE
    )

    assert sealed_with(new, about="x") == rotated.id != sealed_with(old, about="x")
    assert new != old
    for one in (ring, restored):
        assert [one.unseal(sealed, about="x") for sealed in (old, new)] == [b"eu aceito"] * 2


def test_what_was_not_sealed_so_is_told(folder: Path) -> None:
    """One bit that is another, a piece that is missing, another object's name, another ring."""
    ring = KeyRing.open(folder)
    sealed = ring.seal(b"eu aceito", about="consents/1")
    head = sealed.index(b"\n") + 1
    changed = [
        sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :] for at in range(len(sealed))
    ]
    cut = [sealed[:length] for length in (0, 5, head - 1, head, head + 3, len(sealed) - 1)]

    for other in (*changed, *cut, b"eu aceito", sealed + b"x"):
        with pytest.raises(IntegrityError, match=r"consents/1: is not what was sealed|is not here"):
            ring.unseal(other, about="consents/1")
    with pytest.raises(IntegrityError, match="consents/2: is not what was sealed"):
        ring.unseal(sealed, about="consents/2")
    with pytest.raises(IntegrityError, match=r"key 'consents-.*' was used and is not here"):
        KeyRing.open(folder.parent / "other").unseal(sealed, about="consents/1")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("12.345-a", "12345A", True),
        (" 12345/6 ", "123456", True),
        ("１２３４５", "12345", True),  # full width
        ("e\u0301 1", "É1", True),  # composed and not
        ("ﬁ1", "FI1", True),
        ("straße", "STRASSE", True),
        ("1\u200b2\u00a03", "123", True),
        ("012345", "12345", False),
        ("12345", "12354", False),
        ("A1", "Á1", False),
        ("12345A", "12345", False),
    ],
)
def test_numbers_are_compared_by_their_letters_and_digits(
    folder: Path, one: str, other: str, same: bool
) -> None:
    """As people write them: with dots, dashes, spaces, in either case; leading zeros count."""
    ring = KeyRing.open(folder)
    assert (ring.hash_record("ward", one) == ring.hash_record("ward", other)) is same


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("123-1", "12-31", False),
        ("123-1", "1231", False),
        ("123-1", "123 / 1", True),
        ("  123-1. ", "123-1", True),
        ("123\u20131", "123\u22121", True),  # a dash, a minus
        ("12\u200b3-1", "123-1", True),  # what nobody sees separates nothing
    ],
)
def test_where_separators_count_members_of_two_families_are_two(
    folder: Path, one: str, other: str, same: bool
) -> None:
    """By where they stand, and not by which they are; elsewhere they do not count."""
    ring = KeyRing.open(folder, separators=True)

    assert (ring.hash_record("ward", one) == ring.hash_record("ward", other)) is same
    plain = KeyRing.open(folder)
    assert plain.hash_record("ward", one) == plain.hash_record("ward", other)


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> KeyRing:
    """A ring that nothing rotates."""
    return KeyRing.open(tmp_path_factory.mktemp("ring") / "keys")


@given(text=st.text(max_size=40))
@settings(deadline=None)
def test_any_text_is_a_number_or_has_no_letter_and_no_digit(ring: KeyRing, text: str) -> None:
    """Traps of Unicode break nothing; what stands around a number changes nothing."""
    if any(letter.isalnum() for letter in text):
        assert ring.hash_record("ward", f" {text}\n") == ring.hash_record("ward", text)
    else:
        with pytest.raises(InputError, match="no letter or digit in it"):
            ring.hash_record("ward", text)


def test_equal_numbers_of_two_sites_or_systems_are_two_people(folder: Path) -> None:
    """Number 12345 of two hospitals, or a CPF with the digits of a record number."""
    ring = KeyRing.open(folder)
    hashes = {
        ring.hash_record(site, "12345", system=system).split(":")[1]
        for site in ("ward", "clinic")
        for system in ("record-number", "https://saude.gov.br/fhir/sid/cpf")
    }
    assert len(hashes) == 4


@pytest.mark.parametrize("number", ["", " ", "--/.", "\ud800", "1" * 101])
def test_what_is_no_number_is_refused(folder: Path, number: str) -> None:
    """Without a word of what was given."""
    ring = KeyRing.open(folder)
    with pytest.raises(InputError, match="record number: ") as refused:
        ring.hash_record("ward", number)
    assert "1" * 20 not in str(refused.value)


SITES = ("ward", "clinic")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("hash"), st.sampled_from(SITES), st.sampled_from(["1", "2", "3"])),
        st.tuples(st.just("rotate"), st.sampled_from([*SITES, None]), st.none()),
        st.tuples(st.just("sign"), st.none(), st.none()),
        st.tuples(st.just("start again"), st.none(), st.none()),
    ),
    max_size=12,
)


@given(STEPS)
@settings(max_examples=40, deadline=None)
def test_whatever_is_rotated_when_old_receipts_and_hashes_hold(
    steps: list[tuple[str, str | None, str | None]],
) -> None:
    """Receipts verify; a stored hash carried over is what its number hashes to now, and no other's;
    and it is among those that a look-up asks for."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "keys"
        ring = KeyRing.open(folder)
        signed: list[tuple[bytes, str]] = []
        stored: list[tuple[str, str, str]] = []
        for what, site, number in steps:
            if what == "hash" and site and number:
                stored.append((site, number, ring.hash_record(site, number)))
            elif what == "sign":
                payload = f"receipt {len(signed)}".encode()
                signed.append((payload, ring.sign(payload, typ="r")))
            elif what == "start again":
                ring = KeyRing.open(folder)
            elif site is None:
                ring.rotate("receipts")
            elif any(key.site == site for key in ring.list_keys()):
                ring.rotate("records", site)

        for payload, token in signed:
            assert verify(token, ring.public(), typ="r") == payload
        for site, number, hashed in stored:
            assert ring.wrapped(hashed) == ring.hash_record(site, number)
            assert ring.wrapped(ring.wrapped(hashed)) == ring.wrapped(hashed)
            assert hashed in ring.record_hashes(site, number)
            for other in {"1", "2", "3"} - {number}:
                assert ring.wrapped(hashed) != ring.hash_record(site, other)
                assert hashed not in ring.record_hashes(site, other)


def test_rings_of_one_folder_see_each_others_keys_at_once(folder: Path) -> None:
    """Also while they are open: processes need no restart after a rotation."""
    one, two = KeyRing.open(folder), KeyRing.open(folder)
    hashed = one.hash_record("ward", "1")
    assert two.hash_record("ward", "1") == hashed

    one.rotate("records", "ward")
    newest = one.rotate("receipts")

    assert two.hash_record("ward", "1") == one.wrapped(hashed) != hashed
    token = two.sign(b"x", typ="t")
    assert verify(token, {"keys": one.public()["keys"][:1]}, typ="t") == b"x"
    assert two.list_keys() == one.list_keys()
    assert newest in two.list_keys()


@pytest.mark.parametrize("stored", ["", "1234", "records-0000000000000000:" + "0" * 64])
def test_a_hash_whose_key_is_not_there_is_told(folder: Path, stored: str) -> None:
    """Another ring was there when it was stored: that must not look like another person."""
    ring = KeyRing.open(folder)
    with pytest.raises(IntegrityError, match=r"key .* is not here; restore the keys"):
        ring.wrapped(stored)


def test_a_key_that_was_changed_is_not_used(folder: Path) -> None:
    """Not for one bit, or a word, of its file; the error names the file, never its secret."""
    ring = KeyRing.open(folder)
    ring.hash_record("ward", "1")
    for name, whole in files(folder).items():
        kept = json.loads(whole)
        other = base64.urlsafe_b64encode(bytes(32)).decode()
        for changed in (
            whole.replace(kept["secret"].encode(), other.encode()),
            whole.replace(b'"number": 1', b'"number": 2'),
            whole.replace(b'"made_at": "2', b'"made_at": "3'),
            whole.replace(b'"site": "ward"', b'"site": "clinic"').replace(b"null", b'"x"'),
            whole[:-20],
            b"",
            b"\x00" * len(whole),
        ):
            (folder / name).write_bytes(changed)
            with pytest.raises(IntegrityError, match=rf"{name}: is damaged; restore") as told:
                KeyRing.open(folder)
            assert kept["secret"][:-2] not in str(told.value)
            assert told.value.__cause__ is None
        (folder / name).write_bytes(whole)
    (folder / name).rename(folder / f"x{name}")
    with pytest.raises(IntegrityError, match="holds key"):
        KeyRing.open(folder)


def test_a_key_that_is_missing_is_missed(folder: Path) -> None:
    """An old one, by whoever starts; any, by a ring that had it: it makes no other in its place."""
    ring = KeyRing.open(folder)
    hashed = ring.hash_record("ward", "1")
    ring.rotate("records", "ward")
    first = folder / f"{hashed.split(':')[0]}.json"
    away = folder.parent / "away"

    first.rename(away)
    with pytest.raises(IntegrityError, match=r"number 2 for records, but 0 before it"):
        KeyRing.open(folder)
    with pytest.raises(IntegrityError, match="1 keys are gone"):
        ring.hash_record("ward", "1")
    away.rename(first)
    folder.rename(away)
    with pytest.raises(IntegrityError, match="3 keys are gone"):
        ring.hash_record("ward", "1")
    with pytest.raises(IntegrityError, match="3 keys are gone"):
        ring.sign(b"x", typ="t")
    away.rename(folder)
    assert ring.record_hashes("ward", "1")[1] == hashed


def test_a_backup_brings_the_ring_back(folder: Path) -> None:
    """The same files, byte for byte; it shows ids, hides secrets, and is for its owner alone."""
    ring = KeyRing.open(folder)
    ring.hash_record("ward", "1")
    ring.rotate("records", "ward")
    file = folder.parent / "saved.json"
    ring.backup(file, PASSPHRASE)
    elsewhere = folder.parent / "elsewhere"

    restored = KeyRing.restore(elsewhere, file, PASSPHRASE)

    assert files(elsewhere) == files(folder)
    assert restored.list_keys() == ring.list_keys()
    assert elsewhere.stat().st_mode & 0o777 == 0o700
    assert file.stat().st_mode & 0o777 == 0o600
    text = file.read_text()
    assert all(key.id in text for key in ring.list_keys())
    assert not any(
        json.loads(data)["secret"].rstrip("=") in text for data in files(folder).values()
    )
    KeyRing.restore(elsewhere, file, PASSPHRASE)  # twice is once
    with pytest.raises(InputError, match="is there already"):
        ring.backup(file, PASSPHRASE)


def test_a_backup_is_restored_over_no_other_keys(folder: Path) -> None:
    """Newer keys of the same ring are others too."""
    ring = KeyRing.open(folder)
    file = folder.parent / "saved.json"
    ring.backup(file, PASSPHRASE)
    ring.rotate("receipts")
    before = files(folder)

    with pytest.raises(InputError, match="holds 1 keys that are not in"):
        KeyRing.restore(folder, file, PASSPHRASE)
    assert files(folder) == before
    KeyRing.open(folder)


def test_a_backup_opens_with_its_passphrase_alone(folder: Path) -> None:
    """A damaged or foreign file, a wrong or short passphrase: a sentence, and nothing is made."""
    ring = KeyRing.open(folder)
    file, elsewhere = folder.parent / "saved.json", folder.parent / "elsewhere"
    with pytest.raises(InputError, match="shorter than 12"):
        ring.backup(file, "short")
    assert not file.exists()
    ring.backup(file, PASSPHRASE)
    good = json.loads(file.read_text())

    with pytest.raises(InputError, match="another passphrase"):
        KeyRing.restore(elsewhere, file, PASSPHRASE + "!")
    for spoiled, says in (
        (good | {"keys": []}, "another passphrase, or the file is damaged"),
        (good | {"nonce": ""}, "another passphrase, or the file is damaged"),
        (good | {"format": "spira keys backup 2"}, "no backup that"),
        ([], "no backup that"),
        ({}, "no backup that"),
    ):
        file.write_text(json.dumps(spoiled))
        with pytest.raises(InputError, match=says):
            KeyRing.restore(elsewhere, file, PASSPHRASE)
    file.write_bytes(b"\xff\x00")
    with pytest.raises(InputError, match="no backup that"):
        KeyRing.restore(elsewhere, file, PASSPHRASE)
    with pytest.raises(InputError, match="cannot be read"):
        KeyRing.restore(elsewhere, folder.parent / "nothing", PASSPHRASE)
    assert not elsewhere.exists()
