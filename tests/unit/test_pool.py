"""Threads that take calls."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import CancelledError

import pytest

from ckptsync.pool import Pool


def test_calls_are_done_by_so_many_threads_at_most() -> None:
    meeting = threading.Barrier(3)
    pool = Pool(3, name="pool")
    found = [pool.submit(lambda: (meeting.wait(30), threading.current_thread())[1]) for _ in range(6)]
    assert len({future.result(30) for future in found}) == 3
    pool.close()
    assert not any(thread.name == "pool" for thread in threading.enumerate())


def test_an_error_is_raised_where_the_result_is_asked_for() -> None:
    pool = Pool(1, name="pool")
    bad, good = pool.submit(lambda: 1 // 0), pool.submit(lambda: 7)
    assert good.result(30) == 7
    with pytest.raises(ZeroDivisionError):
        bad.result(30)
    pool.close()


def test_what_has_not_begun_is_cancelled_at_the_end() -> None:
    begun, go_on = threading.Event(), threading.Event()
    pool = Pool(1, name="pool")
    first = pool.submit(lambda: (begun.set(), go_on.wait(30)))
    second = pool.submit(lambda: 2)
    assert begun.wait(30)
    closing = threading.Thread(target=pool.close)
    closing.start()
    with pytest.raises(CancelledError):
        second.result(30)
    go_on.set()
    closing.join(30)
    assert first.done()
    pool.close()


def test_it_works_while_a_program_ends() -> None:
    code = """if True:
        import threading
        from ckptsync.pool import Pool
        def late():
            threading.main_thread().join()
            pool = Pool(2, name="pool")
            print(pool.submit(lambda: "done").result(30))
            pool.close()
        threading.Thread(target=late).start()
    """
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "done\n"
