"""The state that all sessions of a server share: built once, read by every request handler.

Runs on the event loop.
"""

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass

from electrumx.lib.bounded_match import BoundedPattern
from electrumx.lib.log_limit import RateLimitedLog
from electrumx.server.daemon.client import Daemon
from electrumx.server.db import DB
from electrumx.server.env import Env
from electrumx.server.mempool.index import MemPoolIndex
from electrumx.server.mempool.sync import MemPool
from electrumx.server.peers import PeerManager
from electrumx.server.session.engine import session_groups
from electrumx.server.session.engine.oversized import OversizedResults
from electrumx.server.session.engine.request_stats import RequestStats
from electrumx.server.session.engine.session_limits import SessionLimits
from electrumx.server.session.notify.announced_header import AnnouncedHeader
from electrumx.server.session.notify.fanout import FanOut
from electrumx.server.session.notify.noise import Noise
from electrumx.server.session.notify.outpoints import OutpointSubscriptions
from electrumx.server.session.shared.block_cache import BlockCache
from electrumx.server.session.shared.fee_estimates import FeeEstimates
from electrumx.server.session.shared.masternodes import MasternodeCache
from electrumx.server.session.shared.node import Node
from electrumx.server.session.shared.outpoint_cache import OutpointCache
from electrumx.server.session.shared.outpoint_status import OutpointStatuses
from electrumx.server.session.shared.raw_tx_cache import RawTxCache
from electrumx.server.session.shared.script_cache import ScriptCache
from electrumx.server.session.shared.served_protocol import ServedProtocol
from electrumx.server.session.shared.serving_stage import ServingStage
from electrumx.server.session.shared.session_table import SessionTable
from electrumx.server.session.shared.tip_consistency import TipConsistency

# The bound of replies is never below this, whatever MAX_SEND is: a chunk of headers must fit.
MIN_MAX_SEND = 350_000
# Processor time that DROP_CLIENT may take for a name, in seconds.
MATCH_CPU_SECS = 0.02


@dataclass(slots=True, eq=False)
class SharedState:
    """The server's parts that request handlers use, and the caches over them."""

    env: Env
    db: DB
    daemon: Daemon
    mempool: MemPool
    #: its transactions, and the queries about them
    unconfirmed: MemPoolIndex
    peers: PeerManager
    #: of wallets
    limits: SessionLimits
    #: the bound of replies to wallets, in bytes
    max_send: int
    #: the tip that clients know, and whether an answer belongs to it
    tip: TipConsistency
    #: histories, balances and UTXOs of scripts
    scripts: ScriptCache
    #: tx hashes and merkle trees of blocks
    blocks: BlockCache
    raw_txs: RawTxCache
    fees: FeeEstimates
    oversized: OversizedResults
    masternodes: MasternodeCache
    #: requests that only the full node can answer
    node: Node
    #: the highest protocol to serve
    protocol: ServedProtocol
    #: the header that clients were last notified of
    header: AnnouncedHeader
    #: subscriptions, and their notifications
    fan_out: FanOut
    #: subscriptions to outpoints, and their statuses
    outpoints: OutpointSubscriptions
    outpoint_statuses: OutpointStatuses
    #: the confirmed parts of these statuses
    outpoint_cache: OutpointCache
    #: pings that hide how many notifications there are
    noise: Noise
    table: SessionTable
    #: the requests of each method
    requests: RequestStats
    #: notifications sent, by kind of subscription
    notified: Counter[str]
    #: held during the parsing of a large message
    parsing_lock: asyncio.Lock
    #: refuses clients whose name it matches at the start
    drop_client: BoundedPattern | None
    #: of lines that clients can cause as often as they like
    log_limit: RateLimitedLog
    #: how much of the protocol the server serves
    stage: ServingStage

    @classmethod
    def build(
        cls,
        env: Env,
        db: DB,
        daemon: Daemon,
        mempool: MemPool,
        peers: PeerManager,
        tip: TipConsistency,
        logger: logging.Logger,
        *,
        stage: ServingStage | None = None,
    ) -> "SharedState":
        """Return the state over these parts, with empty caches; ``logger`` is the manager's.

        Without a ``stage``, serve all of the protocol.
        """
        max_send = max(MIN_MAX_SEND, env.max_send)
        scripts = ScriptCache(db.queries, max_send)
        table = SessionTable(_groups(env), logger, is_advertised=bool(env.report_services))
        node, unconfirmed = Node(daemon, mempool), mempool.index
        protocol = _served_protocol(env, daemon, peers, logger)
        outpoint_cache = OutpointCache(unconfirmed.watch)
        outpoint_statuses = OutpointStatuses(
            db,
            daemon,
            unconfirmed,
            outpoint_cache,
            env.coin,
            lambda: protocol.has_spender_index,
        )

        stage = ServingStage() if stage is None else stage

        def notified_tip() -> bytes | None:
            return tip.notified_tip

        return cls(
            env=env,
            db=db,
            daemon=daemon,
            mempool=mempool,
            unconfirmed=unconfirmed,
            peers=peers,
            limits=SessionLimits.from_env(env),
            max_send=max_send,
            tip=tip,
            scripts=scripts,
            blocks=BlockCache(db),
            raw_txs=RawTxCache(notified_tip, unconfirmed.has_tx),
            fees=FeeEstimates(
                lambda: stage.estimates_tip(db.db_tip), env.coin.bucket_estimatefee_block_target
            ),
            oversized=OversizedResults(max_send, notified_tip),
            masternodes=MasternodeCache(
                lambda: node.request("masternode_list", ["full"]), db, mempool, env.coin
            ),
            node=node,
            protocol=protocol,
            header=AnnouncedHeader(),
            fan_out=FanOut(table.sessions, scripts.refresh),
            outpoints=OutpointSubscriptions(unconfirmed.watch, outpoint_statuses, tip),
            outpoint_statuses=outpoint_statuses,
            outpoint_cache=outpoint_cache,
            noise=Noise(table.sessions),
            table=table,
            requests=RequestStats(),
            notified=Counter(),
            parsing_lock=asyncio.Lock(),
            drop_client=drop_pattern(env),
            log_limit=RateLimitedLog(logger),
            stage=stage,
        )


def _served_protocol(
    env: Env, daemon: Daemon, peers: PeerManager, logger: logging.Logger
) -> ServedProtocol:
    session_class = env.coin.SESSIONCLS
    return ServedProtocol(
        daemon,
        session_class.PROTOCOL_MAX,
        has_names=session_class.HAS_NAMES,
        setting=env.protocol_max,
        on_change=peers.set_protocol_max,
        logger=logger,
    )


def drop_pattern(env: Env) -> BoundedPattern | None:
    """Return the pattern of DROP_CLIENT."""
    drop = env.drop_client
    return None if drop is None else BoundedPattern(drop, MATCH_CPU_SECS)


def group_hard_limit(env: Env) -> float:
    """Return the bound on the costs of groups; 0 where no session has a limit."""
    # Without a range between the limits none has.
    return env.cost_hard_limit if env.cost_hard_limit > env.cost_soft_limit else 0


def _groups(env: Env) -> session_groups.SessionGroups:
    return session_groups.SessionGroups(
        env.session_group_by_subnet_ipv4,
        env.session_group_by_subnet_ipv6,
        group_hard_limit(env),
        env.tor_group_weight,
    )
