"""The simulated hospital is as strict as a real one, so that what it takes is worth something."""

import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey

from spira.collection.hospitals.keys import make_key, read_credentials
from spira.collection.hospitals.simulator import Simulator
from spira.collection.hospitals.truth import SYSTEM, Truth, make_truth, record_number
from spira.synthetic.records import Hospital, admit

ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
SCOPES = "system/Patient.read system/Observation.read system/Condition.read"


@pytest.fixture(scope="module")
def truth() -> Truth:
    """Of ten patients."""
    return make_truth(admit(Hospital(seed=3, participants=10)), 3)


@pytest.fixture
def key(tmp_path: Path) -> ECKey:
    """What the client signs with."""
    make_key(tmp_path / "key.json", "ES384", rotate=False)
    (found,) = read_credentials("hc", "spira", tmp_path / "key.json", None, {}).keys
    assert isinstance(found, ECKey)
    return found


@pytest.fixture
def ask(truth: Truth, key: ECKey) -> Iterator[Callable[..., httpx.Response]]:
    """`ask("GET", "/fhir/…")`: a request to one that runs, as given."""
    public = {"keys": [key.as_dict(private=False)]}
    simulator = Simulator(truth, client_id="spira", keys=public, polls=0)
    with simulator.running() as url, httpx.Client(base_url=url.removesuffix("/fhir")) as http:
        yield lambda method, path, **how: http.request(method, path, **how)


def asserted(ask: Callable[..., httpx.Response], key: ECKey, **changes: Any) -> dict[str, str]:
    """A form that asks for a token, with an assertion as it has to be unless told."""
    known = ask("GET", "/fhir/.well-known/smart-configuration").json()
    claims = {
        "iss": "spira",
        "sub": "spira",
        "aud": known["token_endpoint"],
        "jti": secrets.token_hex(8),
        "exp": int(time.time()) + 240,
        **changes,
    }
    header = {"alg": "ES384", "kid": key.kid}
    return {
        "grant_type": "client_credentials",
        "scope": SCOPES,
        "client_assertion_type": ASSERTION,
        "client_assertion": jwt.encode(header, claims, key, algorithms=["ES384"]),
    }


def bearer(ask: Callable[..., httpx.Response], key: ECKey, scope: str = SCOPES) -> dict[str, str]:
    """The head of a request with a token."""
    answer = ask("POST", "/token", data=asserted(ask, key) | {"scope": scope})
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "somebody"},
        {"sub": "somebody"},
        {"aud": "http://127.0.0.1/token"},
        {"exp": int(time.time()) + 3600},
        {"exp": int(time.time()) - 60},
        {"jti": None},
    ],
    ids=["issuer", "subject", "audience", "too long", "over", "no id"],
)
def test_an_assertion_that_is_not_as_it_must_be_gets_no_token(
    changes: dict[str, Any], ask: Callable[..., httpx.Response], key: ECKey
) -> None:
    """Each part of it counts."""
    assert ask("POST", "/token", data=asserted(ask, key, **changes)).status_code == 401
    assert ask("POST", "/token", data=asserted(ask, key)).status_code == 200


def test_an_assertion_counts_once_and_only_by_the_right_key(
    ask: Callable[..., httpx.Response], key: ECKey
) -> None:
    """A second time it is somebody else's."""
    form = asserted(ask, key)
    other = ECKey.generate_key("P-384", {"kid": key.kid})

    assert ask("POST", "/token", data=form).status_code == 200
    assert ask("POST", "/token", data=form).status_code == 401
    assert ask("POST", "/token", data=asserted(ask, other)).status_code == 401
    assert ask("POST", "/token", data={"grant_type": "password"}).status_code == 400


def test_scopes_are_kept_to(ask: Callable[..., httpx.Response], key: ECKey) -> None:
    """Those of a user are not given; one resource's do not open another's."""
    form = asserted(ask, key) | {"scope": "user/Patient.read"}
    assert ask("POST", "/token", data=form).json() == {"error": "invalid_scope"}

    head = bearer(ask, key, "system/Observation.rs")
    assert ask("GET", "/fhir/Observation", headers=head).status_code == 200
    assert ask("POST", "/fhir/Condition/_search", headers=head).status_code == 403
    assert ask("GET", "/fhir/Group/cohort/$export", headers=head).status_code == 403
    assert ask("GET", "/fhir/Observation").status_code == 401


def test_exports_and_numbers_are_asked_for_as_the_standards_have_it(
    ask: Callable[..., httpx.Response], key: ECKey, truth: Truth
) -> None:
    """Asynchronously; and with a number in the body of a POST only."""
    head = bearer(ask, key)
    number = f"{SYSTEM}|{truth.patients[0].record_number}"

    assert ask("GET", "/fhir/Group/cohort/$export", headers=head).status_code == 400
    begun = ask("GET", "/fhir/Group/cohort/$export", headers=head | {"Prefer": "respond-async"})
    assert begun.status_code == 202
    ready = ask("GET", begun.headers["Content-Location"], headers=head).json()
    assert ready["requiresAccessToken"]
    assert ask("GET", ready["output"][0]["url"]).status_code == 401
    for method, path, name in (
        ("GET", "/fhir/Patient", "identifier"),
        ("GET", "/fhir/Observation", "patient.identifier"),
        ("POST", "/fhir/Patient/_search", "identifier"),
    ):
        assert ask(method, path, params={name: number}, headers=head).status_code == 400
    found = ask("POST", "/fhir/Patient/_search", data={"identifier": number}, headers=head).json()
    assert [one["resource"]["id"] for one in found["entry"]] == [truth.patients[0].id]


def test_a_truth_is_a_function_of_its_seed(truth: Truth) -> None:
    """Numbers too, so that devices that record the same people know them."""
    again = make_truth(admit(Hospital(seed=3, participants=10)), 3)
    other = make_truth(admit(Hospital(seed=4, participants=10)), 4)

    assert again == truth
    assert other != truth
    for patient in truth.patients:
        assert patient.record_number == record_number(3, patient.participant.id)
    assert len({patient.record_number for patient in truth.patients}) == 10


def test_each_visit_has_the_saturation_that_its_participant_was_made_with() -> None:
    """Within half an hour, on room air: the label policy finds the planted label."""
    truth = make_truth(
        admit(Hospital(seed=3, participants=40)), 3, troubles=False, corrected=0, retracted=0
    )
    said = truth.in_force(truth.moments[-1]).values()

    for patient in truth.patients:
        near = [
            one
            for whom, one in said
            if whom == patient
            and one.kind == "spo2"
            and abs((one.at - patient.participant.visited_at).total_seconds()) < 1800
        ]
        assert [one.value for one in near] == [patient.participant.spo2_percent]
        assert near[0].breathing == "room_air"
