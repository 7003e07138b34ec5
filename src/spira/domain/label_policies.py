"""Label policies: named, versioned rules from what is said of a person to a recording's label.

A policy sees the observations that are in force and one moment, that of the recording. Its numbers
are part of its version: others are another policy. CLINICAL's cut-offs are theirs; what they leave
open is decided here.

**Measurement.** The nearest one of its kind decides, at most 1 h before or after the recording, by
whatever method; where it took a while, its beginning counts. Equally near ones count together. The
nearest SpO2 is the nearest whatever was breathed: one on oxygen that is nearer than one on room air
says that oxygen was given.

**Room air.** Said of the measurement itself; else said around it: support `none` that began within
1 h before it or whose stated span holds it, or an oxygen flow of 0 or an inspired oxygen of 21 %,
the nearest within 1 h of it. Oxygen said by any of these outweighs. Where nothing is said, it is
not room air: `breathing_unsaid`.

**Support.** In force from its beginning to its end, without an end until another is said; of
several the one that began last. `absent` needs that none is in force at the recording or at its
measurement, and that the nearest flow and inspired oxygen of the recording show no oxygen. Beside
SpO2 below 92 % that was measured on room air it changes nothing: the mask was off.

**Diagnosis.** J96.0, J96.1, J96.9 and J80 of CID-10, exactly: J96.01 is of another code system, and
J96 alone says too little. In force from 1 h before its time (what is found is written down later)
to its end. Without an end, J96.1, which is chronic, stays in force; the others hold for a day, and
a time without an hour is no more exact than that. Past that day, on the day before it begins, and
with any other code below J96 or J80, it is `diagnosis_unclear`: neither `present` nor `absent`
rests on it.

**CO2 retention** is known when the last PaCO2, no later than 1 h after the recording, is above 45
mmHg. Such patients are kept at 88 to 92 %: SpO2 then says nothing, either way. A diagnosis or PaO2
does.

**A clinician's judgement** counts within its span, or up to 1 h around it; the nearest one. It
decides what is unknown without it, and `unknown` takes the recording out whatever was measured.
`present` stands against any measurement, as a diagnosis does. `absent` against a diagnosis, PaO2
or SpO2 that says `present` is a contradiction.

**Contradiction** gives `unknown`: equally near judgements or measurements that differ, or a
judgement as above. PaO2, SpO2 and diagnosis do not contradict one another: any of them is enough
for `present`.

**Clock.** Where the label would differ at any moment that the recording may have been made, it is
`unknown`, for `clock`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

from spira.domain.errors import InputError
from spira.domain.frozen import Frozen
from spira.domain.labels import Breathing, Decided, ObservationKind
from spira.domain.recordings import LABELS, Label
from spira.domain.suggestions import nearest

WINDOW = timedelta(hours=1)
DAY = timedelta(days=1)
LOW_SPO2_PERCENT = 92.0  # present below
HIGH_SPO2_PERCENT = 95.0  # absent from here on
LOW_PAO2_MMHG = 60.0
HIGH_PACO2_MMHG = 45.0  # the upper end of what is usual
ROOM_AIR_PERCENT = 21.0
DIAGNOSES = frozenset({"J96.0", "J96.1", "J96.9", "J80"})

REASONS: Mapping[str, str] = {
    "diagnosis": "a diagnosis of J96.0, J96.1, J96.9 or J80 is in force",
    "pao2_low": "arterial PaO2 below 60 mmHg",
    "spo2_low": "SpO2 below 92 % on room air",
    "spo2_high": "SpO2 of at least 95 % on room air, and nothing against it",
    "judged": "a clinician says so",
    "between": "SpO2 from 92 to below 95 %",
    "oxygen": "oxygen was given",
    "support": "there was respiratory support",
    "breathing_unsaid": "nobody says what was breathed while SpO2 was measured",
    "co2_retention": "known CO2 retention",
    "diagnosis_unclear": "a diagnosis without an end, of the next day, or without its last digit",
    "contradiction": "what is said contradicts itself",
    "no_measurement": "no SpO2 within 1 h of the recording",
    "clock": "the device's clock is too uncertain: the label would depend on it",
}

_CHRONIC = "J96.1"
_MEASURED: frozenset[ObservationKind] = frozenset(
    {"spo2", "pao2", "oxygen_flow", "inspired_oxygen"}
)
_LASTING: frozenset[ObservationKind] = frozenset({"diagnosis", "support", "judgement", "paco2"})
_SHIFTS = (timedelta(), WINDOW, -WINDOW)
_LONGEST_S = 100 * 365 * 86_400.0  # a clock that is more uncertain than a century is not worse
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


class Fact(NamedTuple):
    """An observation in force."""

    entry: str  # "origin/name/version"
    kind: ObservationKind
    at: datetime
    until: datetime | None
    value: float | None
    code: str | None
    breathing: Breathing | None


Said = Mapping[ObservationKind, Sequence[Fact]]  # of one person, by kind


@dataclass(frozen=True)
class Policy:
    """A rule and its name. Two versions of a rule have two names."""

    name: str
    says: str
    kinds: frozenset[ObservationKind]  # that it looks at
    rule: Callable[[Said, datetime], Decided]

    @property
    def measured(self) -> frozenset[ObservationKind]:
        """The kinds that count only near their time: within `REACH` of the recording."""
        return self.kinds & _MEASURED

    @property
    def lasting(self) -> frozenset[ObservationKind]:
        """The kinds that count long after they began; at most a day before."""
        return self.kinds & _LASTING

    def decide(self, facts: Iterable[Fact], recorded_at: datetime, uncertainty_s: float) -> Decided:
        """The label of a recording of the person that the facts are about.

        uncertainty_s   how wrong `recorded_at` may be, either way; both ends are counted in
        """
        said: dict[ObservationKind, list[Fact]] = defaultdict(list)
        for fact in facts:
            said[fact.kind].append(fact)
        decided = self.rule(said, recorded_at)
        if uncertainty_s > 0:
            first, last = span(recorded_at, uncertainty_s)
            for moment in _moments(said, first, last):
                other = self.rule(said, moment)
                if other.label != decided.label:
                    return _unknown("clock", evidence=(*decided.evidence, *other.evidence))
        return decided


REACH = 2 * WINDOW  # from a recording to its measurement, and on to what was breathed then


class Agreement(Frozen):
    """How two policies label the same recordings."""

    first: str
    second: str
    counts: Mapping[Label, Mapping[Label, int]]  # by the first one's label, then the second's

    @property
    def total(self) -> int:
        """All recordings."""
        return sum(sum(row.values()) for row in self.counts.values())

    @property
    def differing(self) -> int:
        """Recordings that the two label differently."""
        return self.total - sum(self.counts[label][label] for label in LABELS)


def agreement(first: str, second: str, decided: Iterable[tuple[Decided, Decided]]) -> Agreement:
    """Count pairs of decisions, each by two policies about one recording."""
    counts: dict[Label, dict[Label, int]] = {one: dict.fromkeys(LABELS, 0) for one in LABELS}
    for one, other in decided:
        counts[one.label][other.label] += 1
    return Agreement(first=first, second=second, counts=counts)


def find_policy(name: str) -> Policy:
    """The policy of this name.

    raises    InputError with the nearest known one
    """
    if name not in POLICIES:
        raise InputError(
            f"label policy {name!r}: not known{nearest(name, POLICIES)} "
            f"(known: {', '.join(POLICIES)})"
        )
    return POLICIES[name]


def span(moment: datetime, margin_s: float) -> tuple[datetime, datetime]:
    """From `margin_s` seconds before a moment to as many after it, as far as dates go."""
    margin = timedelta(seconds=min(margin_s, _LONGEST_S))
    return _shifted(moment, -margin), _shifted(moment, margin)


def _shifted(moment: datetime, by: timedelta) -> datetime:
    try:
        return moment + by
    except OverflowError:
        return _FIRST if by < timedelta() else _LAST


# ---- the rules


def _ri_v1(said: Said, moment: datetime) -> Decided:
    found = _without_judgement(said, moment)
    words = _nearest(said.get("judgement", ()), moment)
    if not words:
        return found
    verdicts = {fact.code for fact in words}
    if len(verdicts) > 1:
        return _unknown("contradiction", words)
    (verdict,) = verdicts
    if verdict == "unknown":
        return _unknown("judged", words)
    if verdict == "absent" and found.label == "present":
        return _unknown("contradiction", words, evidence=found.evidence)
    if verdict == found.label:
        return found
    return _decided("present" if verdict == "present" else "absent", "judged", words)


def _without_judgement(said: Said, moment: datetime) -> Decided:
    diagnoses = said.get("diagnosis", ())
    diagnosed = [fact for fact in diagnoses if _in_force(fact, moment)]
    if diagnosed:
        return _decided("present", "diagnosis", diagnosed)

    gases = _nearest(said.get("pao2", ()), moment)
    low = [fact for fact in gases if _value(fact) < LOW_PAO2_MMHG]
    if low and len(low) == len(gases):
        return _decided("present", "pao2_low", low, measured=True)

    retaining = _last_paco2(said, moment)
    if any(_value(fact) > HIGH_PACO2_MMHG for fact in retaining):
        return _unknown("co2_retention", retaining)

    by_spo2 = _spo2_v1(said, moment)
    if by_spo2.label == "present":
        return by_spo2
    if low:
        return _unknown("contradiction", gases)
    unclear = [fact for fact in diagnoses if _is_unclear(fact, moment)]
    if unclear:
        return _unknown("diagnosis_unclear", unclear)
    if by_spo2.label == "absent":
        assert by_spo2.measured_at is not None
        return _unsupported(said, moment, by_spo2.measured_at) or by_spo2
    return by_spo2


def _spo2_v1(said: Said, moment: datetime) -> Decided:
    found = _nearest(said.get("spo2", ()), moment)
    if not found:
        return _unknown("no_measurement")
    verdicts = {_of_saturation(said, fact) for fact in found}
    if len({label for label, _ in verdicts}) > 1:
        return _unknown("contradiction", found)
    label, reason = min(verdicts)
    return _decided(label, reason, found, measured=True)


POLICIES: Mapping[str, Policy] = {
    policy.name: policy
    for policy in (
        Policy(
            "ri-v1",
            "A clinician's diagnosis or word, arterial PaO2, or SpO2 on room air.",
            _MEASURED | _LASTING,
            _ri_v1,
        ),
        Policy(
            "spo2-v1",
            "SpO2 on room air alone.",
            frozenset({"spo2", "oxygen_flow", "inspired_oxygen", "support"}),
            _spo2_v1,
        ),
    )
}


# ---- what the rules ask


def _nearest(facts: Sequence[Fact], moment: datetime) -> list[Fact]:
    """Those that are nearest, of those within 1 h; several where they are equally near."""
    found: list[Fact] = []
    least = WINDOW
    for fact in facts:
        away = _away(fact, moment)
        if away < least:
            found, least = [fact], away
        elif away == least:
            found.append(fact)
    return found


def _away(fact: Fact, moment: datetime) -> timedelta:
    """How far a moment is from a measurement, or from the span of a judgement."""
    if moment < fact.at:
        return fact.at - moment
    until = fact.until if fact.kind == "judgement" else None
    return max(moment - (until or fact.at), timedelta())


def _of_saturation(said: Said, fact: Fact) -> tuple[Label, str]:
    breathed = fact.breathing or _breathed(said, fact.at)
    if breathed == "oxygen":
        return "unknown", "oxygen"
    if breathed is None:
        return "unknown", "breathing_unsaid"
    if _value(fact) < LOW_SPO2_PERCENT:
        return "present", "spo2_low"
    if _value(fact) >= HIGH_SPO2_PERCENT:
        return "absent", "spo2_high"
    return "unknown", "between"


def _breathed(said: Said, moment: datetime) -> Breathing | None:
    """What was breathed then, by what is said of support and oxygen around it."""
    support = _support(said, moment)
    flows = _oxygen(said, moment)
    if any(fact.code != "none" for fact in support) or any(map(_shows_oxygen, flows)):
        return "oxygen"
    # What somebody forgot to end allows nothing.
    sure = [fact for fact in support if fact.until is not None or moment - fact.at <= WINDOW]
    return "room_air" if sure or flows else None


def _support(said: Said, moment: datetime) -> list[Fact]:
    """The support in force; several where they began together."""
    found = [
        fact
        for fact in said.get("support", ())
        if fact.at <= moment and (fact.until is None or moment <= fact.until)
    ]
    began = max((fact.at for fact in found), default=None)
    return [fact for fact in found if fact.at == began]


def _oxygen(said: Said, moment: datetime) -> list[Fact]:
    return [
        *_nearest(said.get("oxygen_flow", ()), moment),
        *_nearest(said.get("inspired_oxygen", ()), moment),
    ]


def _shows_oxygen(fact: Fact) -> bool:
    return _value(fact) > (0 if fact.kind == "oxygen_flow" else ROOM_AIR_PERCENT)


def _unsupported(said: Said, moment: datetime, measured_at: datetime) -> Decided | None:
    """None where nobody was supported; else why the label is unknown."""
    support = [*_support(said, moment), *_support(said, measured_at)]
    supported = [fact for fact in support if fact.code != "none"]
    if supported:
        return _unknown("support", supported)
    oxygen = [fact for fact in _oxygen(said, moment) if _shows_oxygen(fact)]
    return _unknown("oxygen", oxygen) if oxygen else None


def _in_force(fact: Fact, moment: datetime) -> bool:
    if fact.code not in DIAGNOSES or fact.at - moment > WINDOW:
        return False
    if fact.until is not None:
        return moment <= fact.until
    return fact.code == _CHRONIC or moment - fact.at <= DAY


def _is_unclear(fact: Fact, moment: datetime) -> bool:
    """Of a diagnosis that is not in force: whether it is near enough to spoil `absent`."""
    return (
        fact.code is not None
        and fact.code.startswith(("J96", "J80"))
        and fact.at - moment <= DAY
        and (fact.until is None or moment <= fact.until)
    )


def _last_paco2(said: Said, moment: datetime) -> list[Fact]:
    known = [fact for fact in said.get("paco2", ()) if fact.at - moment <= WINDOW]
    last = max((fact.at for fact in known), default=None)
    return [fact for fact in known if fact.at == last]


def _value(fact: Fact) -> float:
    assert fact.value is not None
    return fact.value


# ---- what they answer


def _decided(
    label: Label, reason: str, facts: Sequence[Fact], *, measured: bool = False
) -> Decided:
    evidence = tuple(sorted({fact.entry for fact in facts}))
    measured_at = min(fact.at for fact in facts) if measured else None
    return Decided(label=label, reason=reason, evidence=evidence, measured_at=measured_at)


def _unknown(reason: str, facts: Iterable[Fact] = (), evidence: Iterable[str] = ()) -> Decided:
    found = sorted({*(fact.entry for fact in facts), *evidence})
    return Decided(label="unknown", reason=reason, evidence=tuple(found))


def _moments(said: Said, first: datetime, last: datetime) -> list[datetime]:
    """Moments of a span, both ends in it, with one for each decision that a rule takes there.

    A rule changes its mind where something begins or ends to count, and half-way between two
    measurements; between two such moments it does not. None where it never does.
    """
    turns = set(_turns(said, first, last))
    if not turns:
        return []
    moments = sorted({first, *turns, last})
    return moments + [one + (next_one - one) / 2 for one, next_one in pairwise(moments)]


def _turns(said: Said, first: datetime, last: datetime) -> Iterator[datetime]:
    """When something begins or ends to count, within a span."""
    shifts = (*_SHIFTS, DAY, -DAY)
    all_spans = [(by, _shifted(first, -by), _shifted(last, -by)) for by in shifts]
    for kind, facts in said.items():
        edges = [edge for fact in facts for edge in (fact.at, fact.until) if edge]
        for shift, low, high in all_spans if kind == "diagnosis" else all_spans[: len(_SHIFTS)]:
            for edge in edges:
                if low <= edge <= high:
                    yield edge + shift
        if len(edges) > 1:
            edges.sort()
            for one, next_one in pairwise(edges):
                half = one + (next_one - one) / 2
                if first <= half <= last:
                    yield half
