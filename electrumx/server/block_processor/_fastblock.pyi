PLAIN: int
SEGWIT: int
LITECOIN: int

class FastBlock:
    raw: bytes
    header: bytes
    tx_count: int
    tx_hashes: bytes
    spent_outpoints: bytes
    spend_counts: bytes
    memsize: int
    def transactions(
        self,
    ) -> list[tuple[list[tuple[bytes, int]], list[tuple[bytes, int, int]]]]: ...

def parse_block(
    raw: bytes, header_len: int, tx_format: int, tokens: bool, whole: bool
) -> FastBlock: ...
def parse_unconfirmed(
    raw: bytes, tx_format: int, tokens: bool
) -> tuple[tuple[tuple[bytes, int], ...], tuple[tuple[bytes, int], ...], int] | None: ...
