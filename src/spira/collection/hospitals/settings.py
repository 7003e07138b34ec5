"""Settings of the hospitals that labels are pulled from."""

from pathlib import Path
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator

from spira.domain.frozen import Frozen


class HospitalSettings(Frozen):
    """One hospital: where its FHIR server is, who we are to it, and how it names its patients."""

    url: str  # the FHIR base: what `Patient/…` is below
    client_id: str = Field(min_length=1)  # by which the hospital knows us
    # The private key that we show, a JWK Set (`spira hospital key` makes it); None: in the keys
    # folder, `hospital-NAME.jwks`. The variable SPIRA_HOSPITAL_KEY_NAME goes before it.
    key: Path | None = None
    # The file of a plain secret, for a hospital that takes no keys. The variable
    # SPIRA_HOSPITAL_SECRET_NAME goes before it.
    secret: Path | None = None
    scopes: str = "system/Patient.read system/Observation.read system/Condition.read"
    # Identifier systems of the hospital, the most trusted first, and what the forms call each.
    systems: dict[str, str] = Field(min_length=1)
    group: str | None = None  # whose $export is pulled; None: only searches
    site: dict[str, str] = Field(default_factory=dict)  # narrows a search to the site
    files_from: tuple[str, ...] = ()  # other servers that files of an export may lie on
    zone: str = "America/Sao_Paulo"  # where dates without a time of day are meant
    diagnoses: tuple[str, ...] = ("J96", "J80")  # what kept CID-10 codes begin with
    look_back_days: float = Field(default=30.0, gt=0)  # visits whose patient is searched for
    window_h: float = Field(default=12.0, gt=0)  # around a visit, in such a search
    wait_s: float = Field(default=3600.0, gt=0)  # for an export to be ready; then the next pull
    patience_s: float = Field(default=900.0, gt=0)  # with a server that is away

    @field_validator("url")
    @classmethod
    def _a_base(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("write it as https://fhir.hospital.example/r4")
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError("is more than an address; secrets have settings of their own")
        return value.rstrip("/")

    @field_validator("zone")
    @classmethod
    def _a_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError("is no time zone; write it as America/Sao_Paulo") from error
        return value

    @field_validator("key", "secret")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().resolve()
