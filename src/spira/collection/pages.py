"""The balance of a study as one self-contained HTML page, for the study's lead.

It looks like the evaluation report, whose style sheet and figures it uses: Portuguese and English,
no network, no script. It names the label that is wanted: no collector should see it.
"""

import math
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from markupsafe import Markup

from spira.collection.balance import (
    FEWEST,
    LIMIT,
    Balance,
    Filled,
    Nuisance,
    Verdict,
    describe,
)
from spira.domain.answers import Sentence
from spira.domain.studies import BRASILIA, Study, accepts
from spira.evaluation.intervals import clopper_pearson
from spira.evaluation.report import page_environment
from spira.evaluation.results import Estimate
from spira.evaluation.wording import in_hundred, word

if TYPE_CHECKING:
    from jinja2 import Environment

_MOST_SHOWN = 6  # strata in the summary
_VERDICTS: dict[Verdict, tuple[str, Sentence]] = {  # shape and words
    "proxy": ("fail", Sentence(pt="acompanha o rótulo", en="goes with the label")),
    "none seen": ("pass", Sentence(pt="nada visto", en="none seen")),
    "not enough data": ("open", word("not enough data")),
}
_COLUMNS = ("present", "absent", None)  # labels, in the order of the page


class _Row(NamedTuple):
    """People of one sex and age band at a place, by label."""

    who: Sentence
    by_label: dict[str | None, Filled]


class _Place(NamedTuple):
    """The targets of one site, or of all together."""

    title: Sentence
    labels: list[str | None]
    rows: list[_Row]


def render_balance(study: Study, balance: Balance, *, at: datetime) -> str:
    """The page; the same input, the same bytes.

    at        when it is made: an ethics approval may have ended
    """
    counted = balance.people.present + balance.people.absent
    most_wanted = sorted(
        (one for one in balance.strata if one.missing), key=lambda one: -one.missing
    )
    return (
        _environment()
        .get_template("balance.html.j2")
        .render(
            study=study,
            balance=balance,
            made=f"{at.astimezone(BRASILIA):%Y-%m-%d %H:%M} (Brasília)",
            refused=accepts(study, at, synthetic=False),
            proxies=[one for one in balance.nuisances if one.verdict == "proxy"],
            most_wanted=[(describe(study, one.stratum), one) for one in most_wanted[:_MOST_SHOWN]],
            untold=[(describe(study, one.stratum), one) for one in balance.untold],
            missing=sum(one.missing for one in balance.strata),
            complete=sum(not one.missing for one in balance.strata),
            places=_places(study, balance.strata),
            overall=balance.people.present / counted if counted else None,
            verdicts=_VERDICTS,
            limit=LIMIT,
            fewest=FEWEST,
        )
        .lstrip()
    )


def _places(study: Study, strata: Sequence[Filled]) -> list[_Place]:
    """The targets as the page shows them: a table for each site, a column for each label."""
    places: dict[str | None, dict[Sentence, dict[str | None, Filled]]] = {}
    for one in strata:
        who = describe(study, one.stratum.model_copy(update={"site": None, "label": None}))
        places.setdefault(one.stratum.site, {}).setdefault(who, {})[one.stratum.label] = one
    shown = []
    for name, rows in places.items():
        site = study.site(name) if name is not None else None
        labels = {label for by_label in rows.values() for label in by_label}
        shown.append(
            _Place(
                title=site.title if site else Sentence(pt="Todos os locais", en="All sites"),
                labels=[label for label in _COLUMNS if label in labels],
                rows=[_Row(who, by_label) for who, by_label in rows.items()],
            )
        )
    return shown


def _progress(one: Filled) -> Markup:
    """How much of a target is there: a bar in a frame as long as the target."""
    share = min(1.0, one.found / one.wanted)
    kind = {"present": "share-present", "absent": "share-absent", None: "share-unknown"}
    return Markup(
        '<svg class="progress" width="100%" height="10" aria-hidden="true">'
        '<rect class="frame" x="0.5" y="0.5" width="99%" height="9"/>'
        '<rect class="{}" x="0.5" y="0.5" width="{:.1f}%" height="9"/></svg>'
    ).format(kind[one.stratum.label], 99 * share)


def _share(present: int, people: int) -> Estimate:
    """The share with the label present, with its exact interval."""
    low, high = clopper_pearson(present, people)
    return Estimate(value=present / people, low=low, high=high, n=people, method="Clopper-Pearson")


def _reach(nuisances: Sequence[Nuisance]) -> float:
    """Where the scale of information ends: the same for all, so that bars can be compared."""
    largest = max((one.information or 0.0 for one in nuisances), default=0.0)
    return min(1.0, max(0.1, math.ceil(largest * 10) / 10))


def _label(label: str | None) -> Sentence:
    return word(label) if label else Sentence(pt="com ou sem IR", en="with or without RI")


def _capital(said: Sentence) -> Sentence:
    return Sentence(pt=said.pt[:1].upper() + said.pt[1:], en=said.en[:1].upper() + said.en[1:])


def _told(nuisance: Nuisance) -> Estimate:
    return Estimate(value=nuisance.information, n=sum(one.people for one in nuisance.categories))


@cache
def _environment() -> "Environment":
    environment = page_environment("spira.collection", "spira.evaluation")
    environment.globals.update(
        in_hundred=in_hundred,
        progress=_progress,
        share=_share,
        reach=_reach,
        label_word=_label,
        told=_told,
        capital=_capital,
    )
    return environment
