"""The way back of one stream's results: frames, the end, and a reader at the other end that is slow."""

from __future__ import annotations

import asyncio

from services.model_server.streaming import Results


async def test_all_that_is_ready_goes_in_one_frame_in_order() -> None:
    """Answers and failures together; nothing is sent twice."""
    results = Results(asyncio.get_running_loop())
    results.expect(3)
    results.answer(5, 1, b"aaaa")
    results.answer(3, 2, b"bbbbcccc")
    results.fail(4, 8, "too much")
    results.end_input()
    frame = await results.next_frame()
    assert frame is not None
    assert list(frame.call_ids) == [5, 3]
    assert list(frame.rows) == [1, 2]
    assert frame.tensor == b"aaaabbbbcccc"
    assert [(f.call_id, f.code, f.message) for f in frame.failures] == [(4, 8, "too much")]
    assert await results.next_frame() is None


async def test_frames_end_after_the_last_expected_result() -> None:
    """The end of the input alone does not end them."""
    results = Results(asyncio.get_running_loop())
    results.expect(1)
    results.end_input()
    waiting = asyncio.create_task(results.next_frame())
    await asyncio.sleep(0)
    assert not waiting.done()
    results.answer(1, 1, b"aaaa")
    assert (await waiting) is not None
    assert await results.next_frame() is None


async def test_a_waiting_reader_is_woken_by_the_end() -> None:
    """A stream with nothing under way ends at once."""
    results = Results(asyncio.get_running_loop())
    waiting = asyncio.create_task(results.next_frame())
    await asyncio.sleep(0)
    results.end_input()
    assert await waiting is None


async def test_no_more_is_read_while_results_lie_about() -> None:
    """Memory stays bounded by 4 MiB of unsent results and what may wait in the queue."""
    results = Results(asyncio.get_running_loop())
    results.expect(5)
    for call_id in range(4):
        results.answer(call_id, 1, bytes(1 << 20))
        await results.room()
    results.answer(4, 1, b"aaaa")
    waiting = asyncio.create_task(results.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    await results.next_frame()
    await waiting


async def test_a_taker_that_was_cancelled_does_not_disturb() -> None:
    """Its place is simply empty."""
    results = Results(asyncio.get_running_loop())
    waiting = asyncio.create_task(results.next_frame())
    await asyncio.sleep(0)
    waiting.cancel()
    results.expect(1)
    results.answer(1, 1, b"aaaa")
    frame = await results.next_frame()
    assert frame is not None
    assert list(frame.call_ids) == [1]
