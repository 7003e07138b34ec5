"""A study as data: who is recorded where, what they say and are asked, and who approved of it.

A study is a document with a version, and no version of it ever changes: what was collected keeps
the form, the prompts and the consent text that it was collected with.
"""

from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta, timezone
from itertools import pairwise, product
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from spira.domain.answers import Sentence
from spira.domain.forms import FieldKind, Form
from spira.domain.frozen import Faults, Frozen
from spira.domain.recordings import Sex, Utterance
from spira.domain.suggestions import nearest

BRASILIA = timezone(timedelta(hours=-3))  # whose days an approval counts; no summer time since 2019

# What the system itself reads in a form, by name: its kind, and the choices that it knows.
_READ: dict[str, tuple[FieldKind, tuple[str, ...]]] = {
    "age": ("whole", ()),
    "sex": ("choice", ("female", "male")),
    "research_consent": ("yes_no", ()),
    "consent_form_version": ("text", ()),
    "consent_given_by": ("choice", ("participant", "legal_representative")),
    "consent_how": ("choice", ("spoken", "paper", "electronic")),
}
_RECORD_NUMBER = "record_number"
_LONGEST_NUMBER = 100  # characters that can be hashed

Name = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9][a-z0-9-]{0,31}$",
        description="1 to 32 lower-case letters, digits or '-', beginning with a letter or digit",
    ),
]
TargetLabel = Literal["present", "absent"]
Keys = tuple[str | int, ...]


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


_Several = BeforeValidator(_several)  # one may stand without brackets


class Site(Frozen):
    """Where people are recorded: a ward or a clinic, with a room and devices of its own."""

    name: Name
    hospital: Name  # whose record numbers: the key ring has one key for all sites of a hospital
    title: Sentence


class Approval(Frozen):
    """An ethics approval."""

    caae: str = Field(
        pattern=r"^\d{8}\.\d\.\d{4}\.\d{4}$",
        description="a CAAE number, as 12345678.9.0000.1234",
    )
    valid_from: date  # both days whole, by the time of Brasília
    valid_until: date
    consent_versions: tuple[str, ...] = Field(min_length=1)  # that it covers

    @model_validator(mode="after")
    def _in_order(self) -> "Approval":
        if self.valid_until < self.valid_from:
            raise Faults([(("valid_until",), f"is before valid_from, {self.valid_from}")])
        return self


class Step(Frozen):
    """One recording of a visit."""

    utterance: Utterance
    title: Sentence
    instruction: Sentence  # to whoever records
    prompt: Sentence | None = None  # read aloud in the study's language; the other one explains
    minimum_s: float = Field(gt=0, le=600)  # shorter is a finding, and blocks nothing
    required: bool = True  # an app does not end a visit without it unasked


class ConsentText(Frozen):
    """What is read and signed, or read and spoken: one version of it, whose words never change."""

    version: str = Field(pattern=r"^\S{1,32}$", description="1 to 32 characters without spaces")
    text: Sentence  # in both languages; as long as it takes


class Target(Frozen):
    """How many people are wanted in each of some strata: every combination of what is named.

    An attribute that is not named does not matter: everybody counts.
    """

    people: int = Field(ge=1, le=1_000_000)  # in each stratum
    sex: Annotated[tuple[Sex, ...], _Several] = ()
    ages: Annotated[tuple[str, ...], _Several] = ()
    site: Annotated[tuple[str, ...], _Several] = ()
    label: Annotated[tuple[TargetLabel, ...], _Several] = ()


class Stratum(Frozen):
    """People of one sex, age band, site and label; None where it does not matter."""

    sex: Sex | None
    ages: str | None
    site: str | None
    label: TargetLabel | None


class Withdrawal(Frozen):
    """What becomes of a trained model when somebody whom it learned from withdraws."""

    trained_models: Literal["retire_at_next_release", "retrain", "keep"]
    owner: str = Field(min_length=1, max_length=200)  # whose rule it is: an office, not a person


class Study(Frozen):
    """One version of a study."""

    id: Name
    version: int = Field(ge=1, le=1_000_000)
    title: Sentence
    language: str = Field(
        default="pt-BR",
        pattern=r"^[a-z]{2,3}(-[A-Z]{2})?$",
        description="a language, as pt-BR",
    )
    sites: tuple[Site, ...] = Field(min_length=1)
    ethics: Approval | None = None  # None: synthetic data only
    protocol: tuple[Step, ...] = Field(min_length=1)  # in the order in which an app asks
    forms: tuple[Form, ...] = Field(min_length=1)  # a visit is sent with one of them
    consents: tuple[ConsentText, ...] = Field(min_length=1)
    age_bands: tuple[Annotated[str, Field(pattern=r"^\d{1,3}(-\d{1,3}|\+)$")], ...] = Field(
        default=(), description="ages in years, both included: 18-39, or 80+ for the last band"
    )
    targets: tuple[Target, ...] = ()
    withdrawal: Withdrawal

    @model_validator(mode="after")
    def _consistent(self) -> "Study":
        faults = [
            *_blanks(self),
            *_twice("sites", [site.name for site in self.sites], "name"),
            *_twice("protocol", [step.utterance for step in self.protocol], "utterance"),
            *_twice("forms", [form.id for form in self.forms], "id"),
            *_twice("consents", [text.version for text in self.consents], "version"),
            *self._wrong_versions(),
            *(fault for n, form in enumerate(self.forms) for fault in _wrong_fields(n, form)),
            *_wrong_bands(self.age_bands),
            *self._wrong_targets(),
        ]
        if faults:
            raise Faults(faults)
        return self

    @property
    def strata(self) -> dict[Stratum, int]:
        """The people wanted in each stratum, in the order of the targets."""
        return {stratum: target.people for target in self.targets for stratum in _strata(target)}

    def form(self, form_id: str, version: int) -> Form | None:
        """The form that a visit was filled into; None where it is none of this version's."""
        return next((f for f in self.forms if (f.id, f.version) == (form_id, version)), None)

    def site(self, name: str) -> Site | None:
        """The site of a name."""
        return next((site for site in self.sites if site.name == name), None)

    def _wrong_versions(self) -> Iterator[tuple[Keys, str]]:
        known = [text.version for text in self.consents]
        for number, version in enumerate(self.ethics.consent_versions if self.ethics else ()):
            if version not in known:
                yield (
                    ("ethics", "consent_versions", number),
                    f"there is no consent text of version {version}{nearest(version, known)}",
                )

    def _wrong_targets(self) -> Iterator[tuple[Keys, str]]:
        known = {"ages": self.age_bands, "site": tuple(site.name for site in self.sites)}
        lists = {"ages": "age_bands", "site": "sites"}
        for number, target in enumerate(self.targets):
            for key, names in known.items():
                for name in getattr(target, key):
                    if name not in names:
                        yield (
                            ("targets", number, key),
                            f"{name} is not among {lists[key]}{nearest(name, names)}",
                        )
        counted: set[Stratum] = set()
        for number, target in enumerate(self.targets):
            strata = [*_strata(target)]
            if counted.intersection(strata) or len(set(strata)) < len(strata):
                yield ("targets", number), "names a stratum that has a target already"
            counted.update(strata)


def age_ends(band: str) -> tuple[int, int | None]:
    """The first and the last age of a band, both included; None where it has no end."""
    low, _, high = band.removesuffix("+").partition("-")
    return int(low), int(high) if high else None


def accepts(
    study: Study, at: datetime, *, synthetic: bool, consent_version: str | None = None
) -> Sentence | None:
    """Why a study may not take in what was recorded at a time; None where it may.

    study            its latest version: an approval that was renewed is there
    synthetic        whether the voices were made
    consent_version  that the participant agreed to; None: not asked about
    """
    if synthetic:
        return None
    approval = study.ethics
    if approval is None:
        return Sentence(
            pt="Estudo sem aprovação ética registrada: só aceita dados sintéticos.",
            en="A study without an ethics approval on record: it accepts synthetic data only.",
        )
    first, last = approval.valid_from, approval.valid_until
    if not first <= at.astimezone(BRASILIA).date() <= last:
        return Sentence(
            pt=f"A aprovação ética {approval.caae} vale de {first:%d/%m/%Y} a {last:%d/%m/%Y}: "
            "fora desses dias o estudo só aceita dados sintéticos.",
            en=f"The ethics approval {approval.caae} is valid from {first} to {last}: "
            "outside these days the study accepts synthetic data only.",
        )
    if consent_version is not None and consent_version not in approval.consent_versions:
        covered = ", ".join(approval.consent_versions)
        return Sentence(
            pt=f"A aprovação ética {approval.caae} não cobre esta versão do termo de "
            f"consentimento; cobre: {covered}.",
            en=f"The ethics approval {approval.caae} does not cover this version of the consent "
            f"form; it covers: {covered}.",
        )
    return None


def forbidden_changes(study: Study, applied: Sequence[Study]) -> tuple[str, ...]:
    """Why a study may not follow the versions of it that are applied; nothing where it may.

    Whoever reads what was collected must find the form that was filled in, the words that were
    agreed to, and the key that hides a record number, under the names that they had then.

    applied   every version, the oldest first; that of the same content is no change, and not here
    """
    where = f"study {study.id}"
    said: list[str] = []
    latest = max((other.version for other in applied), default=0)
    same = next((other for other in applied if other.version == study.version), None)
    if same is not None:
        changed = [key for key in Study.model_fields if getattr(study, key) != getattr(same, key)]
        said.append(
            f"{where}: version {study.version} is applied already and cannot be changed "
            f"({', '.join(changed)}); give this one version: {latest + 1}"
        )
    elif study.version < latest:
        said.append(
            f"{where}: version {study.version} is older than {latest}, which is applied; "
            f"give this one version: {latest + 1}"
        )
    forms = [form for other in applied for form in other.forms]
    texts = {text.version: text for other in applied for text in other.consents}
    hospitals = {site.name: site.hospital for other in applied for site in other.sites}
    for form in study.forms:
        versions = {other.version: other for other in forms if other.id == form.id}
        before = versions.get(form.version)
        if before is not None and before != form:
            said.append(
                f"{where}: form {form.id}, version {form.version}, was applied with other content "
                f"({_difference(before, form)}), and what was collected keeps it; "
                f"give the changed form version: {max(versions) + 1}"
            )
    said += [
        f"{where}: consent text {text.version} was applied with other words, which people agreed "
        "to; give the changed text another version"
        for text in study.consents
        if texts.get(text.version, text) != text
    ]
    said += [
        f"{where}: site {site.name} was of hospital {hospitals[site.name]}, whose key hides the "
        f"record numbers collected there; give the site of hospital {site.hospital} another name"
        for site in study.sites
        if hospitals.get(site.name, site.hospital) != site.hospital
    ]
    return tuple(said)


def _strata(target: Target) -> Iterator[Stratum]:
    named = (target.sex, target.ages, target.site, target.label)
    for sex, ages, site, label in product(*(values or (None,) for values in named)):
        yield Stratum(sex=sex, ages=ages, site=site, label=label)


def _twice(where: str, names: Sequence[str], key: str) -> Iterator[tuple[Keys, str]]:
    for number, name in enumerate(names):
        if name in names[:number]:
            yield (where, number, key), f"{name} is there twice"


def _blanks(value: Any, at: Keys = ()) -> Iterator[tuple[Keys, str]]:
    """Sentences of which a language is missing, wherever they are."""
    if isinstance(value, Sentence):
        for key, text in value:
            if not text.strip():
                yield (*at, key), "is empty; both languages are needed"
    elif isinstance(value, Frozen):
        for key, inner in value:
            yield from _blanks(inner, (*at, key))
    elif isinstance(value, tuple):
        for number, inner in enumerate(value):
            yield from _blanks(inner, (*at, number))


def _wrong_fields(number: int, form: Form) -> Iterator[tuple[Keys, str]]:
    """Fields that the system reads, and that are not there, or not as it reads them."""
    at = ("forms", number, "fields")
    places = {field.name: place for place, field in enumerate(form.fields)}
    for name, (kind, known) in _READ.items():
        needed = f"{kind} with choices among {', '.join(known)}" if known else kind
        if name not in places:
            yield at, f"{name} is missing ({needed}), which every visit needs"
            continue
        field = form.fields[places[name]]
        if field.kind != kind or any(choice.value not in known for choice in field.choices):
            yield (*at, places[name]), f"{name} must be {needed}"
    if _RECORD_NUMBER in places and not form.fields[places[_RECORD_NUMBER]].identifying:
        yield (
            (*at, places[_RECORD_NUMBER]),
            f"{_RECORD_NUMBER} must be identifying, so that it is stored as a hash",
        )
    if _RECORD_NUMBER in places and form.fields[places[_RECORD_NUMBER]].longest > _LONGEST_NUMBER:
        yield (
            (*at, places[_RECORD_NUMBER]),
            f"{_RECORD_NUMBER} may have at most longest: {_LONGEST_NUMBER}",
        )
    consent = places.get("research_consent")
    if consent is not None and form.fields[consent].yes_needs != "consent_form_version":
        yield (*at, consent), "research_consent needs yes_needs: consent_form_version"


def _wrong_bands(bands: Sequence[str]) -> Iterator[tuple[Keys, str]]:
    for number, band in enumerate(bands):
        low, high = age_ends(band)
        if high is not None and high < low:
            yield ("age_bands", number), f"{band} ends before it begins"
    for number, (before, after) in enumerate(pairwise(bands), start=1):
        end = age_ends(before)[1]
        if end is None or age_ends(after)[0] <= end:
            yield ("age_bands", number), f"{after} does not begin after {before} ends"


def _difference(before: Form, after: Form) -> str:
    """What differs between two contents of one version of a form."""
    old = {field.name: field for field in before.fields}
    new = {field.name: field for field in after.fields}
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return f"fields: {', '.join(names)}" if names else "its title, or the order of its fields"
