"""Many clients at once while a job trains; `python -m benchmarks.serving_load` has the figures."""

import asyncio

import pytest
from benchmarks.serving_load import measure, start_job
from tests.api.chat_world import Live, running


@pytest.fixture(scope="module")
def live() -> Live:
    return running()


def test_50_chats_at_once_while_a_job_trains_all_answer_and_reads_stay_fast(live: Live) -> None:
    job_id = start_job(live.http, model="tiny", epochs=50)
    try:
        seen = asyncio.run(
            measure(live.url, live.key, model="tiny", chats=50, at_once=50, max_tokens=16)
        )
        state = live.http.get(f"/fine_tuning/jobs/{job_id}").json()["status"]
    finally:
        live.http.post(f"/fine_tuning/jobs/{job_id}/cancel")
    assert seen.errors == (), live.said
    assert len(seen.chats_s) == 50
    assert state == "running"  # it was training all the while
    figures = seen.figures()
    assert figures["reads"] >= 3
    assert figures["read_p95_ms"] < 4000  # beside whatever else this machine does
