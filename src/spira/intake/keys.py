"""The key ring: keys that sign receipts, hide record numbers, and seal spoken consents.

A folder holds one file a key, named by the key's id. A file is written once and never changed:
rotating makes another key, and the old ones stay, so that old receipts verify and old hashes are
found for ever. Processes that share the folder see each other's keys at once.

A record number is stored only as a keyed hash, with keys for each site:

    hash under key 1 = HMAC-SHA256(key 1, system | number)
    hash under key n = HMAC-SHA256(key n, hash under key n-1)

so that a stored hash is carried over to a new key without the number (`wrapped`), and a number
hashed anew comes out the same.

What is sealed has the id of its key in front, and opens for as long as that is in the ring.
"""

import base64
import errno
import hmac
import json
import re
import secrets
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, OKPKey
from pydantic import AwareDatetime, Field, TypeAdapter, ValidationError, model_validator

from spira.domain.errors import InputError, IntegrityError, TransientError
from spira.domain.fingerprint import canonical_json, fingerprint
from spira.domain.frozen import Frozen
from spira.stores.files import HALF, sync_names, sync_path, write_new, write_whole
from spira.stores.locks import locked
from spira.stores.objects import translated

Use = Literal["receipts", "records", "consents"]

RECORD_NUMBER = "record-number"  # the hospital's own: what a number is unless told
LONGEST_NUMBER = 100  # characters, as given

_ALGORITHM = "Ed25519"  # RFC 9864; "EdDSA" is its deprecated name
_SECRET_BYTES = 32
_ID_BYTES = 8
RECORDS_KEY_LENGTH = len("records-") + 2 * _ID_BYTES  # characters of an id
_RESTORING = "restoring"  # lies in the folder while keys are being restored
_BACKUP = "spira keys backup 1"
_SEALED = re.compile(rb"(spira sealed 1 (consents-[0-9a-f]{16})\n)(.*)", re.DOTALL)
_SHORTEST_PASSPHRASE = 12  # characters


class Key(Frozen):
    """What anybody may know of a key."""

    id: str = Field(pattern=r"^(receipts|records|consents)-[0-9a-f]{16}$")
    use: Use
    site: str | None  # whose record numbers; None for other uses
    number: int = Field(ge=1)  # of this use and site: 1 is the first, the highest is in use
    made_at: AwareDatetime


class _Secret(Key):
    """A key as its file has it."""

    secret: str = Field(repr=False)  # base64url of 32 bytes
    sha256: str  # of all the rest: a key that was changed must neither sign nor hash

    @model_validator(mode="after")
    def _as_made(self) -> "_Secret":
        if self.sha256 != self._digest():
            raise ValueError("not the key that was made")
        return self

    @classmethod
    def make(cls, use: Use, site: str | None, number: int) -> "_Secret":
        new = cls.model_construct(
            id=f"{use}-{secrets.token_hex(_ID_BYTES)}",
            use=use,
            site=site,
            number=number,
            made_at=datetime.now(UTC),
            secret=base64.urlsafe_b64encode(secrets.token_bytes(_SECRET_BYTES)).decode(),
            sha256="",
        )
        return new.model_copy(update={"sha256": new._digest()})

    def _digest(self) -> str:
        return fingerprint(self.model_dump(mode="json", exclude={"sha256"}))

    @property
    def raw(self) -> bytes:
        return base64.urlsafe_b64decode(self.secret)

    @property
    def jwk(self) -> OKPKey:
        pair = Ed25519PrivateKey.from_private_bytes(self.raw)
        return OKPKey.import_key(pair, {"kid": self.id, "use": "sig", "alg": _ALGORITHM})

    @property
    def siv(self) -> AESSIV:
        """AES-256-SIV wants 64 bytes."""
        return AESSIV(hmac.digest(self.raw, b"AES-256-SIV", "sha512"))

    @property
    def text(self) -> bytes:
        """The bytes of its file."""
        return (json.dumps(self.model_dump(mode="json"), indent=2) + "\n").encode()


_Ring = Mapping[tuple[Use, str | None], tuple[_Secret, ...]]  # in order of their numbers
_SECRETS = TypeAdapter(tuple[_Secret, ...])


class KeyRing:
    """The keys of one folder. One ring serves all threads of a process."""

    def __init__(self, folder: Path, *, separators: bool = False) -> None:
        """Look at what is there, make nothing; `open` is for what signs and hides.

        separators  of a record number count: `123-1` and `12-31` are two (intake.record_separators)
        """
        self._folder = folder
        self._separators = separators
        self._loaded: tuple[frozenset[str], _Ring] = (frozenset(), {})

    @classmethod
    def open(cls, folder: Path, *, separators: bool = False) -> "KeyRing":
        """The ring in a folder, made on first start: once, however many start at once.

        raises    InputError where others may read the folder or a key, or a restore was cut off;
                  IntegrityError for a key that is damaged or missing
        """
        ring = cls(folder, separators=separators)
        ring._make_folder()
        if ("receipts", None) not in ring._known():
            ring._make("receipts", None, after=0)
        return ring

    def list_keys(self) -> tuple[Key, ...]:
        """Every key without its secret, by use and site, the one in use first."""
        found = [key for keys in self._known().values() for key in keys]
        found.sort(key=lambda key: (key.use, key.site or "", -key.number))
        return tuple(Key(**key.model_dump(include=set(Key.model_fields))) for key in found)

    def sign(self, payload: bytes, *, typ: str) -> str:
        """A JWS (RFC 7515, compact) over exactly these bytes, by the newest key.

        typ       what is signed, so that one thing is never taken for another
        """
        *_, key = self._known()["receipts", None]
        header = {"alg": _ALGORITHM, "kid": key.id, "typ": typ}
        return jws.serialize_compact(header, payload, key.jwk, [_ALGORITHM])

    def public(self) -> dict[str, Any]:
        """The public keys that receipts verify with (JWKS, RFC 7517), the newest first."""
        keys = self._known().get(("receipts", None), ())
        return {"keys": [dict(key.jwk.as_dict(private=False)) for key in reversed(keys)]}

    def hash_record(self, site: str, number: str, *, system: str = RECORD_NUMBER) -> str:
        """A record number as it is stored: `KEYID:hex`, under the newest key of the site.

        Compared are letters and digits only, after Unicode's NFKC and in upper case: "12.345-a"
        and "12345A" are one number. Leading zeros count. Where separators count, so does where
        they stand, and not which they are: "123-1" and "123 / 1" are one number, "1231" another.
        system    which kind of number; equal numbers of two systems have different hashes
        raises    InputError for a number without letters or digits, or a very long one
        """
        return self.record_hashes(site, number, system=system)[0]

    def record_hashes(
        self, site: str, number: str, *, system: str = RECORD_NUMBER
    ) -> tuple[str, ...]:
        """As `hash_record`, under every key that the site ever had, the newest first.

        For look-up: `WHERE record IN (…)` finds what is not carried over yet.
        """
        value = f"{system}|{_normalised(number, self._separators)}".encode()
        self.make_for(site)
        hashes = []
        for key in self._known()["records", site]:
            value = hmac.digest(key.raw, value, "sha256")
            hashes.append(f"{key.id}:{value.hex()}")
        return tuple(reversed(hashes))

    def make_for(self, site: str) -> None:
        """Make the key for the record numbers of a site, where it has none yet.

        raises    TransientError where none can be made: the folder may only be read, as where
                  each process has a copy, and must not hold a key that no other one has
        """
        self._make_first("records", site, f"the record numbers of site {site}")

    def make_for_consents(self) -> None:
        """Make the key for spoken consents, where there is none yet.

        raises    TransientError as `make_for`
        """
        self._make_first("consents", None, "spoken consents")

    def wrapped(self, stored: str) -> str:
        """A stored hash, carried over to the newest key of its site.

        raises    IntegrityError when its key is not in the ring, or it is no hash
        """
        name, _, digits = stored.partition(":")
        for keys in self._known().values():
            for place, key in enumerate(keys):
                if key.id == name and key.use == "records" and len(digits) == 64:
                    value = bytes.fromhex(digits)
                    for newer in keys[place + 1 :]:
                        value = hmac.digest(newer.raw, value, "sha256")
                    return f"{keys[-1].id}:{value.hex()}"
        raise _not_here(name, self._folder)

    def seal(self, data: bytes, *, about: str) -> bytes:
        """A spoken consent as it is stored: what only this ring can read, under its newest key.

        The same bytes are sealed the same, so that storing them twice stores one thing.
        about     the object that it is stored as; `unseal` must be told the same
        raises    TransientError as `make_for`
        """
        self.make_for_consents()
        *_, key = self._known()["consents", None]
        head = f"spira sealed 1 {key.id}\n".encode()
        return head + key.siv.encrypt(data, [head, about.encode()])

    def unseal(self, sealed: bytes, *, about: str) -> bytes:
        """What was sealed, under the newest key or an older one.

        raises    IntegrityError when its key is not in the ring, or it is not what was sealed as
                  this object
        """
        head, id, body = _parts(sealed, about)
        for key in self._known().get(("consents", None), ()):
            if key.id == id:
                try:
                    return key.siv.decrypt(body, [head, about.encode()])
                except InvalidTag:
                    raise _not_sealed(about) from None
        raise _not_here(id, self._folder)

    def require(self, ids: Iterable[str]) -> None:
        """See that keys which were used are here.

        raises    IntegrityError for one that is not: what it hid would be found no more
        """
        known = {key.id for keys in self._known().values() for key in keys}
        for id in ids:
            if id not in known:
                raise _not_here(id, self._folder)

    def rotate(self, use: Use, site: str | None = None) -> Key:
        """Make the next key, which is in use from now on; returns it.

        raises    InputError when there is none yet
        """
        keys = self._known().get((use, site))
        if not keys:
            raise InputError(
                f"keys for {use}{'' if site is None else f' of site {site}'}: there are none yet; "
                "the first is made when it is needed. `spira keys list` shows what there is"
            )
        self._make(use, site, after=len(keys))
        return next(key for key in self.list_keys() if (key.use, key.site) == (use, site))

    def backup(self, file: Path, passphrase: str) -> tuple[Key, ...]:
        """Write every key to a new file, encrypted; returns them.

        raises    InputError when there is nothing to save, the file is there already or cannot
                  be made, or the passphrase is too short
        """
        keys = self.list_keys()
        if not keys:
            raise InputError(f"keys folder {self._folder}: holds no keys; there is nothing to save")
        secret = [key for keys in self._known().values() for key in keys]
        data = _sealed(secret, passphrase)
        with translated("writing a backup", file.parent):
            try:
                write_new(file, data)
            except FileExistsError:
                raise InputError(f"{file}: is there already; a backup overwrites nothing") from None
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise
                why = str(error.strerror).lower()
                raise InputError(f"{file}: cannot be made ({why})") from error
            sync_path(file.parent)
        return keys

    @classmethod
    def restore(cls, folder: Path, file: Path, passphrase: str) -> "KeyRing":
        """Bring the keys of a backup into a folder that holds no others.

        When it is cut off, the folder is refused until the same restore has been run again.
        raises    InputError for a wrong passphrase, what is no backup, or a folder with other keys
        """
        keys = _unsealed(file, passphrase)
        ring = cls(folder)
        ring._make_folder()
        with ring._at_work("restoring keys"):
            others = ring._names() - {_RESTORING} - {f"{key.id}.json" for key in keys}
            if others:
                raise InputError(
                    f"keys folder {folder}: holds {len(others)} keys that are not in {file}; "
                    "restore into an empty folder (move it away, do not delete it)"
                )
            write_whole(folder / _RESTORING, b"run the same `spira keys restore` again\n")
            for key in keys:
                write_whole(folder / f"{key.id}.json", key.text)
            (folder / _RESTORING).unlink()
            sync_path(folder)
        ring._known()
        return ring

    def _known(self) -> _Ring:
        """Every key. Files never change, so that their names tell whether anything is new."""
        with translated("reading keys", self._folder):
            names = self._names()
            if _RESTORING in names:
                raise InputError(
                    f"keys folder {self._folder}: keys are being restored, or a restore was cut "
                    "off; run the same `spira keys restore` again"
                )
            if not names >= self._loaded[0]:
                raise _damaged(self._folder, f"{len(self._loaded[0] - names)} keys are gone")
            if names != self._loaded[0]:
                _require_private(self._folder)
                # Whoever made them may have been killed before their names were on the disk.
                sync_path(self._folder)
                self._loaded = (names, _ordered(self._read(name) for name in sorted(names)))
        return self._loaded[1]

    def _names(self) -> frozenset[str]:
        try:
            found = [path.name for path in self._folder.iterdir()]
        except FileNotFoundError:
            return frozenset()
        except NotADirectoryError:
            raise _in_its_place(self._folder) from None
        return frozenset(name for name in found if name.endswith(".json") or name == _RESTORING)

    def _read(self, name: str) -> _Secret:
        path = self._folder / name
        try:
            _require_private(path)
            key = _Secret.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise _damaged(path, "is gone") from None
        except ValidationError:  # its words would hold the secret
            raise _damaged(path, "is damaged") from None
        if name != f"{key.id}.json":
            raise _damaged(path, f"holds key {key.id}")
        return key

    def _make_folder(self) -> None:
        with translated("making the keys folder", self._folder):
            try:
                self._folder.parent.mkdir(parents=True, exist_ok=True)
                self._folder.mkdir(mode=0o700, exist_ok=True)
            except (FileExistsError, NotADirectoryError):
                raise _in_its_place(self._folder) from None
            sync_names(self._folder)
            _require_private(self._folder)

    def _make_first(self, use: Use, site: str | None, what: str) -> None:
        if (use, site) in self._known():
            return
        try:
            self._make(use, site, after=0)
        except InputError as error:
            if not isinstance(error.__cause__, OSError):
                raise
            raise TransientError(
                f"keys folder {self._folder}: no key for {what}, and none can be made here; "
                f"`spira keys create {site or 'SITE'}` makes it where the folder may be written"
            ) from error

    def _make(self, use: Use, site: str | None, *, after: int) -> None:
        """Make the key that follows number `after`, unless somebody has made it meanwhile."""
        with self._at_work("making a key"):
            if len(self._known().get((use, site), ())) > after:
                return
            key = _Secret.make(use, site, after + 1)
            write_whole(self._folder / f"{key.id}.json", key.text)

    @contextmanager
    def _at_work(self, doing: str) -> Iterator[None]:
        """Alone with the folder; what a kill left half-written is gone."""
        with translated(doing, self._folder), locked(self._folder / "lock"):
            for left in self._folder.glob(f"*{HALF}"):
                left.unlink()
            yield


def verify(token: str, keys: Mapping[str, Any], *, typ: str) -> bytes:
    """The bytes that were signed.

    keys      public keys, as `KeyRing.public` gives them
    typ       what it must be a signature of
    raises    IntegrityError when no key of these has signed exactly this, as this
    """
    try:
        known = KeySet.import_key_set({"keys": list(keys["keys"])})
        signed = jws.deserialize_compact(token, known, [_ALGORITHM])
        header = signed.headers()
    except (JoseError, ValueError, TypeError, KeyError) as error:
        raise IntegrityError(
            f"{typ}: the signature does not fit any key given ({type(error).__name__}); "
            "keep what you have, and ask for the keys and the receipt again"
        ) from error
    if header.get("typ") != typ:
        raise IntegrityError(f"{typ}: signed as something else; keep what you have, and ask again")
    return signed.payload


def signed_with(token: str) -> str:
    """The id of the key that a token says it was signed with; nothing is verified."""
    return str(jws.extract_compact(token.encode()).headers()["kid"])


def sealed_with(sealed: bytes, *, about: str) -> str:
    """The id of the key that an object says it was sealed with; nothing is verified.

    raises    IntegrityError for what was never sealed
    """
    _, id, _ = _parts(sealed, about)
    return id


def _parts(sealed: bytes, about: str) -> tuple[bytes, str, bytes]:
    found = _SEALED.fullmatch(sealed)
    if found is None:
        raise _not_sealed(about)
    return found[1], found[2].decode(), found[3]


def _normalised(number: str, separators: bool) -> str:
    if len(number) > LONGEST_NUMBER:
        raise InputError(f"record number: longer than {LONGEST_NUMBER} characters")
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", number).upper())
    seen = (letter for letter in text if unicodedata.category(letter) != "Cf")  # others are copied
    parts = "".join(letter if letter.isalnum() else " " for letter in seen).split()
    if not parts:
        raise InputError("record number: no letter or digit in it")
    return ("-" if separators else "").join(parts)


def _ordered(keys: Iterable[_Secret]) -> _Ring:
    """By use and site.

    raises    IntegrityError where one is missing: with it gone, hashes would silently differ
    """
    ring: dict[tuple[Use, str | None], tuple[_Secret, ...]] = {}
    for key in sorted(keys, key=lambda key: key.number):
        before = ring.get((key.use, key.site), ())
        if key.number != len(before) + 1:
            raise IntegrityError(
                f"key {key.id}: number {key.number} for {key.use}, but {len(before)} before it; "
                "restore the keys from a backup (`spira keys restore FILE`)"
            )
        ring[key.use, key.site] = (*before, key)
    return ring


def _require_private(path: Path) -> None:
    """raises    InputError where others than the owner may read or write"""
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        right = "700" if path.is_dir() else "600"
        raise InputError(
            f"{path}: others may use it (mode {mode:o}), and it holds keys; chmod {right} it, and "
            "rotate the keys if anybody may have read them"
        )


def _sealed(keys: Iterable[_Secret], passphrase: str) -> bytes:
    """A backup: JSON whose `sealed` is the keys, by AES-256-GCM under scrypt of the passphrase.

    The other fields are authenticated with it, and readable without the passphrase.
    """
    salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
    listed = sorted(keys, key=lambda key: key.id)
    head = {
        "format": _BACKUP,
        "made_at": datetime.now(UTC).isoformat(),
        "keys": [key.id for key in listed],
        "salt": base64.urlsafe_b64encode(salt).decode(),
        "nonce": base64.urlsafe_b64encode(nonce).decode(),
    }
    plain = _SECRETS.dump_json(tuple(listed))
    sealed = AESGCM(_stretched(passphrase, salt)).encrypt(nonce, plain, canonical_json(head))
    return (
        json.dumps({**head, "sealed": base64.urlsafe_b64encode(sealed).decode()}, indent=2) + "\n"
    ).encode()


def _unsealed(file: Path, passphrase: str) -> tuple[_Secret, ...]:
    try:
        head = json.loads(file.read_bytes())
        known = head["format"] == _BACKUP
        sealed, salt, nonce = (
            base64.urlsafe_b64decode(text)
            for text in (head.pop("sealed"), head["salt"], head["nonce"])
        )
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({str(error.strerror).lower()})") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        known = False
    if not known:
        raise InputError(f"{file}: no backup that `spira keys backup` of this version made")
    try:
        plain = AESGCM(_stretched(passphrase, salt)).decrypt(nonce, sealed, canonical_json(head))
    except (InvalidTag, ValueError):  # ValueError: for a nonce of no bytes
        raise InputError(
            f"{file}: another passphrase, or the file is damaged; its keys stay sealed"
        ) from None
    keys = _SECRETS.validate_json(plain)
    _ordered(keys)
    return keys


def _stretched(passphrase: str, salt: bytes) -> bytes:
    """An AES key; 128 MiB and half a second for each guess."""
    if len(passphrase) < _SHORTEST_PASSPHRASE:
        raise InputError(
            f"passphrase: shorter than {_SHORTEST_PASSPHRASE} characters; it could be guessed"
        )
    words = passphrase.encode("utf-8", "surrogateescape")
    return Scrypt(salt=salt, length=32, n=2**17, r=8, p=1).derive(words)


def _not_here(id: str, folder: Path) -> IntegrityError:
    return IntegrityError(
        f"keys folder {folder}: key {id!r} was used and is not here; restore the keys from the "
        "newest backup (`spira keys restore FILE`)"
    )


def _not_sealed(about: str) -> IntegrityError:
    return IntegrityError(f"{about}: is not what was sealed; restore it from a backup")


def _in_its_place(folder: Path) -> InputError:
    return InputError(f"keys folder {folder}: a file is in its place; move it away")


def _damaged(path: Path, what: str) -> IntegrityError:
    return IntegrityError(
        f"{path}: {what}; restore the keys from a backup (`spira keys restore FILE`)"
    )
