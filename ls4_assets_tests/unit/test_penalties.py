"""Penalties of clients whose requests crash workers."""

import pytest

from mapserver.penalties import Penalties, client_network


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def test_wait_doubles_up_to_a_minute_and_is_forgotten_after_ten() -> None:
    clock = Clock()
    penalties = Penalties(clock)
    assert penalties.remaining_seconds("a") == 0
    waits = []
    for _ in range(8):
        waits.append(penalties.add("a"))
        clock.seconds += waits[-1]
        assert penalties.remaining_seconds("a") == 0
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert penalties.remaining_seconds("b") == 0
    assert penalties.is_suspect("a")
    clock.seconds += 601
    assert not penalties.is_suspect("a")
    assert penalties.add("a") == 1


def test_clients_without_a_response_are_suspects_while_workers_crash() -> None:
    clock = Clock()
    penalties = Penalties(clock)
    penalties.add_success("known")
    assert not penalties.is_suspect("new")
    penalties.add("hostile")
    assert [penalties.is_suspect(each) for each in ("known", "new", "hostile")] == [False, True, True]
    clock.seconds += 11
    assert [penalties.is_suspect(each) for each in ("known", "new", "hostile")] == [False, False, True]


def test_number_of_clients_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mapserver.penalties._MAX_CLIENTS", 3)
    clock = Clock()
    penalties = Penalties(clock)
    for number in range(3):
        penalties.add(str(number))
    clock.seconds += 700
    penalties.add("new")
    assert [bool(penalties.remaining_seconds(each)) for each in ("0", "new")] == [False, True]
    for number in range(9):
        penalties.add(str(number))
    assert len(penalties._records) <= 3


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8::5", "2001:db8::/64"),
        ("::ffff:198.51.100.7", "198.51.100.7"),
        ("unix:", "unix:"),
        ("", "unknown"),
    ],
)
def test_client_is_an_address_or_an_ipv6_network(address: str, client: str) -> None:
    assert client_network(address) == client
