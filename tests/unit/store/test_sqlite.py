"""The store in a real file: leases, rows, thresholds, retention."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from forebay.errors import StoreClosed
from forebay.store import BudgetPlan, JournalPosition, LeaseBalance, LeaseGrant, SqliteStore

AT = JournalPosition(1, 100)


def test_a_draw_grants_what_is_left_and_no_more(store, bench):
    assert store.draw([bench.ask(60), bench.ask(60), bench.ask(60)]) == [
        LeaseGrant(7, 60, 40),
        LeaseGrant(7, 40, 0),
        LeaseGrant(7, 0, 0),
    ]
    assert store.draw([bench.ask(-5)]) == [LeaseGrant(7, 0, 0)]


def test_a_raised_amount_counts_at_once_and_a_lowered_one_grants_nothing(store, bench):
    store.draw([bench.ask(100)])
    assert store.draw([bench.ask(50, amount=120)]) == [LeaseGrant(7, 20, 0)]
    assert store.draw([bench.ask(50, amount=80)]) == [LeaseGrant(7, 0, 0)]


def test_values_and_periods_have_their_own_balance(store, bench):
    assert [g.granted for g in store.draw([bench.ask(100), bench.ask(100, value="w"), bench.ask(100, budget="c")])] == [
        100,
        100,
        100,
    ]


def test_records_within_a_lease_change_nothing_and_above_it_raise_what_is_drawn(store, bench):
    store.draw([bench.ask(60)])
    store.write([bench.row("a", ("b", "v", 50))], AT)
    assert bench.balance(store) == (60, 50)
    store.write([bench.row("b", ("b", "v", 30))], AT)
    assert bench.balance(store) == (80, 80)
    assert store.draw([bench.ask(100)]) == [LeaseGrant(7, 20, 20)]


def test_a_budget_without_leases_is_drawn_as_it_is_spent(store, bench):
    store.write([bench.row("a", ("soft", "v", 50), ("soft", "w", 1))], AT)
    assert bench.balance(store, "soft") == (50, 50)


def test_a_row_replaces_the_one_with_its_id_and_sums_move_by_the_difference(store, bench):
    store.write([bench.row("a", ("b", "v", 50)), bench.row("x", ("b", "v", 1))], AT)
    store.write([bench.row("a", ("b", "v", 20), ("c", "v", 5), outcome="aborted")], AT)
    assert bench.balance(store) == (21, 21)
    assert bench.balance(store, "c") == (5, 5)
    assert bench.count(store) == 2
    # Also by another process, and within one batch.
    store.write([bench.row("a", ("b", "v", 9), owner="two"), bench.row("a", ("b", "v", 10), owner="two")], AT)
    assert bench.balance(store) == (11, 11)
    assert bench.balance(store, "c") == (0, 0)


def test_writing_the_same_again_changes_nothing(store, bench):
    rows = [bench.row(str(n), ("b", "v", n)) for n in range(1_500)]
    store.write(rows, AT)
    before = bench.balance(store)
    store.write(rows, JournalPosition(1, 200))
    assert bench.balance(store) == before == (sum(range(1_500)),) * 2
    assert store.position() == JournalPosition(1, 200)
    assert bench.count(store) == 1_500


def test_what_is_given_back_can_be_drawn_again_and_late_records_do_not_count_twice(store, bench):
    store.draw([bench.ask(60)])
    store.write([bench.row("a", ("b", "v", 10))], AT)
    store.give_back([LeaseBalance("b", "v", bench.start_s, granted=60, used=25)])
    assert bench.balance(store) == (25, 10)
    store.write([bench.row("late", ("b", "v", 15))], AT)
    assert bench.balance(store) == (25, 25)


def test_a_dead_owners_leases_are_stranded_and_settle_later(tmp_path: Path, bench):
    first = SqliteStore(tmp_path, "one")
    first.draw([bench.ask(60), bench.ask(10, value="w")])
    first.write([bench.row("a", ("b", "v", 20), ("b", "w", 10))], AT)
    first.close()
    second = SqliteStore(tmp_path, "two")
    assert [(s.owner, s.value, s.granted, s.settled, s.stranded) for s in second.stranded()] == [
        ("one", "v", 60, 20, 40)
    ]
    assert second.draw([bench.ask(100)]) == [LeaseGrant(7, 40, 0)]
    second.write([bench.row("late", ("b", "v", 30))], AT)
    assert bench.balance(second) == (100, 50)
    assert second.stranded()[0].stranded == 10
    second.write([bench.row("later", ("b", "v", 30))], AT)
    assert not second.stranded()
    # 20 above what the dead owner had drawn: true, and so counted.
    assert bench.balance(second) == (120, 80)
    second.close()


def test_an_owner_in_order_strands_nothing(tmp_path: Path, bench):
    first = SqliteStore(tmp_path, "one")
    first.draw([bench.ask(60)])
    first.give_back([LeaseBalance("b", "v", bench.start_s, 60, 0)])
    first.close()
    second = SqliteStore(tmp_path, "one")
    assert not second.stranded()
    assert bench.balance(second) == (0, 0)
    second.close()


def test_thresholds_are_raised_once_for_ever(tmp_path: Path, bench):
    store = SqliteStore(tmp_path, "one")
    store.set_budgets({"b": BudgetPlan("nanousd", 100, (50, 80, 100))})
    assert store.write([bench.row("a", ("b", "v", 49))], AT) == []
    events = store.write([bench.row("b", ("b", "v", 31), ("other", "v", 1_000))], AT)
    assert [(e.budget, e.value, e.percent, e.spent, e.amount) for e in events] == [
        ("b", "v", 50, 80, 100),
        ("b", "v", 80, 80, 100),
    ]
    store.close()
    store = SqliteStore(tmp_path, "two")
    store.set_budgets({"b": BudgetPlan("nanousd", 90, (50, 80, 100))})
    assert [e.percent for e in store.write([bench.row("c", ("b", "v", 15))], AT)] == [100]
    assert store.write([bench.row("d", ("b", "v", 15))], AT) == []
    store.close()


def test_spent_ratios_are_those_of_the_present_period(store, bench):
    store.set_budgets(
        {"b": BudgetPlan("nanousd", 100), "unused": BudgetPlan("tokens", 5), "zero": BudgetPlan("tokens", 0)}
    )
    store.draw([bench.ask(10), bench.ask(10, value="w")])
    store.write([bench.row("a", ("b", "v", 25), ("b", "w", 75))], AT)
    assert store.spent_ratios(bench.start_s + 10) == {"b": 0.75, "unused": 0.0}
    assert store.spent_ratios(bench.start_s + 3_600) == {"b": 0.0, "unused": 0.0}


def test_old_rows_are_deleted_in_steps_and_balances_stay(store, bench):
    store.draw([bench.ask(60)])
    old = [bench.row(f"old{n}", ("b", "v", 1), unix_ns=n) for n in range(25)]
    store.write([*old, bench.row("new", ("b", "v", 1))], AT)
    now_ns = (bench.start_s + 60) * 10**9
    assert [store.prune(now_ns - 10**12, 10) for _ in range(4)] == [10, 10, 5, 0]
    assert bench.count(store) == 1
    assert bench.balance(store) == (60, 26)


def test_buckets_of_periods_long_over_go_and_come_again(store, bench):
    store.draw([bench.ask(60)])
    store.write([bench.row("a", ("b", "v", 1))], AT)
    assert store.prune((bench.start_s + 3_601) * 10**9, 10) == 1
    assert bench.balance(store) == (0, 0)
    assert store.draw([bench.ask(60)]) == [LeaseGrant(7, 60, 40)]
    store.write([bench.row("a", ("b", "v", 1))], AT)
    assert bench.balance(store) == (60, 1)


def test_absurd_amounts_are_bounded_and_never_a_wrong_balance(store, bench):
    for name in "abcd":
        store.write([bench.row(name, ("b", "v", 2**64 - 1))], AT)
    assert bench.balance(store) == (4 * (2**53 - 1),) * 2
    assert store.draw([bench.ask(5, amount=2**62)])[0].granted == 5


def test_two_threads_draw_and_write_at_once(store, bench):
    granted = []

    def draw():
        granted.extend(grant.granted for _ in range(40) for grant in store.draw([bench.ask(7, amount=200)]))

    threads = [threading.Thread(target=draw) for _ in range(3)]
    for thread in threads:
        thread.start()
    for n in range(40):
        store.write([bench.row(f"{n}-{m}", ("c", "v", 1)) for m in range(10)], JournalPosition(1, n))
    for thread in threads:
        thread.join()
    assert sum(granted) == 200
    assert bench.balance(store)[0] == 200
    assert bench.balance(store, "c") == (400, 400)


def test_a_closed_store_says_so(store, bench):
    store.close()
    store.close()
    with pytest.raises(StoreClosed):
        store.draw([bench.ask(1)])
