"""Settings of Data Collection."""

from spira.domain.frozen import Frozen


class CollectionSettings(Frozen):
    """How visits are taken in."""

    # Spoken consents hold a name: in a bucket of their own, s3://bucket/prefix …, that only who
    # takes them in and reads them back may open. None: a folder in the data folder.
    consents: str | None = None
