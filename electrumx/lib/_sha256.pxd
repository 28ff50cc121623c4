"""SHA-256 for the compiled modules, from ``sha256.h`` beside this file."""

from libc.stdint cimport uint8_t, uint64_t


cdef extern from "sha256.h" nogil:
    ctypedef struct SHA256_CTX "ex_sha256_ctx":
        pass
    void SHA256_Init "ex_sha256_init" (SHA256_CTX *ctx)
    void SHA256_Update "ex_sha256_update" (SHA256_CTX *ctx, const void *data, size_t length)
    void SHA256_Final "ex_sha256_final" (uint8_t *digest, SHA256_CTX *ctx)
    # Write the 32 bytes of the hash.
    void sha256 "ex_sha256" (const void *data, size_t length, uint8_t *digest)
    # A message in parts that follow each other; the last ones may be empty.
    ctypedef struct Message "ex_sha256_message":
        const uint8_t *parts[3]
        size_t lengths[3]
    # The bytes of a message, and the blocks that so many bytes are.
    uint64_t message_length "ex_sha256_length" (const Message *message)
    size_t blocks_of "ex_sha256_blocks_of" (uint64_t length)
    # Write the hashes of two messages, which together cost little more than the longer one.
    void sha256_of_two "ex_sha256_two" (const Message *message, uint8_t *digest,
                                        const Message *message2, uint8_t *digest2)
    # The same for messages of SHORT_LEN bytes at most, which are in one place, not at NULL.
    const size_t SHORT_LEN "EX_SHA256_SHORT"
    void sha256_of_two_short "ex_sha256_two_short" (
        const uint8_t *data, size_t length, uint8_t *digest,
        const uint8_t *data2, size_t length2, uint8_t *digest2)


cdef inline void finish_twice(SHA256_CTX *context, uint8_t *digest) noexcept nogil:
    """Write the hash of the hash of the bytes that the context was given."""
    cdef uint8_t once[32]
    SHA256_Final(once, context)
    sha256(once, 32, digest)


cdef inline void hash_twice(const Message *message, uint8_t *digest) noexcept nogil:
    """Write the hash of the hash of a message."""
    cdef SHA256_CTX context
    cdef int n
    SHA256_Init(&context)
    for n in range(3):
        SHA256_Update(&context, message.parts[n], message.lengths[n])
    finish_twice(&context, digest)


cdef inline void hash_two_twice(const Message *message, uint8_t *digest,
                                const Message *message2, uint8_t *digest2) noexcept nogil:
    """Write the hashes of the hashes of two messages."""
    cdef uint8_t once[32]
    cdef uint8_t once2[32]
    sha256_of_two(message, once, message2, once2)
    sha256_of_two_short(once, 32, digest, once2, 32, digest2)
