"""Rights to a part of a bucket: who may not ask for the bucket itself has still got the answer to his first question."""

from __future__ import annotations

import pyarrow.fs as arrow
import pytest

from fgray.errors import NotFound, StorageError
from fgray.storage import open_storage


class Store:
    """Answers as a store does whose policy allows the listing and reading of a prefix only."""

    def __init__(self, bucket: str) -> None:
        self._bucket = bucket

    def get_file_info(self, asked: object) -> object:
        if isinstance(asked, arrow.FileSelector):
            return []
        if asked == "bucket":
            raise OSError(self._bucket)
        return arrow.FileInfo(str(asked), type=arrow.FileType.NotFound)


@pytest.mark.parametrize(
    "said",
    [
        "When getting information for bucket 'bucket': AWS Error ACCESS_DENIED during HeadBucket operation: No response body.",
        "When getting information for bucket 'bucket': AWS Error UNKNOWN (HTTP status 403) during HeadBucket operation: No response body.",
    ],
)
def test_a_bucket_that_may_not_be_asked_for_is_there(said: str) -> None:
    storage = open_storage("s3://bucket/runs/one")
    storage._connection = Store(said)  # type: ignore[attr-defined]
    with pytest.raises(NotFound, match="no such object"):
        storage.stat("run.json")
    assert not storage.exists("run.json") and list(storage.list()) == []


def test_a_bucket_that_is_missing_is_still_told() -> None:
    storage = open_storage("s3://bucket/runs/one")
    storage._connection = Store("AWS Error NO_SUCH_BUCKET during HeadBucket operation")  # type: ignore[attr-defined]
    with pytest.raises(StorageError, match="there is no bucket 'bucket'"):
        storage.stat("run.json")
