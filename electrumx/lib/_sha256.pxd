"""SHA-256 for the compiled modules, from ``sha256.h`` beside this file."""

from libc.stdint cimport uint8_t


cdef extern from "sha256.h" nogil:
    ctypedef struct SHA256_CTX "ex_sha256_ctx":
        pass
    void SHA256_Init "ex_sha256_init" (SHA256_CTX *ctx)
    void SHA256_Update "ex_sha256_update" (SHA256_CTX *ctx, const void *data, size_t length)
    void SHA256_Final "ex_sha256_final" (uint8_t *digest, SHA256_CTX *ctx)
    # Write the 32 bytes of the hash.
    void sha256 "ex_sha256" (const void *data, size_t length, uint8_t *digest)


cdef inline void finish_twice(SHA256_CTX *context, uint8_t *digest) noexcept nogil:
    """Write the hash of the hash of the bytes that the context was given."""
    cdef uint8_t once[32]
    SHA256_Final(once, context)
    sha256(once, 32, digest)
