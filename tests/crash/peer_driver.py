"""Runs e-x's database and block processor; by the Python of its own environment.

    PYTHON peer_driver.py SPEC

with the server's settings in environment variables and SPEC as JSON:

    tip              display hash of the block to index up to
    hashXs           scripts to answer for, hexadecimal
    kill_in_backup   true: SIGKILL between the two commits of the first reorganisation

Prints {"height", "history": {hashX: [[hash, height]...]}, "utxos": {hashX: [...]}} as JSON.
Nothing of ours is imported here.
"""

import asyncio
import json
import os
import signal
import sys

from electrumx.server.controller import Notifications
from electrumx.server.db import DB
from electrumx.server.env import Env
from electrumx.server.history import History


def arm_the_kill():
    """Die when the history has been cut and the UTXOs have not."""
    backup = History.backup

    def deadly(self, hashXs, tx_count):
        backup(self, hashXs, tx_count)
        os.kill(os.getpid(), signal.SIGKILL)

    History.backup = deadly


async def answers(db, hashXs):
    history, utxos = {}, {}
    for hex_hashX in hashXs:
        hashX = bytes.fromhex(hex_hashX)
        entries = await db.limited_history(hashX, limit=None)
        history[hex_hashX] = [[tx_hash.hex(), height] for tx_hash, height in entries]
        utxos[hex_hashX] = sorted(
            [u.tx_num, u.tx_pos, u.tx_hash.hex(), u.height, u.value]
            for u in await db.all_utxos(hashX)
        )
    return {"height": db.db_height, "history": history, "utxos": utxos}


async def main(spec):
    env = Env()
    if spec.get("kill_in_backup"):
        arm_the_kill()
    async with env.coin.DAEMON(env.coin, env.daemon_url) as daemon:
        db = DB(env)
        bp = env.coin.BLOCK_PROCESSOR(env, db, daemon, Notifications())
        await daemon.height()
        caught_up = asyncio.Event()
        task = asyncio.ensure_future(bp.fetch_and_process_blocks(caught_up))
        wanted = bytes.fromhex(spec["tip"])[::-1]
        while not (caught_up.is_set() and db.db_tip == wanted):
            if task.done():
                task.result()
                raise RuntimeError("the block processor ended")
            await asyncio.sleep(0.01)
        print(json.dumps(await answers(db, spec["hashXs"])))
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            pass


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
