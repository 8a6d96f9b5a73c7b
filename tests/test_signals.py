import os
import signal
import threading

import pytest

from scene.signals import STOPS, Stopped, held_back, postponed, raise_stopped, stop_on_signals


@pytest.fixture(autouse=True)
def handlers():
    """Every test begins with the handlers of a command and must leave them in place."""
    before = {number: signal.getsignal(number) for number in STOPS}
    stop_on_signals()
    yield
    after = {signal.signal(number, handler) for number, handler in before.items()}
    assert after == {raise_stopped}


def send(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)


def test_signals_are_noted_and_the_second_one_works():
    with pytest.raises(Stopped) as stopped, postponed() as noted:
        send(signal.SIGTERM)
        assert noted == [signal.SIGTERM]
        with pytest.raises(Stopped) as second:
            send(signal.SIGINT)
    assert second.value.number == signal.SIGINT and second.value.exit_code == 130
    assert stopped.value.number == signal.SIGTERM, "nobody acted on it, so it is raised at the end"


@pytest.mark.parametrize("number", STOPS)
def test_signals_that_are_held_back_act_at_the_end(number):
    reached = []
    with pytest.raises(Stopped) as stopped, held_back():
        send(number, *STOPS)
        reached.append(True)
    assert reached and stopped.value.number == number, "the first one"


def test_in_a_postponed_block_those_held_back_are_noted():
    with pytest.raises(Stopped), postponed() as noted:
        with held_back():
            send(signal.SIGTERM)
            assert noted == []
        assert noted == [signal.SIGTERM]


def test_an_error_in_the_block_goes_on():
    with pytest.raises(ValueError, match="mine"), held_back():
        raise ValueError("mine")
    with pytest.raises(ValueError, match="mine"), postponed():
        raise ValueError("mine")


@pytest.mark.parametrize("block", [held_back, postponed])
def test_a_signal_that_is_ignored_stays_ignored(block):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop_on_signals()
    with block():
        send(signal.SIGHUP)
    assert signal.signal(signal.SIGHUP, raise_stopped) == signal.SIG_IGN


@pytest.mark.parametrize("block", [held_back, postponed])
def test_all_handlers_come_back_if_a_signal_stops_the_first_one(block, monkeypatch):
    restore = signal.signal

    def interrupted(number, handler):
        restore(number, handler)
        if handler is raise_stopped:
            signal.raise_signal(number)

    monkeypatch.setattr(signal, "signal", interrupted)
    with pytest.raises(Stopped), block():
        pass
    monkeypatch.undo()


def test_in_other_threads_nothing_changes():
    """Python runs handlers in the main thread, and lets no other set them."""
    failures = []

    def work():
        try:
            with held_back(), postponed():
                assert signal.getsignal(signal.SIGINT) == raise_stopped
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []
