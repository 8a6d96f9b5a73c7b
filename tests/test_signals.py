"""scene/signals.py: no stop signal is lost, wherever it comes, and all handlers are restored."""

import signal
import threading

import pytest

from scene.signals import STOPS, Stopped, deferred, ignore_stops, postponed, raise_stopped, stop_on_signals


@pytest.fixture(autouse=True)
def handlers():
    """Every test begins with the handlers of a command and must leave them in place."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in STOPS}       # ignored under nohup
    stop_on_signals()
    yield
    after = {signal.signal(number, handler) for number, handler in before.items()}
    assert after == {raise_stopped}


def send(*numbers):
    """To this thread, which acts at once. One sent to the process may reach another thread first."""
    for number in numbers:
        signal.pthread_kill(threading.get_ident(), number)


def test_signals_are_noted_and_the_second_one_works():
    with pytest.raises(Stopped) as stopped, postponed() as noted:
        send(signal.SIGTERM)
        assert noted == [signal.SIGTERM]
        with pytest.raises(Stopped) as second:
            send(signal.SIGINT)
    assert second.value.number == signal.SIGINT and second.value.exit_code == 130
    assert stopped.value.number == signal.SIGTERM, "nobody acted on it, so it is raised at the end"


@pytest.mark.parametrize("number", STOPS)
def test_signals_that_are_deferred_act_at_the_end(number):
    reached = []
    with pytest.raises(Stopped) as stopped, deferred():
        send(number, number)
        reached.append(True)
    assert reached and stopped.value.number == number


def test_of_several_deferred_signals_one_is_raised():
    with pytest.raises(Stopped), deferred():
        send(*STOPS)


def test_in_a_postponed_block_those_deferred_are_noted():
    with pytest.raises(Stopped), postponed() as noted:
        with deferred():
            send(signal.SIGTERM)
            assert noted == []
        assert noted == [signal.SIGTERM]


def masked():
    return set(STOPS) & signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_deferred_signals_are_blocked_too():
    """A process forked in the block by any thread does not get them."""
    with deferred():
        assert masked() == set(STOPS)
    assert masked() == set()


def test_a_worker_ignores_them():
    ignore_stops()
    assert {signal.getsignal(number) for number in STOPS} == {signal.SIG_IGN}
    for number in STOPS:
        signal.signal(number, raise_stopped)


@pytest.mark.parametrize("block", [deferred, postponed])
def test_an_error_in_the_block_goes_on(block):
    with pytest.raises(ValueError, match="mine"), block():
        raise ValueError("mine")


def test_a_deferred_signal_is_delivered_though_the_block_raises():
    with pytest.raises(Stopped) as stopped, deferred():
        send(signal.SIGTERM)
        raise OSError("no memory for a fork")
    assert isinstance(stopped.value.__context__, OSError)


@pytest.mark.parametrize("block", [deferred, postponed])
def test_a_signal_that_is_ignored_stays_ignored(block):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop_on_signals()
    with block():
        send(signal.SIGHUP)
    assert signal.signal(signal.SIGHUP, raise_stopped) == signal.SIG_IGN


@pytest.mark.parametrize("block", [deferred, postponed])
@pytest.mark.parametrize("moment", range(2 * len(STOPS)))
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_signal_while_handlers_are_replaced_or_restored_is_not_lost(block, moment, when, monkeypatch):
    """The calls of signal.signal, one for each handler to replace and to restore, are the moments."""
    change = signal.signal
    calls = []

    def interrupted(number, handler):
        calls.append(number)
        if len(calls) - 1 == moment and when == "before":
            send(number)
        change(number, handler)
        if len(calls) - 1 == moment and when == "after":
            send(number)

    monkeypatch.setattr(signal, "signal", interrupted)
    with pytest.raises(Stopped), block():
        pass


def test_after_a_second_signal_the_others_are_still_handled():
    with pytest.raises(Stopped), postponed() as noted:
        send(signal.SIGTERM)
        for _ in range(2):
            with pytest.raises(Stopped):
                send(signal.SIGINT)
    assert noted == [signal.SIGTERM, signal.SIGINT]


@pytest.mark.parametrize("block", [deferred, postponed])
def test_without_signal_masks_as_on_windows(block, monkeypatch):
    monkeypatch.delattr(signal, "pthread_sigmask")
    with pytest.raises(Stopped) as stopped, block():
        send(signal.SIGINT)
    assert stopped.value.number == signal.SIGINT


def test_in_other_threads_nothing_changes():
    """Python runs handlers in the main thread, and lets no other set them."""
    failures = []

    def work():
        try:
            with deferred(), postponed():
                assert signal.getsignal(signal.SIGINT) == raise_stopped
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []
