"""SHA-256 of OpenSSL, for the compiled modules."""

cdef extern from *:
    """
    /* The one-shot and EVP calls of OpenSSL 3 look the algorithm up at each call, about 300 ns;
       the low-level ones are called deprecated, but do not. */
    #define OPENSSL_SUPPRESS_DEPRECATED 1
    #include <openssl/sha.h>
    """
    ctypedef struct SHA256_CTX:
        pass
    int SHA256_Init(SHA256_CTX *c) nogil
    int SHA256_Update(SHA256_CTX *c, const void *data, size_t len) nogil
    int SHA256_Final(unsigned char *md, SHA256_CTX *c) nogil


cdef inline void sha256(const void *data, size_t length, unsigned char *digest) noexcept nogil:
    """Write the 32 bytes of the hash."""
    cdef SHA256_CTX context
    SHA256_Init(&context)
    SHA256_Update(&context, data, length)
    SHA256_Final(digest, &context)


cdef inline void finish_twice(SHA256_CTX *context, unsigned char *digest) noexcept nogil:
    """Write the hash of the hash of the bytes that the context was given."""
    cdef unsigned char once[32]
    SHA256_Final(once, context)
    sha256(once, 32, digest)
