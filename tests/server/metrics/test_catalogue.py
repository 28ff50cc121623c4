"""Every metric: documented, valid text in both formats, of bounded labels and number."""

import copy
import inspect
import math
import re
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from electrumx.lib.protocol_versions import DEFINED
from electrumx.server.block_processor.index_stats import IndexStats
from electrumx.server.daemon.call_record import CALL_SECS, CallRecord
from electrumx.server.db.flush_stats import FlushStats
from electrumx.server.mempool.refresher import REFRESH_BOUNDS
from electrumx.server.metrics.catalogue import (
    COUNTER,
    GAUGE,
    HISTOGRAM,
    INFO,
    METRICS,
    REFUSALS,
    Family,
    HistogramValue,
    Metric,
    values_of,
)
from electrumx.server.metrics.disk import STORES
from electrumx.server.metrics.endpoints import OPENMETRICS_ACCEPT
from electrumx.server.metrics.exposition import Exposition, Format, ValuesCollector
from electrumx.server.metrics.rates import RequestRates
from electrumx.server.metrics.report import report
from electrumx.server.metrics.sources import Sources
from electrumx.server.runtime.histogram import Histogram
from electrumx.server.runtime.loop_lag import LoopLag
from electrumx.server.runtime.node_contact import Cause, NodeContact
from electrumx.server.runtime.server_state import IndexProgress, ReadyLimits, ServerState
from electrumx.server.session import ElectrumX, LocalRPC
from electrumx.server.session.engine.method_registry import INVALID_METHOD, handler_names
from electrumx.server.session.engine.request_stats import OUTCOMES, REQUEST_SECS
from electrumx.server.session.transport import admission
from tests.conftest import REPOSITORY
from tests.fakes.session_world import session_world

NODE_METHODS = (
    *("getblockcount", "getblockhash", "getblock", "getrawmempool", "getrawtransaction"),
    *("sendrawtransaction", "estimatesmartfee", "getnetworkinfo", "getmempoolinfo"),
    *("getindexinfo", "waitfornewblock", "submitpackage", "testmempoolaccept"),
    "gettxspendingprevout",
)


def wallet_methods():
    """Return the methods of all versions of the protocol."""
    names = set()
    for version in DEFINED:
        names |= set(handler_names((*ElectrumX.handler_groups, ElectrumX), version))
    return names


def sources_over(world):
    """Return sources over the parts of a session world, and fakes of the others."""
    contact = NodeContact()
    contact.asked()
    contact.failed(Cause.REFUSED, "getblockcount", "connection refused")
    contact.replied()
    progress = IndexProgress(10, 10, 100, 100.0, None, 0.0, first_sync=False)
    state = ServerState(contact, lambda: 10, lambda: progress, lambda: False, ReadyLimits())
    state.set_serving()
    compaction = SimpleNamespace(running=False)
    calls = CallRecord()
    return Sources(
        SimpleNamespace(
            coin=SimpleNamespace(NAME="Coin", NET="net"),
            db_engine="LevelDB",
            indexer="auto",
            services=world.manager.env.services,
            max_sessions=100,
        ),
        SimpleNamespace(
            flusher=SimpleNamespace(stats=FlushStats()), read_pool=SimpleNamespace(queued=3)
        ),
        SimpleNamespace(
            stats=IndexStats(), row_compaction=compaction, engine_compaction=compaction
        ),
        SimpleNamespace(calls=calls, logged_url=lambda: "node:8332/"),
        SimpleNamespace(
            index=SimpleNamespace(txs={}, total_size=0),
            refresher=SimpleNamespace(histogram=Histogram(REFRESH_BOUNDS)),
            info=lambda: {"behind": False},
            cached_compact_histogram=[],
        ),
        world.manager,
        state,
        LoopLag(),
        SimpleNamespace(stores=dict.fromkeys(STORES, 1), free=1),
        1.5e9,
    )


@pytest.fixture
async def sources():
    async with session_world() as world:
        yield sources_over(world)


def use_everything(sources):
    """Use each method, each outcome that is usual for it, and each other label."""
    shared = sources.manager.shared
    for method in {*wallet_methods(), *handler_names((LocalRPC,), (0,)), INVALID_METHOD}:
        stats = shared.requests[method]
        stats.started += 2
        stats.fail(ValueError())
    for outcome in OUTCOMES.values():
        shared.requests["server.ping"].failed[outcome] = 1
    for method in NODE_METHODS:
        for outcome in ("ok", "error", "failed"):
            sources.daemon.calls.ended(method, outcome, 0.1)
    for reason in (*("client", "timeout", "cost", "slow", "protocol", "operator", "shutdown"),):
        shared.table.counts.closed[reason] += 1
    for text in REFUSALS:
        sources.manager.admission.totals[text] += 1
    for kind in ("headers", "script", "outpoint"):
        shared.notified[kind] += 1
    for kind in ("tcp", "ssl", "ws", "wss", "rpc"):
        for version in ((1, 4), (1, 4, 1), (1, 4, 2), (1, 4, 3), (1, 6, 0), (1, 7, 0)):
            shared.table.counts.began(kind, version)
    shared.table.counts.received, shared.table.counts.sent = 300, 600
    for number in range(150):
        shared.fan_out.scripts.add(bytes([number]), "session")
    sources.db.flusher.stats.ended(10, [0.0, 1.0, 2.0, 3.0])
    sources.processor.stats.indexed(5, 1.0)
    sources.processor.stats.undone(9, 2)


def documented():
    text = (REPOSITORY / "docs" / "metrics.rst").read_text()
    table = text.split("\nMetrics\n=======\n")[1].split("\nValues of labels\n")[0]
    row = r"   \* - ``(\w+)``\n     - (\w+)\n     - (.+(?:\n       .+)*)"
    return {name: (kind, meaning) for name, kind, meaning in re.findall(row, table)}


def text_name(metric):
    return metric.name + {COUNTER: "_total", INFO: "_info"}.get(metric.kind, "")


def test_every_metric_is_documented_with_its_kind_and_labels():
    found = documented()

    assert list(found) == [text_name(metric) for metric in METRICS]
    for metric in METRICS:
        kind, meaning = found[text_name(metric)]
        labels = re.findall(r"``(\w+)``", meaning.partition("Labels:")[2])
        assert (kind, tuple(labels)) == (metric.kind, metric.labels)
        assert " ".join(meaning.split()).startswith(metric.help)


def test_names_follow_the_rules_of_prometheus():
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert re.fullmatch(r"electrumx(_[a-z]+)*", metric.name)
        assert not metric.name.endswith("_total")
        assert metric.help.endswith(".")


async def test_all_labels_in_use_stay_below_a_thousand_series(sources):
    use_everything(sources)
    families = values_of(sources.read())
    text, content_type = Exposition().text(families, "")

    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    lines = [line for line in text.decode().splitlines() if not line.startswith("#")]
    assert len(lines) < 1_000
    assert len(lines) == len({line.rpartition(" ")[0] for line in lines})


async def test_values_in_the_text_are_those_of_the_parts(sources):
    use_everything(sources)
    families = values_of(sources.read())
    text, _type = Exposition().text(families, "")
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse_text(text.decode())
        for sample in family.samples
    }

    def value(name, **labels):
        return samples[name, tuple(sorted(labels.items()))]

    assert value("electrumx_height") == 10
    assert value("electrumx_ready") == 1
    assert value("electrumx_state", state="serving") == 1
    assert value("electrumx_state", state="syncing") == 0
    assert value("electrumx_blocks_indexed_total") == 5
    assert value("electrumx_reorg_blocks_total") == 2
    assert value("electrumx_flush_seconds_count", phase="history") == 1
    assert value("electrumx_sessions", service="ssl", protocol="1.4.2") == 1
    assert value("electrumx_sessions", service="ssl", protocol="1.7") == 1
    assert value("electrumx_sessions", service="rpc", protocol="rpc") == 6
    assert value("electrumx_subscriptions", kind="script") == 150
    assert value("electrumx_received_bytes_total") == 300
    assert value("electrumx_requests_total", method="blockchain.block.header", outcome="ok") == 1
    assert value("electrumx_requests_total", method="invalid", outcome="error") == 1
    commands = len(handler_names((LocalRPC,), (0,)))
    assert value("electrumx_requests_total", method="rpc", outcome="error") == commands
    assert value("electrumx_request_seconds_count", method="rpc") == 2 * commands
    assert value("electrumx_node_requests_total", method="getblock", outcome="failed") == 1
    assert value("electrumx_node_request_seconds_count", method="getblock") == 2
    assert value("electrumx_connections_refused_total", reason="full") == 1
    assert value("electrumx_certificate_expiry_timestamp_seconds") == 1.5e9
    assert value("electrumx_worker_queue") == 3
    assert abs(value("electrumx_node_last_reply_timestamp_seconds") - 1.7e9) < 1e9


def test_every_reason_of_the_admission_control_has_its_label():
    """Of a reason that is missing there would be no alert."""
    source = inspect.getsource(admission)
    assert set(re.findall(r'note\("([^"]+)"\)', source)) == set(REFUSALS)
    manual = (REPOSITORY / "docs" / "metrics.rst").read_text()
    for label in REFUSALS.values():
        assert f"``{label}``" in manual


async def test_version_that_a_client_invents_is_no_label(sources):
    counts = sources.manager.shared.table.counts
    for number in range(50):
        counts.began("tcp", (1, 4, 2, number))
        counts.began("tcp", (1, 6, number))

    assert counts.by_protocol == {("tcp", "1.4"): 50, ("tcp", "1.6"): 50}


async def test_report_shows_settings_that_a_reload_changed(sources):
    shared = sources.manager.shared
    shared.env = copy.copy(shared.env)
    shared.env.max_sessions, shared.env.services = 7, []
    reading = sources.read()
    rates = RequestRates(shared.requests)
    found = report(reading, rates, uptime_secs=1)
    assert found["sessions"]["maximum"] == 7
    assert found["server"]["services"] == []


async def test_report_has_all_that_a_page_needs(sources):
    use_everything(sources)
    rates = RequestRates(sources.manager.shared.requests)
    rates.sample()
    sources.manager.shared.requests["server.ping"].started += 120
    reading = sources.read()
    found = report(reading, rates, uptime_secs=12.4)

    assert (found["state"], found["ready"], found["lag"]) == ("serving", True, 0)
    assert found["uptime_s"] == 12
    assert found["progress"]["percent"] == 100
    assert found["node"]["last_failure"]["cause"] == "refused"
    assert found["sessions"]["count"] == 30
    assert found["sessions"]["subscriptions"] == {"headers": 0, "script": 150, "outpoint": 0}
    assert found["requests"] == [
        {"method": "server.ping", "per_s": 120.0, "median_s": 0.0005, "p99_s": 0.0005}
    ]
    assert [(r["first_height"], r["blocks"]) for r in found["reorgs"]] == [(9, 2)]
    assert [(f["height"], f["secs"]) for f in found["flushes"]] == [(10, 3.0)]
    assert found["disk"] == {"stores": dict.fromkeys(STORES, 1), "free": 1}
    assert found["peers"]["total"] == 1


async def test_request_seconds_have_the_buckets_of_the_manual(sources):
    assert REQUEST_SECS == (
        *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
        *(1, 2.5, 5, 10, 30),
    )
    assert list(CALL_SECS) == sorted(CALL_SECS)


# -- the text, whatever the values

NUMBERS = st.integers(0, 2**53) | st.floats(0, 1e18, allow_nan=False)
LABEL_VALUES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@st.composite
def families(draw):
    """Families of all kinds with any values of labels."""
    result = []
    for number, kind in enumerate(draw(st.lists(st.sampled_from([COUNTER, GAUGE, HISTOGRAM])))):
        labels = ("a", "b")[: draw(st.integers(0, 2))]
        if kind == HISTOGRAM:
            counts = st.lists(st.integers(0, 1_000), min_size=4, max_size=4)
            values = st.builds(
                lambda c, total: HistogramValue((0.5, 1.0, 2.5), tuple(c), total), counts, NUMBERS
            )
        else:
            values = NUMBERS
        keys = st.tuples(*[LABEL_VALUES] * len(labels))
        samples = draw(st.dictionaries(keys, values, max_size=4))
        metric = Metric(f"electrumx_x{number}", kind, labels, "A value.", None)
        result.append(Family(metric, list(samples.items())))
    return result


@settings(max_examples=40)
@given(families(), st.data())
@pytest.mark.parametrize("accept", ["", OPENMETRICS_ACCEPT])
def test_text_is_that_of_the_library_whatever_was_written_before(accept, families, data):
    encode, _type = choose_encoder(accept)
    form = Format(encode)
    later = [Family(metric, data.draw(st.permutations(samples))) for metric, samples in families]
    for written in (families, later[:1], later):
        end = "# EOF\n" if accept else ""
        assert form.text(written) + end == encode(ValuesCollector(written)).decode()


def parsed(families, parse):
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def expected_samples(families):
    """Return the samples that a parser must find in families, but for those of the process."""
    result = {}
    for metric, samples in families:
        for values, value in samples:
            labels = dict(zip(metric.labels, values, strict=True))
            if isinstance(value, HistogramValue):
                total = 0
                for bound, count in zip((*value.bounds, math.inf), value.counts, strict=True):
                    total += count
                    le = "+Inf" if bound == math.inf else str(bound)
                    key = tuple(sorted((labels | {"le": le}).items()))
                    result[f"{metric.name}_bucket", key] = total
                key = tuple(sorted(labels.items()))
                result[f"{metric.name}_count", key] = total
                result[f"{metric.name}_sum", key] = value.total
            else:
                name = metric.name + ("_total" if metric.kind == COUNTER else "")
                result[name, tuple(sorted(labels.items()))] = value
    return result


@settings(max_examples=40)
@given(families())
@pytest.mark.parametrize(
    ("accept", "parse"), [("", parse_text), (OPENMETRICS_ACCEPT, parse_openmetrics)]
)
def test_a_parser_finds_the_values_that_were_written(accept, parse, families):
    text, _type = Exposition().text(families, accept)
    found = parsed(parse(text.decode()), parse)
    ours = {key: value for key, value in found.items() if key[0].startswith("electrumx_")}

    assert ours == pytest.approx(expected_samples(families))
