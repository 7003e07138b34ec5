"""What an app on a device does, as a library: record without a network, send when there is one.

An `Outbox` is a folder. What is recorded is put there, whole, on stable storage; `sync` sends
everything, until the server's receipt for each one is stored here too. It may be killed at any
moment, and be called again as often as anybody likes. Nothing is deleted here that the server has
not signed for, or told to erase, and nothing gets another id unless the server knows that one as
something else.

    lock
    KINDs/ID/KIND.json     how it is sent; another revision replaces it whole
    KINDs/ID/RECORDING     the bytes, until they are in a receipt
    KINDs/ID/receipt       the server's, checked; while it is not there, we send
    keys/SERVER.json       the public keys that receipts of this server verify with
    making/                what a kill left half-made or half-erased; deleted at the next start
    reserve                space for a receipt on a device that is full: it frees more

KIND is `assessment` or `visit`. Whoever can read the folder can read what was recorded: it belongs
on an encrypted disk.
"""

import base64
import errno
import hashlib
import json
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Self, TypeVar

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey
from pydantic import Field, ValidationError
from uuid_utils import uuid7

from spira.device.line import (
    KnownOtherwise,
    Line,
    NoAnswer,
    NotNow,
    Pace,
    Rejected,
    TokenRefused,
    Told,
)
from spira.domain.answers import Sentence
from spira.domain.errors import InputError, IntegrityError, StorageFull, TransientError
from spira.domain.frozen import Frozen
from spira.domain.recordings import Utterance
from spira.domain.submissions import Capture, FormValues, Id, Kind, RecordingFile
from spira.stores.files import sync_names, sync_path, write_new, write_whole
from spira.stores.locks import locked

LARGEST_RECORDING_BYTES = 20 << 20

_SECRET_BYTES = 32
_RESERVE_BYTES = 64 << 10
_FULL = (errno.ENOSPC, errno.EDQUOT)
_MOST_POLLS = 100  # while the server checks; then the next sync asks again
_RECEIPT_TYPE = "spira-receipt+jws"
_ALGORITHM = "Ed25519"
_SIGNATURE_BYTES = 64


class Recorded(NamedTuple):
    """A recording as it was made."""

    utterance: Utterance
    audio: bytes
    duration_s: float
    recorded_at: datetime  # by the device's clock, with its zone
    capture: Capture = Capture()


class Kept(Frozen):
    """A submission as the device keeps it.

    `id` is what the server knows it by. It begins as what `record` returned, and becomes another
    one when the server knows that id as something else (a cloned phone); `earlier_ids` has it then.
    """

    kind: ClassVar[Kind]
    address: ClassVar[str]  # of all of its kind, at the server
    utterances: ClassVar[Sequence[Utterance]]  # that one may hold
    most_recordings: ClassVar[int]

    id: Id
    secret: str = Field(repr=False)  # base64url; proves to the server that we made it
    revision: int
    form: FormValues = Field(repr=False)
    recordings: tuple[RecordingFile, ...]
    replaces: Id | None = None
    left_out: tuple[RecordingFile, ...] = ()  # by a revision; kept here and sent to nobody
    earlier_ids: tuple[Id, ...] = ()

    def manifest(self) -> dict[str, Any]:
        """What is sent of it, beside the bytes."""
        ours = {"id", "secret", "left_out", "earlier_ids"}
        return self.model_dump(mode="json", exclude=ours)


_Kept = TypeVar("_Kept", bound=Kept)


class Refusal(Frozen):
    """What the server does not take as it is, and what a person can do."""

    what: Literal["recording", "field"] | Kind
    name: str  # the recording's id, the field's name, the submission's id
    reason: str
    sentence: Sentence


class Outcome(Frozen):
    """What a sync came to for one submission; `detail` names an earlier version of it.

    accepted      the receipt is stored here
    refused       kept here; `refusals` says what a person has to change (`revise`)
    waiting       kept here; the next sync goes on
    distrusted    kept here; the server gave a receipt that is not one for what was sent
    damaged       kept here; the disk gave back other bytes than were recorded
    erased        gone from this disk, as the server told: the participant has withdrawn
    """

    recorded_as: Id  # what `record` returned
    id: Id
    state: Literal["accepted", "refused", "waiting", "distrusted", "damaged", "erased"]
    detail: str = ""
    refusals: tuple[Refusal, ...] = ()


class Report(Frozen):
    """What a sync came to; one outcome for each submission that had no receipt before."""

    outcomes: tuple[Outcome, ...]
    stopped: Literal["no network", "token refused"] | None = None

    @property
    def complete(self) -> bool:
        """Whether nothing is left here that is to be sent."""
        return all(one.state in ("accepted", "erased") for one in self.outcomes)


class Outbox(Generic[_Kept]):
    """A folder, for one process at a time; its threads may share it."""

    _keeps: type[_Kept]
    _folders: Sequence[str] = ("keys", "making")

    def __init__(
        self,
        folder: Path,
        *,
        pace: Pace | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Open the folder, made when it is not there.

        now       the device's clock; it may be wrong
        raises    TransientError when another process has it open
        """
        self._folder = folder
        self._pace = pace or Pace()
        self._now = now
        self._changing = threading.RLock()
        self._syncing = threading.Lock()
        self._held = ExitStack()
        with on_disk("opening the outbox"):
            for place in (folder, self._at(), *map(folder.joinpath, self._folders)):
                place.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._held.enter_context(locked(folder / "lock", wait=False))
            for place in (folder, self._at()):  # a kill may have come in front of it
                sync_path(place)
            sync_names(folder)
            for half in (folder / "making").iterdir():
                shutil.rmtree(half)
            for name in self._names():
                self._tidy(name)
            self._make_reserve()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let another process have the folder."""
        self._held.close()

    # --- what the person at the bed does ----------------------------------------------------

    def _record(
        self,
        form: tuple[str, int],
        form_values: Mapping[str, Any],
        recordings: Sequence[tuple[Any, ...]],
        *,
        replaces: str | None,
        **more: Any,
    ) -> str:
        """Keep a new one; when this returns it is on stable storage, and before, nothing is.

        form      which one was filled in, and its version
        replaces  the one that this is a re-recording of: what `record` returned, or the id of one
                  of another device
        more      what only this kind has
        returns   its id
        raises    InputError for what no server would take; StorageFull, TransientError
        """
        files, audio = self._described(recordings)
        filled = _as_json(*form, form_values)
        new = str(uuid7())
        with self._changing:
            new_one = checked(
                self._keeps,
                id=new,
                secret=_secret(),
                revision=1,
                form=filled,
                recordings=files,
                replaces=self.get(replaces).id if replaces in self._names() else replaces,
                **more,
            )
            _require_some(new_one)
            with on_disk("keeping a recording"):
                making = self._folder / "making" / new
                try:
                    making.mkdir(mode=0o700)
                    for id, data in audio.items():
                        write_new(making / id, data)
                    write_new(making / self._file, new_one.model_dump_json().encode())
                    sync_path(making)
                    making.rename(self._at(new))
                except OSError:
                    shutil.rmtree(making, ignore_errors=True)
                    raise
                sync_path(self._at())
        return new

    def revise(
        self,
        id: str,
        form_values: Mapping[str, Any] | None = None,
        *,
        add: Sequence[tuple[Any, ...]] = (),
        leave_out: Sequence[str] = (),
    ) -> None:
        """Change one that has no receipt yet; what was sent of it is kept there.

        form_values  all of them anew; None: as they are
        leave_out    ids of recordings that are not to be sent; they are kept here
        raises       InputError when it has a receipt, or there is nothing like it
        """
        files, audio = self._described(add)
        with self._changing:
            old = self.get(id)
            if self._at(id, "receipt").exists():
                raise InputError(
                    f"{self._kind} {id}: has its receipt and changes no more; record another one "
                    f"with replaces={id}"
                )
            unknown = set(leave_out) - {one.id for one in old.recordings}
            if unknown:
                raise InputError(
                    f"{self._kind} {id}: has no recording {', '.join(sorted(unknown))}"
                )
            form = old.form
            if form_values is not None:
                form = _as_json(form.id, form.version, form_values)
            left_out = tuple(one for one in old.recordings if one.id in leave_out)
            new = old.model_copy(
                update={
                    "revision": old.revision + 1,
                    "form": form,
                    "recordings": tuple(
                        one for one in (*old.recordings, *files) if one not in left_out
                    ),
                    "left_out": old.left_out + left_out,
                }
            )
            _require_some(new)
            with on_disk("keeping a revision"):
                for recording, data in audio.items():
                    write_new(self._at(id, recording), data)
                self._keep(id, new)

    def ids(self) -> tuple[str, ...]:
        """What `record` returned for each one of this device, the oldest first."""
        return tuple(self._names())

    def get(self, id: str) -> _Kept:
        """One by what `record` returned.

        raises    InputError when there is none; IntegrityError when the disk has lost it
        """
        try:
            return self._keeps.model_validate_json(self._at(id, self._file).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(f"{self._kind} {id}: was not recorded in this folder") from None
        except (OSError, ValidationError):
            raise IntegrityError(
                f"{self._kind} {id}: its file cannot be read; keep the folder for whoever repairs "
                "it"
            ) from None

    def audio(self, id: str, recording: str) -> bytes | None:
        """The bytes of a recording; None when they are in a receipt and not here any more.

        raises    IntegrityError when the disk has other bytes than were recorded
        """
        kept = self.get(id)
        file = next(
            (one for one in (*kept.recordings, *kept.left_out) if one.id == recording), None
        )
        if file is None:
            raise InputError(f"{self._kind} {id}: has no recording {recording}")
        try:
            data = self._at(id, recording).read_bytes()
        except FileNotFoundError:
            if self.receipt(id) is not None:
                return None
            data = b""
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise IntegrityError(
                f"{self._kind} {id}: recording {recording} is not what was recorded; the disk lost "
                "it"
            )
        return data

    def receipt(self, id: str) -> str | None:
        """The server's signed word that it has it; None while there is none.

        What the disk has lost a part of is none: the next sync asks for it again.
        """
        try:
            receipt = self._at(id, "receipt").read_text()
            _taken(_payload(receipt))
            whole = len(_decoded(receipt.split(".")[2])) == _SIGNATURE_BYTES
        except (FileNotFoundError, ValueError, TypeError, LookupError):
            return None
        return receipt if whole else None

    def _described(
        self, recordings: Sequence[tuple[Any, ...]]
    ) -> tuple[tuple[RecordingFile, ...], dict[str, bytes]]:
        """Recordings as they are announced, and their bytes by id.

        raises    InputError
        """
        files, audio = [], {}
        for one in (Recorded(*each) for each in recordings):
            if one.utterance not in self._keeps.utterances:
                raise InputError(
                    f"{self._kind}: utterance {one.utterance!r} is not taken; it may be "
                    f"{', '.join(self._keeps.utterances)}"
                )
            file = checked(
                RecordingFile,
                id=str(uuid7()),
                utterance=one.utterance,
                sha256=hashlib.sha256(one.audio).hexdigest(),
                n_bytes=len(one.audio),
                duration_s=one.duration_s,
                recorded_at=one.recorded_at,
                capture=one.capture,
            )
            if file.n_bytes > LARGEST_RECORDING_BYTES:
                raise InputError(
                    f"recording {one.utterance}: {file.n_bytes} bytes; "
                    f"{LARGEST_RECORDING_BYTES} at most"
                )
            files.append(file)
            audio[file.id] = bytes(one.audio)
        return tuple(files), audio

    # --- sending ----------------------------------------------------------------------------

    def sync(self, server: str, token: str) -> Report:
        """Send everything that has no receipt, as far as the network goes; call it again later.

        server    https://…; http:// only on this machine
        token     the site's
        returns   what has become of each; that there is no network is no error
        raises    InputError for what is no server's address
        """
        with self._syncing:
            names = self._unsent()
            with self._sending(server, token, len(names)) as (line, pool):
                outcomes = tuple(pool.map(lambda name: self._send(name, line), names))
                return Report(outcomes=outcomes, stopped=line.stopped)

    def _unsent(self) -> list[str]:
        """What has no receipt. The newest first: somebody may be waiting at the bed."""
        return [name for name in reversed(self._names()) if self.receipt(name) is None]

    @contextmanager
    def _sending(
        self, server: str, token: str, n: int
    ) -> Iterator[tuple[Line, ThreadPoolExecutor]]:
        """The way to a server, and threads to send n things, several at once."""
        at_once = max(1, min(self._pace.at_once, n))
        with (
            Line(server, token, self._pace, at_once) as line,
            ThreadPoolExecutor(at_once, "spira-sync") as pool,
        ):
            try:
                yield line, pool
            except BaseException:
                line.ended.set()
                raise

    def _send(self, name: str, line: Line) -> Outcome:
        """What has become of one, and of an earlier version that was sent before it."""
        outcome = self._go_on(name, line)
        with suppress(IntegrityError, InputError):  # damaged, or erased: that is its outcome
            kept = self.get(name)
            if kept.replaces in kept.earlier_ids:
                said = (
                    f"an earlier version of it is at the server already, as {kept.replaces}; "
                    "this one replaces it"
                )
                detail = f"{outcome.detail}; {said}" if outcome.detail else said
                return outcome.model_copy(update={"detail": detail})
        return outcome

    def _go_on(self, name: str, line: Line) -> Outcome:
        """Go on with one until it has its receipt, or no more can be done now."""
        furthest: tuple[_Kept | None, int] = (None, 0)
        stale = polls = 0  # rounds without progress; answers that it is being checked
        renamed = False
        why = "not begun"
        id = name
        try:
            while stale < self._pace.tries and polls < _MOST_POLLS and not line.ended.is_set():
                kept = self.get(name)
                id = kept.id
                at_least_s = 0.0
                stale += 1
                try:
                    path = f"{kept.address}/{kept.id}"
                    told = line.put(path, kept.secret, kept.manifest(), self._now())
                    if told.state == "accepted":
                        if self._take_receipt(name, kept, told.receipt or "", line):
                            return Outcome(recorded_as=name, id=id, state="accepted")
                        continue  # it was revised meanwhile, and is sent as that
                    if told.state == "checking":
                        why = "the server is checking"
                        stale, polls = 0, polls + 1
                        line.wait(told.at_least_s)
                        continue
                    if kept != furthest[0] or told.progress > furthest[1]:
                        furthest = (kept, told.progress)
                        stale = 0
                    needed = [one for one in told.recordings if one.state == "needed"]
                    if not needed and (refusals := _refusals(told)):
                        return Outcome(
                            recorded_as=name,
                            id=id,
                            state="refused",
                            detail=" ".join(
                                f"{one.what} {one.name}: {one.sentence.en}" for one in refusals
                            ),
                            refusals=refusals,
                        )
                    for one in needed:
                        data = self.audio(name, one.id)
                        assert data is not None  # only a receipt lets go of it
                        line.patch(one, data)
                    if stale == 0:
                        continue
                    why = (
                        "the server asks for the same again, or has everything and does not say so"
                    )
                except KnownOtherwise as error:
                    why = str(error)
                    if not renamed:
                        self._give_new_id(name, kept, conflict=error.ours)
                        renamed = True
                        continue
                except Rejected as error:
                    return self._rejected(name, kept, error)
                except (NoAnswer, NotNow) as error:
                    why, at_least_s = str(error), error.at_least_s
                line.pause(stale, at_least_s)
        except TokenRefused as error:
            line.stop("token refused")
            why = str(error)
        except _WrongReceipt as error:
            return Outcome(recorded_as=name, id=id, state="distrusted", detail=str(error))
        except IntegrityError as error:
            return Outcome(recorded_as=name, id=id, state="damaged", detail=str(error))
        except TransientError as error:  # of this device's disk
            why = str(error)
        return Outcome(recorded_as=name, id=id, state="waiting", detail=line.stopped or why)

    def _rejected(self, name: str, sent: _Kept, error: Rejected) -> Outcome:
        """What becomes of what the server never takes as it was sent."""
        detail = error.detail
        return Outcome(
            recorded_as=name,
            id=sent.id,
            state="refused",
            detail=detail,
            refusals=(
                Refusal(what=sent.kind, name=sent.id, reason=detail, sentence=error.sentence),
            ),
        )

    def _take_receipt(self, name: str, sent: _Kept, receipt: str, line: Line) -> bool:
        """Store a receipt for what was sent; False when that is not what is here any more.

        raises    _WrongReceipt
        """
        taken = _check_receipt(receipt, sent, lambda kid: self._key(kid, line))
        with self._changing, on_disk("keeping a receipt"):
            if self.get(name) != sent:
                return False
            self._replace(self._at(name, "receipt"), receipt.encode())
            for recording in taken:
                self._at(name, recording).unlink(missing_ok=True)
            self._make_reserve()
        return True

    def _give_new_id(self, name: str, old: _Kept, *, conflict: bool) -> None:
        """The server knows this id as something else: ours is another one.

        Where we revised it, the server has an earlier revision (its answer was lost, or this
        phone was cloned): what we have replaces that.
        """
        with self._changing, on_disk("keeping a copy"):
            kept = self.get(name)
            if kept.id != old.id:
                return
            update = {
                "id": str(uuid7()),
                "secret": _secret(),
                "revision": 1,
                "replaces": old.id if conflict and old.revision > 1 else kept.replaces,
                "earlier_ids": (*kept.earlier_ids, old.id),
            }
            self._keep(name, kept.model_copy(update=update))

    def _key(self, kid: str, line: Line) -> Mapping[str, Any]:
        """The public key of this id: pinned when a server is first met.

        A key that is new is taken only where every key that we know is still there unchanged: a
        server rotates its keys and publishes the old ones too, and another server has others.
        raises    _WrongReceipt when there is none
        """
        with self._changing:
            place = self._folder / "keys" / f"{hashlib.sha256(line.base.encode()).hexdigest()}.json"
            pinned: dict[str, Mapping[str, Any]] = (
                json.loads(place.read_text()) if place.exists() else {}
            )
            if kid not in pinned:
                published = line.keys()
                changed = [
                    known
                    for known, key in pinned.items()
                    if known not in published or not _same_key(published[known], key)
                ]
                if changed:
                    raise _WrongReceipt(
                        f"the server's keys {', '.join(changed)} are gone or others than when this "
                        "device first met it; ask whoever runs the server"
                    )
                if kid not in published:
                    raise _WrongReceipt(f"receipt: signed with key {kid!r}, which is not published")
                with on_disk("keeping the server's keys"):
                    self._replace(place, json.dumps(published, indent=2).encode())
                pinned = published
            return pinned[kid]

    # --- the folder -------------------------------------------------------------------------

    @property
    def _kind(self) -> Kind:
        return self._keeps.kind

    @property
    def _file(self) -> str:
        return f"{self._kind}.json"

    def _at(self, *names: str) -> Path:
        return self._folder.joinpath(f"{self._kind}s", *names)

    def _names(self) -> list[str]:
        return sorted(place.name for place in self._at().iterdir() if place.is_dir())

    def _keep(self, name: str, kept: _Kept) -> None:
        self._replace(self._at(name, self._file), kept.model_dump_json().encode())

    def _erase(self, name: str, sent: _Kept) -> bool:
        """Erase one for good, however often it is killed; False when it was changed since."""
        with self._changing, on_disk("erasing"):
            if self.get(name) != sent:
                return False
            making = self._folder / "making"
            self._at(name).rename(making / name)
            sync_path(self._at())
            shutil.rmtree(making / name)
            sync_path(making)
        return True

    def _replace(self, place: Path, data: bytes) -> None:
        """A whole file or the one before, on stable storage; even when the device is full."""
        try:
            write_whole(place, data)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            (self._folder / "reserve").unlink(missing_ok=True)
            write_whole(place, data)

    def _make_reserve(self) -> None:
        reserve = self._folder / "reserve"
        if not reserve.exists():
            with suppress(OSError):  # full: until a receipt has freed some
                write_new(reserve, bytes(_RESERVE_BYTES))

    def _tidy(self, name: str) -> None:
        """Finish what a kill cut off: files of a revision that never was, audio in a receipt."""
        try:
            kept = self.get(name)
            receipt = self.receipt(name)
        except (IntegrityError, InputError):
            return  # damaged: whatever lies there may be all that is left
        taken = frozenset() if receipt is None else _taken(_payload(receipt))
        recordings = {one.id for one in (*kept.recordings, *kept.left_out)}
        keep = {self._file, "receipt"} | recordings - taken
        for place in self._at(name).iterdir():
            if place.name not in keep:
                place.unlink()


def _refusals(told: Told) -> tuple[Refusal, ...]:
    """What a person has to change."""
    return (
        *(
            Refusal(what="recording", name=one.id, reason=one.reason, sentence=one.sentence)
            for one in told.recordings
            if one.state == "refused"
        ),
        *(
            Refusal(what="field", name=one.name, reason=one.reason, sentence=one.sentence)
            for one in told.fields
        ),
    )


# --- receipts -------------------------------------------------------------------------------


class _WrongReceipt(Exception):
    """Not the server's word for what was sent."""


def _same_key(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two JWKs are one key; what else is said of it may change (RFC 7638)."""
    return all(one.get(name) == other.get(name) for name in ("kty", "crv", "x"))


def _check_receipt(
    receipt: str, sent: Kept, key_of: Callable[[str], Mapping[str, Any]]
) -> frozenset[str]:
    """Ids of the recordings that the server has, by its signed word about exactly what was sent.

    raises    _WrongReceipt
    """
    try:
        head = jws.extract_compact(receipt.encode()).headers()
        if head.get("typ") != _RECEIPT_TYPE:
            raise _WrongReceipt("receipt: signed as something else")
        key = OKPKey.import_key(dict(key_of(str(head.get("kid")))))
        jws.deserialize_compact(receipt, key, [_ALGORITHM])
        payload = _payload(receipt)
        told = sorted((one["id"], one["sha256"], one["n_bytes"]) for one in payload["recordings"])
        taken = _taken(payload)
    except (JoseError, ValueError, TypeError, KeyError) as error:
        raise _WrongReceipt(f"receipt: is not signed as it should be ({error})") from error
    wrong = [
        name
        for name, same in {
            "kind": payload.get("kind") == sent.kind,
            "id": payload.get("id") == sent.id,
            "revision": payload.get("revision") == sent.revision,
            "recordings": told
            == sorted((one.id, one.sha256, one.n_bytes) for one in sent.recordings),
        }.items()
        if not same
    ]
    if wrong:
        raise _WrongReceipt(f"receipt: for another {', '.join(wrong)} than was sent")
    return taken


def _payload(receipt: str) -> dict[str, Any]:
    payload = json.loads(_decoded(receipt.split(".")[1]))
    if not isinstance(payload, dict):
        raise ValueError("receipt: is no document")  # noqa: TRY004 - of what was sent
    return payload


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _taken(payload: Mapping[str, Any]) -> frozenset[str]:
    """Recordings that need not be kept: the server has them, or nobody may."""
    recordings = payload["recordings"]
    return frozenset(str(one["id"]) for one in recordings if one["what"] in ("taken", "dropped"))


# --- what is recorded -----------------------------------------------------------------------


def _as_json(form: str, version: int, values: Mapping[str, Any]) -> FormValues:
    """Values that JSON brings over as they are.

    raises    InputError
    """
    wrong = []
    for name, value in values.items():
        try:
            json.dumps({name: value}, allow_nan=False, ensure_ascii=False).encode()
        except (ValueError, TypeError, RecursionError):
            wrong.append(
                f"form field {name!r}: JSON cannot hold its value ({type(value).__name__})"
            )
    if wrong:
        raise InputError(*wrong)
    return checked(FormValues, id=form, version=version, values=dict(values))


_Model = TypeVar("_Model", bound=Frozen)


def checked(model: type[_Model], **values: Any) -> _Model:
    """A value, or every mistake in it; never the value of a field, which may be a person's."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise InputError(
            *(
                f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
                for fault in error.errors(include_input=False, include_url=False)
            )
        ) from None


def _require_some(kept: Kept) -> None:
    n, most = len(kept.recordings), kept.most_recordings
    if not 1 <= n <= most:
        raise InputError(f"{kept.kind}: {n} recordings; 1 to {most} are needed")


def _secret() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


# --- the disk -------------------------------------------------------------------------------


@contextmanager
def on_disk(doing: str) -> Iterator[None]:
    """What is done to the disk; an error of it as ours.

    raises    StorageFull, TransientError
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull(f"{doing}: this device is full; free some space") from error
        raise TransientError(f"{doing}: the disk failed ({error.strerror}); try again") from error
