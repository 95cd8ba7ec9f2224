"""Whatever comes in whatever order: a ledger conserves, and leases never over-grant."""

from __future__ import annotations

import tempfile
from collections import defaultdict

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from forebay.store import JournalPosition, LeaseBalance, SqliteStore

AMOUNT = 1_000
VALUES = st.sampled_from(["v", "w"])


class Balances(RuleBasedStateMachine):
    """One budget with two values; the model keeps what every owner was granted and has used."""

    @initialize()
    def begin(self):
        self.folder = tempfile.TemporaryDirectory()
        self.life = 0
        self.store = SqliteStore(self.folder.name, self.owner)
        self.granted = defaultdict(int)
        self.used = defaultdict(int)
        self.rows = {}
        self.overspent = False

    @property
    def owner(self):
        return f"owner-{self.life}"

    def ask(self, value, want):
        return self.bench_ask(want, amount=AMOUNT, value=value)

    @rule(value=VALUES, want=st.integers(0, 400))
    def draw(self, value, want):
        drawn, _ = self.balance(self.store, "b", value)
        (grant,) = self.store.draw([self.ask(value, want)])
        assert grant.granted == min(want, max(0, AMOUNT - drawn))
        # Not always `drawn - granted` less: a grant first makes good what was spent above the lease.
        assert grant.left == max(0, AMOUNT - self.balance(self.store, "b", value)[0])
        self.granted[self.owner, value] += grant.granted

    @rule(value=VALUES, part=st.integers(0, 100), name=st.integers(0, 30))
    def spend_within_the_lease(self, value, part, name):
        key = (self.owner, value)
        amount = max(0, self.granted[key] - self.used[key]) * part // 100
        self.write(f"{self.life}-{name}", value, amount)

    @rule(value=VALUES, above=st.integers(0, 300), name=st.integers(0, 30))
    def spend_above_the_lease(self, value, above, name):
        key = (self.owner, value)
        self.write(f"{self.life}-{name}", value, max(0, self.granted[key] - self.used[key]) + above)
        self.overspent = True

    @rule(back=st.integers(0, 5))
    def replay(self, back):
        rows = [
            self.bench_row(name, ("b", value, amount), owner=owner)
            for name, (owner, value, amount) in list(self.rows.items())[back:]
        ]
        self.store.write(rows, JournalPosition(1, 1))

    @rule(name=st.integers(0, 30), amount=st.integers(0, 100))
    def replace_with_less(self, name, amount):
        key = f"{self.life}-{name}"
        if key in self.rows:
            _, value, before = self.rows[key]
            self.write(key, value, min(amount, before))

    @rule(value=VALUES)
    def give_back(self, value):
        key = (self.owner, value)
        self.store.give_back([LeaseBalance("b", value, self.start_s, self.granted[key], self.used[key])])
        self.granted[key] = self.used[key]

    @rule()
    def crash_and_reopen(self):
        self.store.close()
        self.life += 1
        self.store = SqliteStore(self.folder.name, self.owner)
        stranded = {(lease.owner, lease.value): lease.stranded for lease in self.store.stranded()}
        before = f"owner-{self.life - 1}"
        for key in list(self.granted):
            if key[0] == before:
                assert stranded.get(key, 0) in (0, max(0, self.granted[key] - self.used[key]))

    def write(self, name, value, amount):
        if name in self.rows:
            owner, old_value, old = self.rows[name]
            self.used[owner, old_value] -= old
        self.store.write([self.bench_row(name, ("b", value, amount), owner=self.owner)], JournalPosition(1, 1))
        self.rows[name] = (self.owner, value, amount)
        self.used[self.owner, value] += amount

    @precondition(lambda self: hasattr(self, "store"))
    @invariant()
    def it_conserves(self):
        for value in ("v", "w"):
            drawn, spent = self.balance(self.store, "b", value)
            keys = [key for key in {*self.granted, *self.used} if key[1] == value]
            assert drawn == sum(max(self.granted[key], self.used[key]) for key in keys)
            assert spent == sum(self.used[key] for key in keys)
            assert spent == sum(amount for _, of, amount in self.rows.values() if of == value)
            if not self.overspent:
                assert spent <= drawn <= AMOUNT

    def teardown(self):
        if hasattr(self, "store"):
            self.store.close()
            self.folder.cleanup()


def test_balances_conserve(bench):
    Balances.bench_row = staticmethod(bench.row)
    Balances.bench_ask = staticmethod(bench.ask)
    Balances.balance = staticmethod(bench.balance)
    Balances.start_s = bench.start_s
    case = Balances.TestCase
    case.settings = settings(
        max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
    )
    case().runTest()
