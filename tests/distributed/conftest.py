"""The ranks of all tests in this folder."""

from collections.abc import Iterator

import pytest
from distributed.ranks import Ranks


@pytest.fixture(scope="session", params=[1, 2, 4], ids="{} ranks".format)
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    started = Ranks(request.param, tmp_path_factory.mktemp("ranks"))
    yield started
    started.stop()
