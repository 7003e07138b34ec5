"""Whether what a study collects is in balance: which strata are missing, what gives the label away.

A model learns whatever goes with the label. If the sick are recorded on one ward with one phone
and the well on another, it learns the ward and the phone, and no later step can take that out
again. While a study collects, it still can be mended: by recording other people, elsewhere.

Everything here takes a table of visits, in the order of their times, and knows no database. A
person counts once: by the first visit with a known label, else by the first.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from spira.domain.answers import Sentence
from spira.domain.draws import draws
from spira.domain.frozen import Frozen
from spira.domain.recordings import LabelCounts, Sex
from spira.domain.studies import Stratum, Study, age_ends
from spira.evaluation.wording import decimal, fill, percent

Verdict = Literal["proxy", "none seen", "not enough data"]

VISITS: Mapping[str, Any] = {  # columns of the table; whatever is not known is null
    "person": pl.String,  # not the pseudonym: one name for all pseudonyms of a person
    "sex": pl.String,
    "age": pl.Int64,  # years
    "site": pl.String,
    "ward": pl.String,  # within a site, where a form asks for it
    "device": pl.String,
    "noise_floor_dbfs": pl.Float64,
    "hour": pl.Int64,  # 0 to 23, where it was recorded
    "label": pl.String,  # present, absent, unknown; never null
}

FEWEST = 20  # people of each label below which nothing is tested (see `weigh`)
LIMIT = 0.03  # of the normalised mutual information (see `weigh`)
_SIGNIFICANT = 0.05  # after correction
_SHUFFLES = 9_999
_RARE = 5  # people; rarer sites, wards and devices count as one, as in the acquisition audit
_HOURS = 6  # in one band
_SEED = 0  # the same visits always give the same verdict


class _Words(NamedTuple):
    title: Sentence
    advice: Sentence


NUISANCES: Mapping[str, _Words] = {
    "site": _Words(
        Sentence(pt="Local", en="Site"),
        Sentence(
            pt="Recrute pessoas com e sem IR nos mesmos locais.",
            en="Recruit people with and without RI at the same sites.",
        ),
    ),
    "ward": _Words(
        Sentence(pt="Enfermaria", en="Ward"),
        Sentence(
            pt="Recrute pessoas com e sem IR nas mesmas enfermarias.",
            en="Recruit people with and without RI on the same wards.",
        ),
    ),
    "device": _Words(
        Sentence(pt="Aparelho", en="Device"),
        Sentence(
            pt="Use os mesmos aparelhos com os dois grupos.",
            en="Use the same devices with both groups.",
        ),
    ),
    "noise": _Words(
        Sentence(pt="Ruído de fundo", en="Noise floor"),
        Sentence(
            pt="Grave os dois grupos em ambientes com o mesmo ruído.",
            en="Record both groups in rooms with the same noise.",
        ),
    ),
    "hour": _Words(
        Sentence(pt="Hora", en="Hour"),
        Sentence(
            pt="Grave os dois grupos nos mesmos horários.",
            en="Record both groups at the same hours.",
        ),
    ),
}
_NOT_KNOWN = Sentence(pt="não informado", en="not reported")
_RARE_ONES = Sentence(pt=f"demais (menos de {_RARE} pessoas)", en=f"others (under {_RARE} people)")


class Filled(Frozen):
    """One stratum: how many people are wanted, and how many are there."""

    stratum: Stratum
    wanted: int
    found: int

    @property
    def missing(self) -> int:
        """How many more are wanted."""
        return max(0, self.wanted - self.found)


class Category(Frozen):
    """People of one value of a nuisance."""

    title: Sentence
    present: int
    absent: int

    @property
    def people(self) -> int:
        """Both together."""
        return self.present + self.absent


class Nuisance(Frozen):
    """What one nuisance tells about the label."""

    name: str
    title: Sentence
    categories: tuple[Category, ...]
    information: float | None  # normalised mutual information, 0 to 1; None: not tested
    p: float | None  # of chance alone giving as much, corrected for all that were tested
    verdict: Verdict
    words: Sentence


class Balance(Frozen):
    """How a study stands."""

    label_policy: str  # by which people count as with or without RI
    people: LabelCounts
    strata: tuple[Filled, ...]
    untold: tuple[Filled, ...]  # those missing that no collector is told of (see `wanted_today`)
    nuisances: tuple[Nuisance, ...]
    today: Mapping[str, Sentence | None]  # site -> what collectors there are told


def weigh(study: Study, visits: pl.DataFrame, policy: str) -> Balance:
    """How a study stands against its targets, and which nuisance is becoming a proxy for the label.

    visits    columns as in `VISITS`
    policy    that labelled them, as it is called

    A nuisance is a *proxy* where it tells at least `LIMIT` of the label, and chance alone would
    give that much in under 5 % of studies. The measure is scikit-learn's normalised mutual
    information, divided by the smaller entropy: 1 where the nuisance tells the label of everybody,
    also where it has more values than there are labels. 0.03 is two devices in even use, with some
    60 sick people of 100 on one and 40 on the other: an AUROC of 0.60, where an acquisition audit
    refuses at 0.65. Chance is measured by shuffling the labels among the people 9,999 times, drawn
    as what that comes to: how many present ones fall into each category. Several nuisances are
    corrected for by Holm's method, which holds however they depend on one another.

    Below 20 people of each label the verdict is `not enough data`. With 20 a device that goes with
    the label in 80 of 100 people is found 9 times in 10, with 15 only 3 times in 4 (of 60 simulated
    studies). `none seen` is no proof of balance either.

    source    Vinh, Epps, Bailey, Information Theoretic Measures for Clusterings Comparison, JMLR
              2010; Holm, Scandinavian Journal of Statistics 1979
    """
    people = _once(visits.sort(pl.col("label") == "unknown", maintain_order=True))
    wanted = study.strata
    strata = tuple(
        Filled(stratum=stratum, wanted=wanted[stratum], found=found)
        for stratum, found in _count(people, wanted).items()
    )
    anybody = _missing(study, visits)
    return Balance(
        label_policy=policy,
        people=LabelCounts.model_validate(dict(people["label"].value_counts().iter_rows())),
        strata=strata,
        untold=tuple(one for one in strata if one.missing and anybody[_anybody(one.stratum)] <= 0),
        nuisances=_nuisances(study, people.filter(pl.col("label") != "unknown")),
        today={site.name: wanted_today(study, visits, site=site.name) for site in study.sites},
    )


def wanted_today(study: Study, visits: pl.DataFrame, *, site: str) -> Sentence | None:
    """Whom a collector at a site should look for; None where nobody is missing there.

    visits    columns as in `VISITS`; the label is not looked at

    A collector who knows which label is wanted records differently: another room, another tone, one
    more attempt. So the sentence is a function of targets and of who was recorded, never of their
    labels: whichever they turn out to be, it stays the same, and nothing can be read from it or
    from how it changes. Targets are summed over labels, and a target of one label alone, whose
    very mention would tell, is left out.

    The price: where the sum is reached with the wrong labels, collectors are not told to go on.
    Only the lead sees that (`Balance.untold`), and answers with where and when people are recorded.
    """
    missing = _missing(study, visits)
    here = [stratum for stratum in missing if stratum.site in (None, site)]
    most = max(here, key=lambda stratum: missing[stratum], default=None)
    if most is None or missing[most] <= 0:
        return None
    return fill("Hoje, procure: {who}.", "Today, look for: {who}.", who=describe(study, most))


def describe(study: Study, stratum: Stratum) -> Sentence:
    """A stratum in words: mulheres de 60 a 79 anos, Enfermaria B, com IR."""
    who = _PEOPLE[stratum.sex]
    if stratum.ages is not None:
        low, high = age_ends(stratum.ages)
        if high is None:
            who = fill("{who} de {low} anos ou mais", "{who} aged {low} and over", who=who, low=low)
        else:
            who = fill(
                "{who} de {low} a {high} anos",
                "{who} aged {low} to {high}",
                who=who,
                low=low,
                high=high,
            )
    for part in (_site_title(study, stratum.site), _LABELS[stratum.label]):
        if part is not None:
            who = fill("{who}, {part}", "{who}, {part}", who=who, part=part)
    return who


_PEOPLE: Mapping[Sex | None, Sentence] = {
    "female": Sentence(pt="mulheres", en="women"),
    "male": Sentence(pt="homens", en="men"),
    None: Sentence(pt="pessoas", en="people"),
}
_LABELS: Mapping[str | None, Sentence | None] = {
    "present": Sentence(pt="com IR", en="with RI"),
    "absent": Sentence(pt="sem IR", en="without RI"),
    None: None,
}


def _site_title(study: Study, name: str | None) -> Sentence | None:
    if name is None:
        return None
    site = study.site(name)
    return site.title if site else Sentence(pt=name, en=name)


def _once(visits: pl.DataFrame) -> pl.DataFrame:
    """The first row of each person."""
    return visits.unique("person", keep="first", maintain_order=True)


def _missing(study: Study, visits: pl.DataFrame) -> dict[Stratum, int]:
    """Strata without their label -> people wanted less people there, whatever label anybody has.

    0 or less where nobody may be asked for: also where the targets name one label alone.
    """
    people = _once(visits.select("person", "sex", "age", "site"))
    wanted: dict[Stratum, dict[str | None, int]] = {}
    for stratum, number in study.strata.items():
        wanted.setdefault(_anybody(stratum), {})[stratum.label] = number
    there = _count(people, wanted)
    missing = {}
    for stratum, by_label in wanted.items():
        both = [by_label.get(label, 0) for label in ("present", "absent")]
        total = max(sum(both) if all(both) else 0, by_label.get(None, 0))
        missing[stratum] = total - there[stratum]
    return missing


def _count(people: pl.DataFrame, strata: Iterable[Stratum]) -> dict[Stratum, int]:
    """How many of the people belong to each stratum."""
    each = {str(number): stratum for number, stratum in enumerate(strata)}
    counted = people.select(_belongs(stratum).sum().alias(key) for key, stratum in each.items())
    return {stratum: counted[key].item() for key, stratum in each.items()}


def _anybody(stratum: Stratum) -> Stratum:
    """The stratum without its label."""
    return stratum.model_copy(update={"label": None})


def _belongs(stratum: Stratum) -> pl.Expr:
    belongs = pl.col("person").is_not_null()
    for column in ("sex", "site", "label"):
        value = getattr(stratum, column)
        if value is not None:
            belongs &= pl.col(column) == value
    if stratum.ages is not None:
        low, high = age_ends(stratum.ages)
        belongs &= pl.col("age").is_between(low, high if high is not None else 1000)
    return belongs


# ---- what goes with the label


def _nuisances(study: Study, people: pl.DataFrame) -> tuple[Nuisance, ...]:
    """Every nuisance of people with known labels."""
    present = (people["label"] == "present").to_numpy()
    enough = min(present.sum(), (~present).sum()) >= FEWEST
    sorted_in = {
        name: _sort_in(study, name, people)
        for name in NUISANCES
        if name != "ward" or people["ward"].is_not_null().any()  # most studies have none
    }
    tested = {
        name: _tell(present, codes, name)
        for name, (titles, codes) in sorted_in.items()
        if enough and titles != [_NOT_KNOWN]
    }
    corrected = _holm({name: p for name, (_, p) in tested.items()})
    found = []
    for name, (titles, codes) in sorted_in.items():
        categories = tuple(
            Category(
                title=title,
                present=int((present & (codes == code)).sum()),
                absent=int((~present & (codes == code)).sum()),
            )
            for code, title in enumerate(titles)
        )
        information, p = tested.get(name, (0.0, 1.0))[0], corrected.get(name, 1.0)
        verdict: Verdict = "none seen"
        if name not in tested:
            verdict = "not enough data"
        elif information >= LIMIT and p < _SIGNIFICANT:
            verdict = "proxy"
        found.append(
            Nuisance(
                name=name,
                title=NUISANCES[name].title,
                categories=categories,
                information=information if name in tested else None,
                p=p if name in tested else None,
                verdict=verdict,
                words=_words(name, categories, verdict, information, p),
            )
        )
    return tuple(found)


def _tell(present: NDArray[np.bool_], codes: NDArray[np.int64], name: str) -> tuple[float, float]:
    """(what the codes tell of the labels, p-value of a permutation test)

    present   [N], codes [N] from 0
    """
    from sklearn.metrics import normalized_mutual_info_score

    totals = np.bincount(codes)
    if len(totals) < 2:
        return 0.0, 1.0
    share = normalized_mutual_info_score(present, codes, average_method="min")
    # Labels shuffled among the people: how many present ones each category has then, [shuffles, C].
    rng = draws(_SEED, "balance", name)
    shuffled = rng.multivariate_hypergeometric(totals, int(present.sum()), size=_SHUFFLES)
    seen = _information(np.bincount(codes[present], minlength=len(totals))[None, :], totals)[0]
    as_much = (_information(shuffled, totals) >= seen - 1e-12).sum()
    return float(share), float((1 + as_much) / (1 + _SHUFFLES))


def _information(present: NDArray[np.int64], totals: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mutual information in nats of tables [R, C] of present ones with the same totals [C]: [R].

    Normalising divides all of them by the same number: shuffling changes no margin.
    """
    from scipy.special import xlogy

    n, with_label = int(totals.sum()), present.sum(axis=1, keepdims=True)
    information: NDArray[np.float64] = np.zeros(len(present))
    for cells, margin in ((present, with_label), (totals - present, n - with_label)):
        information += xlogy(cells, cells * n / (totals * np.maximum(margin, 1))).sum(axis=1)
    return information / n


def _holm(p: Mapping[str, float]) -> dict[str, float]:
    """p-values corrected for how many they are, by Holm's step-down method."""
    corrected: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p, key=lambda name: p[name])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[name]))
        corrected[name] = largest
    return corrected


def _sort_in(
    study: Study, name: str, people: pl.DataFrame
) -> tuple[list[Sentence], NDArray[np.int64]]:
    """(title of each category, category of each person); categories that nobody is in are left out

    returns   titles [C], codes [N]
    """
    if name == "noise":
        keys, titles = _by_noise(people["noise_floor_dbfs"].to_list())
    elif name == "hour":
        keys = [None if hour is None else hour // _HOURS for hour in people["hour"]]
        titles = {band: _hours(band) for band in range(24 // _HOURS)}
    else:
        keys, titles = _by_name(study, name, people[name].to_list())
    taken = set(keys)
    there = [key for key in (*titles, None) if key in taken]
    codes = np.array([there.index(key) for key in keys], dtype=np.int64)
    return [titles.get(key, _NOT_KNOWN) for key in there], codes


def _by_name(
    study: Study, name: str, values: Sequence[str | None]
) -> tuple[list[Any], dict[Any, Sentence]]:
    """Sites in the study's order, wards and devices the most frequent first, rare ones as one."""
    people = Counter(value for value in values if value is not None)
    often = sorted(
        (value for value in people if people[value] >= _RARE), key=lambda v: (-people[v], v)
    )
    titles: dict[Any, Sentence] = {value: Sentence(pt=value, en=value) for value in often}
    if name == "site":
        titles = {site.name: site.title for site in study.sites if site.name in often} | {
            value: title for value, title in titles.items() if study.site(value) is None
        }
    return [value if value is None or value in titles else "" for value in values], titles | {
        "": _RARE_ONES
    }


def _by_noise(values: Sequence[float | None]) -> tuple[list[Any], dict[Any, Sentence]]:
    """Quarters of the people by their noise floor: no band is empty, whatever the devices' gain."""
    levels = np.array([np.nan if value is None else value for value in values])
    known = np.isfinite(levels)
    quarters = np.quantile(levels[known], (0.25, 0.5, 0.75)) if known.any() else np.array([])
    edges = sorted({round(float(edge), 1) for edge in quarters})
    written = [decimal(edge, 1) for edge in edges]
    titles: dict[Any, Sentence] = (
        {0: fill("abaixo de {high} dBFS", "below {high} dBFS", high=written[0])} if edges else {}
    )
    for band, (low, high) in enumerate(pairwise(written), start=1):
        titles[band] = fill("{low} a {high} dBFS", "{low} to {high} dBFS", low=low, high=high)
    if edges:
        titles[len(edges)] = fill("{low} dBFS ou mais", "{low} dBFS and over", low=written[-1])
    bands = np.searchsorted(edges, levels, side="right").tolist()
    keys = [band if is_known else None for band, is_known in zip(bands, known, strict=True)]
    return keys, titles


def _hours(band: int) -> Sentence:
    first, after = band * _HOURS, (band + 1) * _HOURS
    return Sentence(pt=f"{first} h às {after} h", en=f"{first:02d}:00 to {after:02d}:00")


def _words(
    name: str, categories: Sequence[Category], verdict: Verdict, information: float, p: float
) -> Sentence:
    """What a verdict means, and what to do."""
    title, advice = NUISANCES[name]
    present = sum(category.present for category in categories)
    absent = sum(category.absent for category in categories)
    if verdict == "proxy":
        large = [one for one in categories if one.people >= _RARE]
        shown = large if len(large) > 1 else categories
        share = {one: one.present / one.people for one in shown}
        most, least = max(share, key=share.__getitem__), min(share, key=share.__getitem__)
        return fill(
            "{title}: acompanha o rótulo. {most}: {a} de {b} pessoas com IR; {least}: {c} de {d}. "
            "Um modelo pode aprender isso em vez da voz. {advice}",
            "{title}: goes with the label. {most}: {a} of {b} people with RI; {least}: {c} of {d}. "
            "A model may learn that instead of the voice. {advice}",
            title=title,
            most=most.title,
            a=most.present,
            b=most.people,
            least=least.title,
            c=least.present,
            d=least.people,
            advice=advice,
        )
    if verdict == "none seen" and p >= _SIGNIFICANT:
        return fill(
            "{title}: nada além do que o acaso dá, entre {n} pessoas. Isso não prova equilíbrio.",
            "{title}: nothing beyond what chance gives, among {n} people. That does not prove "
            "balance.",
            title=title,
            n=present + absent,
        )
    if verdict == "none seen":
        return fill(
            "{title}: acompanha o rótulo só um pouco: diz {share} dele, e até {limit} não "
            "preocupa.",
            "{title}: goes with the label a little only: it tells {share} of it, and up to {limit} "
            "is no worry.",
            title=title,
            share=percent(information, 1),
            limit=percent(LIMIT),
        )
    if min(present, absent) >= FEWEST:
        return fill(
            "{title}: não informado em nenhuma visita.",
            "{title}: not reported of any visit.",
            title=title,
        )
    return fill(
        "{title}: dados insuficientes. São precisas {n} pessoas com IR e {n} sem; há {a} e {b}.",
        "{title}: not enough data. It takes {n} people with RI and {n} without; there are {a} "
        "and {b}.",
        title=title,
        n=FEWEST,
        a=present,
        b=absent,
    )
