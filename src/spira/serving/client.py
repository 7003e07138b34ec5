"""What the Client App (5) does, as a library: assessments of a clinician's device.

A `Device` is an outbox in a folder (spira.device.outbox) with, beside what is there,

    voids/ID.json     what is to be struck through, until a server has done it
    form.json         the form that the last sync brought
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, StringConstraints, ValidationError

from spira.device import outbox
from spira.device.bedside import Remarks, look_over, read_form
from spira.device.line import Answer, Line, NoAnswer, NotNow, Rejected, TokenRefused, rejected
from spira.device.outbox import Kept, Outbox, Outcome, Recorded, Refusal, checked, on_disk
from spira.domain.errors import InputError, IntegrityError, TransientError
from spira.domain.frozen import Frozen
from spira.domain.submissions import Id
from spira.stores.files import write_whole

__all__ = ["Device", "Outcome", "Recorded", "Refusal", "Report", "Results", "Voiding"]

_PAGE = 200  # assessments
_T = TypeVar("_T")
_Reason = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=500, pattern=r"^(?:[^\p{Cc}]|\n)*$"
    ),
]


class Assessment(Kept):
    """An assessment as the device keeps it."""

    kind = "assessment"
    address = "/v1/assessments"
    # Spoken consent holds a name: it belongs to a study, and never into an assessment.
    utterances = ("sentence", "rhyme", "vowel", "ambient_before", "ambient_after")
    most_recordings = 4


class Voiding(Frozen):
    """What a sync came to for one assessment that is to be struck through.

    voided        the server has answered that it is
    waiting       kept here; the next sync goes on
    refused       kept here; the server does not do it, and `detail` says why
    """

    id: Id  # as it was given to `void`
    state: Literal["voided", "waiting", "refused"]
    detail: str = ""


class Report(outbox.Report):
    """What a sync came to, for what was to be voided too."""

    voids: tuple[Voiding, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every assessment of this device holds a receipt, and nothing is left to void."""
        return super().complete and all(one.state == "voided" for one in self.voids)


class _Void(Frozen):
    """That an assessment is to be struck through, as it is kept."""

    id: Id
    reason: _Reason


class _Served(Frozen):
    """A form as it is kept."""

    tag: str
    form: Mapping[str, Any]


class Results(Frozen):
    """What the site's assessments have come to, by the ids that the server knows them by."""

    assessments: Mapping[Id, Mapping[str, Any]]
    after: int  # where to go on


class Device(Outbox[Assessment]):
    """An outbox of assessments."""

    _keeps = Assessment
    _folders = ("keys", "voids", "making")

    # --- what the person at the bed does ----------------------------------------------------

    def form(self) -> Mapping[str, Any] | None:
        """The form that the last sync brought, as JSON Schema; None before the first one."""
        served = self._served()
        return None if served is None else served.form

    def remarks(self, form_values: Mapping[str, Any]) -> Remarks:
        """What to correct or to confirm before it is recorded, by the form that is kept.

        Nothing while none is: then the server says it, when the patient may have gone.
        """
        form = self.form()
        return Remarks() if form is None else look_over(form, form_values)

    def record(
        self,
        form_values: Mapping[str, Any],
        recordings: Sequence[tuple[Any, ...]] = (),
        *,
        confirmed: Sequence[str] = (),
        replaces: str | None = None,
        form: tuple[str, int] | None = None,
    ) -> str:
        """Keep an assessment; when this returns it is on stable storage, and before, nothing is.

        recordings  1 to 4 of `Recorded`, or tuples like it
        confirmed   fields that somebody looked at again after `remarks` asked for it
        replaces    the assessment that this one is a re-recording of: what `record` returned, or
                    the id of one of another device
        form        which form was filled in, and its version; None: the one that is kept, or
                    version 1 of `assessment`
        returns     its id
        raises      InputError for what no server would take, or nobody has confirmed; StorageFull,
                    TransientError
        """
        in_use = (self.form() or {}).get("x-form", {"id": "assessment", "version": 1})
        filled_in = form or (in_use["id"], in_use["version"])
        self._require_looked_over(filled_in, form_values, confirmed)
        return self._record(filled_in, form_values, recordings, replaces=replaces)

    def revise(
        self,
        id: str,
        form_values: Mapping[str, Any] | None = None,
        *,
        confirmed: Sequence[str] = (),
        add: Sequence[tuple[Any, ...]] = (),
        leave_out: Sequence[str] = (),
    ) -> None:
        """Change an assessment that has no receipt yet; what was sent of it is kept there.

        form_values  all of them anew; None: as they are
        confirmed    as for `record`
        leave_out    ids of recordings that are not to be sent; they are kept here
        raises       InputError when it has a receipt, or there is nothing like it
        """
        if form_values is not None:
            form = self.get(id).form
            self._require_looked_over((form.id, form.version), form_values, confirmed)
        super().revise(id, form_values, add=add, leave_out=leave_out)

    def void(self, id: str, reason: str) -> None:
        """Have an assessment struck through that was recorded on the wrong patient.

        Kept here until a sync has heard from the server that it is; one of this device that was
        not sent yet is sent before. The answer stays, marked, and is never used.
        id        what `record` returned, or the server's id of one of another device
        reason    1 to 500 characters without control characters, for the audit; nobody's data
        raises    InputError, StorageFull, TransientError
        """
        void = checked(_Void, id=id, reason=reason)
        with self._changing, on_disk("keeping what is to be voided"):
            write_whole(self._folder / "voids" / f"{id}.json", void.model_dump_json().encode())

    # --- sending ----------------------------------------------------------------------------

    def sync(self, server: str, token: str) -> Report:
        """Send everything that has no receipt, as far as the network goes; call it again later.

        What is to be voided is sent as well, and the form that the server has now is kept.
        server    https://…; http:// only on this machine
        token     the site's
        returns   what has become of each; that there is no network is no error
        raises    InputError for what is no server's address
        """
        with self._syncing:
            names, voids = self._unsent(), self._voids()
            with self._sending(server, token, len(names) + len(voids)) as (line, pool):
                # First: on the wrong patient it may be acted on. Once more for those that had
                # to be sent before.
                tuple(pool.map(lambda id: self._send_void(id, line), voids))
                outcomes = tuple(pool.map(lambda name: self._send(name, line), names))
                voided = tuple(pool.map(lambda id: self._send_void(id, line), voids))
                report = Report(outcomes=outcomes, voids=voided, stopped=line.stopped)
                self._keep_form(line)
            return report

    def results(self, server: str, token: str, *, after: int = 0) -> Results:
        """What has become of the site's assessments since `after`, this device's among them.

        raises    TransientError without a network, InputError when the token is refused
        """
        found: dict[str, Mapping[str, Any]] = {}
        with self._asking("results", server, token) as line:
            while True:
                page = self._patiently(line, partial(_changes, line, after))
                if not page.assessments or page.next <= after:
                    return Results(assessments=found, after=after)
                after = page.next
                found |= {one["id"]: one for one in page.assessments}

    def search(self, server: str, token: str, record_number: str) -> tuple[Mapping[str, Any], ...]:
        """The site's assessments of a record number, the latest first; it is audited.

        raises    TransientError without a network; InputError when the token is refused, or it
                  is no record number
        """
        with self._asking("search", server, token) as line:
            return self._patiently(line, partial(_search, line, record_number))

    @contextmanager
    def _asking(self, doing: str, server: str, token: str) -> Iterator[Line]:
        with Line(server, token, self._pace) as line:
            try:
                yield line
            except (TokenRefused, Rejected) as error:
                raise InputError(f"{doing}: {error}") from error

    def _patiently(self, line: Line, ask: Callable[[], _T]) -> _T:
        """What the server answers at last.

        raises    TransientError when it does not; what else it says, as it is
        """
        failures = 0
        while True:
            try:
                return ask()
            except (NoAnswer, NotNow) as error:
                failures += 1
                if failures >= self._pace.tries or line.ended.is_set():
                    raise TransientError(f"{error}; ask again later") from error
                line.pause(failures, error.at_least_s)

    def _send_void(self, id: str, line: Line) -> Voiding:
        """Strike one assessment through, as soon as the server has it."""
        place = self._folder / "voids" / f"{id}.json"
        try:
            void = _Void.model_validate_json(place.read_bytes())
            ours = id in self._names()
            if ours and self.receipt(id) is None:
                return Voiding(id=id, state="waiting", detail="it has to be sent before")
            if not line.ended.is_set():
                of = self.get(id).id if ours else id
                self._patiently(line, partial(_strike, line, of, void.reason))
                with suppress(OSError):  # then it is sent once more, which changes nothing
                    place.unlink()
                return Voiding(id=id, state="voided")
            why = "not begun"
        except FileNotFoundError:  # done a moment ago
            return Voiding(id=id, state="voided")
        except (OSError, ValidationError):
            why = "what is kept of it here cannot be read; void it again"
            return Voiding(id=id, state="refused", detail=why)
        except (Rejected, IntegrityError) as error:
            return Voiding(id=id, state="refused", detail=str(error))
        except TokenRefused as error:
            line.stop("token refused")
            why = str(error)
        except TransientError as error:
            why = str(error)
        return Voiding(id=id, state="waiting", detail=line.stopped or why)

    def _keep_form(self, line: Line) -> None:
        """Keep the form that the server has now, where one comes that can be read here."""
        served = self._served()
        with suppress(NoAnswer, NotNow, TokenRefused, OSError):
            found = (
                None if line.ended.is_set() else _form(line, "" if served is None else served.tag)
            )
            if found is not None:
                new = _Served(tag=found[0], form=found[1])
                write_whole(self._folder / "form.json", new.model_dump_json().encode())

    # --- the folder -------------------------------------------------------------------------

    def _voids(self) -> list[str]:
        return sorted(place.stem for place in (self._folder / "voids").glob("*.json"))

    def _served(self) -> _Served | None:
        """The form that is kept; None where there is none that can be read here."""
        try:
            served = _Served.model_validate_json((self._folder / "form.json").read_bytes())
            read_form(served.form)
        except (OSError, ValueError):
            return None
        return served

    def _require_looked_over(
        self, form: tuple[str, int], values: Mapping[str, Any], confirmed: Sequence[str]
    ) -> None:
        """See that the form which is kept allows these values, where it is the one filled in.

        raises    InputError
        """
        kept = self.form()
        if kept is None or kept["x-form"] != {"id": form[0], "version": form[1]}:
            return
        remarks = look_over(kept, values)
        said = [f"form field {name!r}: {one.en}" for name, one in remarks.refused.items()]
        said += [
            f"form field {name!r}: {one.en} Name it in `confirmed` where it is right."
            for name, one in remarks.to_confirm.items()
            if name not in confirmed
        ]
        if said:
            raise InputError(*said)


# --- what only the Client API is asked -------------------------------------------------------


class _Page(BaseModel):
    """Assessments of the site, and where to go on."""

    assessments: tuple[dict[str, Any], ...]
    next: int


def _changes(line: Line, after: int) -> _Page:
    """The next assessments in the order of their last change.

    raises    NoAnswer, NotNow, TokenRefused
    """

    def read(answer: Answer) -> _Page:
        if answer.status >= 400:
            raise NotNow(f"answered {answer.status}", answer.after_s)
        page = _Page.model_validate(answer.document)
        if not all(isinstance(one["id"], str) for one in page.assessments):
            raise ValueError("an assessment without an id")
        return page

    return line.ask("GET", f"/v1/assessments?after={after}&limit={_PAGE}", read)


def _strike(line: Line, id: str, reason: str) -> None:
    """Strike an assessment through; once or several times is the same.

    raises    NoAnswer, NotNow, TokenRefused, Rejected
    """

    def read(answer: Answer) -> None:
        if answer.status >= 400:
            raise rejected(answer)
        if answer.document["id"] != id or not answer.document["voided"]:
            raise ValueError("another assessment, or one that is not void")

    _post(line, f"/v1/assessments/{id}/void", read, {"reason": reason})


def _search(line: Line, record_number: str) -> tuple[dict[str, Any], ...]:
    """The site's assessments of a record number, the latest first.

    raises    NoAnswer, NotNow, TokenRefused, Rejected
    """

    def read(answer: Answer) -> tuple[dict[str, Any], ...]:
        if answer.status >= 400:
            raise rejected(answer)
        return _Page.model_validate(answer.document | {"next": 0}).assessments

    return _post(line, "/v1/assessments/search", read, {"record_number": record_number})


def _form(line: Line, tag: str) -> tuple[str, dict[str, Any]] | None:
    """The form in force and its ETag; None where it is the one of this tag.

    raises    NoAnswer, NotNow, TokenRefused
    """

    def read(answer: Answer) -> tuple[str, dict[str, Any]] | None:
        if answer.status >= 400:
            raise NotNow(f"form: {answer.status}", answer.after_s)
        if answer.status == 304:
            return None
        read_form(answer.document)
        return answer.headers.get("ETag", ""), answer.document

    headers = {"If-None-Match": tag} if tag else {}
    return line.ask("GET", "/v1/forms/assessment", read, headers=headers)


def _post(line: Line, path: str, read: Callable[[Answer], _T], document: Mapping[str, str]) -> _T:
    body = json.dumps(document).encode()
    return line.ask("POST", path, read, headers={"Content-Type": "application/json"}, content=body)
