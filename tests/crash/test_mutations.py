"""The harness notices what it is there to notice: broken code, one break at a time."""

import pytest

from tests.crash.harness import Campaign, Discrepancy, Kill, Zygote

#: how the code is broken, the kills that must reveal it, the audit's report
BREAKS = {
    "no_excess_clearing": ([Kill("flush: history written", 3)], "is above flush|is not"),
    "old_reorg_order": ([Kill("reorg: history staged")], "history of .* is not"),
    "state_before_utxos": ([Kill("flush: UTXOs written", 3)], "UTXOs: .* rows are missing"),
    "utxos_before_history": ([Kill("flush: UTXOs written", 2)], "history of .* is not"),
}


@pytest.fixture(scope="module")
def zygote():
    with Zygote() as zygote:
        yield zygote


@pytest.mark.parametrize("mutation", BREAKS)
def test_a_break_is_caught_by_a_kill_at_its_instant(zygote, tmp_path, mutation):
    kills, sentence = BREAKS[mutation]
    campaign = Campaign(zygote, tmp_path, engine="leveldb", seed=3, mutation=mutation)
    for kill in kills:
        campaign.kill_once(kill)
    with pytest.raises(Discrepancy, match=sentence):
        campaign.inspect()


@pytest.mark.parametrize("mutation", BREAKS)
def test_the_same_kills_of_whole_code_find_nothing(zygote, tmp_path, mutation):
    kills, _sentence = BREAKS[mutation]
    campaign = Campaign(zygote, tmp_path, engine="leveldb", seed=3)
    for kill in kills:
        campaign.kill_once(kill)
        campaign.inspect()
    campaign.finish()


def test_without_kills_the_order_of_writes_does_not_show(zygote, tmp_path):
    for mutation in ("no_excess_clearing", "old_reorg_order", "state_before_utxos"):
        place = tmp_path / mutation
        place.mkdir()
        campaign = Campaign(zygote, place, engine="leveldb", seed=3, mutation=mutation)
        campaign.finish()


def test_the_old_order_loses_history_when_the_node_returns_to_its_old_branch(zygote, tmp_path):
    campaign = Campaign(zygote, tmp_path, engine="leveldb", seed=3, mutation="old_reorg_order")
    campaign.kill_once(Kill("reorg: history staged"))
    # No check in between: only the final comparison shows it.
    campaign.reached = campaign.story.before_reorg
    path = list(range(campaign.reached, campaign.reached + 1))
    answer = campaign.zygote.run("follow", campaign.spec(path=path))
    assert answer["status"] == 0, answer["errors"]
    with pytest.raises(Discrepancy, match=r"history of .* is not"):
        campaign.inspect()
