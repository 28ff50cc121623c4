"""The root of every error that this program raises on purpose.

The tree sorts errors by whose fault they are; each is defined beside the code that raises it::

    ElectrumXError
     +-- OperatorError         the configuration or the machine: one line, exit status 1
     |    +-- EnvBase.Error       lib.env_base: an environment variable
     |    +-- SettingsFileError   lib.settings_file: the settings file
     |    +-- ServiceError        server.env: SERVICES and REPORT_SERVICES
     |    +-- CoinError           lib.coins: unknown coin, bad daemon URL, wrong genesis block
     |    +-- StartupError        lib.server_base: run as root, or by a Python too old
     |    +-- DBError             server.storage.schema: the database on disk does not fit
     |    |    +-- MissingEngineError  server.storage.base: an engine's binding, also an ImportError
     |    +-- BackupError         server.maintenance.snapshot: a snapshot cannot be made
     |    +-- ManifestError       server.maintenance.snapshot_manifest: a manifest is none
     |    +-- SourceFault         server.maintenance.snapshot_source: a file is not that of the manifest
     |    +-- RestoreError        server.maintenance.restore: a snapshot cannot be restored
     |    +-- ListenError         server.session.transport.preflight: an address cannot be listened on
     |    +-- CertificateError    server.session.transport.preflight: a bad certificate or key
     +-- DeserializeError      bytes that do not have the claimed format (node, client or disk)
     |    +-- SkipTxDeserialize   a transaction that is valid but not for us (MWEB-only)
     +-- ScriptError           lib.script: a script that does not parse
     +-- Base58Error           lib.hash: not Base58, or a wrong checksum
     +-- AddressError          lib.bech32: an address of a newer form that has a fault
     +-- DaemonError           server.daemon.responses: the node answered with an error
     +-- ChainError            server.block_processor.errors: blocks and index disagree: stop, do not flush
     +-- BadPeerError          server.peers: a peer that lies or does not speak the protocol

Errors owed to clients are aiorpcX's ``RPCError``; only ``server.session`` makes them.
This module imports nothing.
"""


class ElectrumXError(Exception):
    """Root of all errors raised on purpose."""


class OperatorError(ElectrumXError):
    """A fault that the operator must repair; ``str()`` is one line: the fault and the remedy."""


class DeserializeError(ElectrumXError):
    """Serialised bytes end too early, or hold an impossible value."""


class SkipTxDeserialize(DeserializeError):
    """A transaction that the server cannot index and passes over, not a fault."""
