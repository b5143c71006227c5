"""A running server shows the metrics that the dashboard's check and the operators' page count on."""

import pytest

from tests.support.dev_server import DevServer
from tests.unit.chart.test_metrics_page import shown

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(60)]


async def test_the_running_services_show_every_metric_and_no_other(server: DevServer) -> None:
    pages = (await server.told("/metrics")).values()
    names = {
        line.split()[2] for page in pages for line in page.splitlines() if line.startswith("# TYPE")
    }
    assert names == set(shown())
