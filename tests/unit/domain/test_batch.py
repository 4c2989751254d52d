"""The states of a batch: the table decides, and terminal states never reopen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from batchwright.domain.batch import SENDING, TERMINAL, TRANSITIONS, Batch, Status, advance
from batchwright.domain.errors import IllegalTransition
from batchwright.domain.priority import WEIGHTS, Priority


def batch(status: Status) -> Batch:
    return Batch(
        id="batch_1",
        tenant="default",
        endpoint="/v1/embeddings",
        input_file_id="file-1",
        completion_window="24h",
        created_at=1.0,
        expires_at=86_401.0,
        status=status,
    )


@pytest.mark.parametrize("to", Status)
@pytest.mark.parametrize("status", Status)
def test_a_change_is_in_the_table_or_raises(status: Status, to: Status) -> None:
    before = batch(status)
    if to in TRANSITIONS[status]:
        after = advance(before, to, 5.0, model="m")
        assert (after.status, getattr(after, f"{to}_at"), after.model) == (to, 5.0, "m")
    else:
        with pytest.raises(IllegalTransition, match=f"{status} to {to}"):
            advance(before, to, 5.0)
    assert before.status is status


def test_the_terminal_states_are_those_of_the_contract() -> None:
    assert [str(status) for status in TERMINAL] == ["completed", "failed", "expired", "cancelled"]
    assert all(batch(status).is_terminal == (status in TERMINAL) for status in Status)


def test_every_state_is_reached_from_the_first() -> None:
    reached = [Status.VALIDATING]
    for status in reached:
        reached += [to for to in TRANSITIONS[status] if to not in reached]
    assert sorted(reached) == sorted(Status)


@pytest.mark.parametrize("status", [s for s in Status if s not in TERMINAL])
def test_every_state_leads_to_an_end(status: Status) -> None:
    reached = [status]
    for one in reached:
        reached += [to for to in TRANSITIONS[one] if to not in reached]
    assert any(one in TERMINAL for one in reached)


@pytest.mark.parametrize("status", [status for status in Status if TRANSITIONS[status]])
def test_a_pause_ends_with_the_sending(status: Status) -> None:
    for to in TRANSITIONS[status]:
        after = advance(replace(batch(status), paused_at=2.0), to, 5.0)
        assert after.paused_at == (2.0 if to in SENDING else None)
        assert after.is_sending == (to in SENDING)


def test_a_batch_is_normal_unless_it_says_otherwise_and_levels_rise() -> None:
    assert batch(Status.VALIDATING).priority is Priority.NORMAL
    assert [priority.weight for priority in Priority] == sorted(WEIGHTS.values())
    assert list(WEIGHTS) == list(Priority)
