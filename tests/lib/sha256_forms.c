/* Hashes messages with one form of sha256.h, for the tests and the benchmark.
 *
 *   sha256_forms FORM            status 3 if this processor does not have it
 *
 * Standard input has messages: four bytes of length, two of the size of the parts in which a context
 * takes the message (0: in one call, without a context), and the message; numbers are little-endian.
 * Standard output gets the 32 bytes of each hash.
 *
 *   sha256_forms FORM SIZE COUNT
 *
 * hashes a message of SIZE bytes COUNT times and prints the nanoseconds of processor time for one.
 */

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "sha256.h"

static int hash_input(void) {
    uint8_t head[6], digest[EX_SHA256_DIGEST];
    while (fread(head, 1, sizeof head, stdin) == sizeof head) {
        size_t length = head[0] | head[1] << 8 | head[2] << 16 | (size_t)head[3] << 24;
        size_t part = head[4] | head[5] << 8, done, n;
        ex_sha256_ctx ctx;
        ex_sha256_init(&ctx);
        for (done = 0; done < length || !part; done += n) {
            n = part && length - done > part ? part : length - done;
            /* As long as the part, so that a read past its end is an error to a sanitizer. */
            uint8_t *data = malloc(n ? n : 1);
            if (data == NULL || fread(data, 1, n, stdin) != n)
                return 2;
            if (part)
                ex_sha256_update(&ctx, data, n);
            else
                ex_sha256(data, n, digest);
            free(data);
            if (!part)
                break;
        }
        if (part)
            ex_sha256_final(digest, &ctx);
        if (fwrite(digest, 1, sizeof digest, stdout) != sizeof digest)
            return 2;
    }
    return 0;
}

int main(int argc, char **argv) {
    ex_sha256_blocks_fn form = argc > 1 ? ex_sha256_form(argv[1]) : NULL;
    if (form == NULL)
        return 3;
    ex_sha256_blocks = form;
    if (argc < 4)
        return hash_input();

    size_t size = strtoul(argv[2], NULL, 10), count = strtoul(argv[3], NULL, 10), n;
    uint8_t digest[EX_SHA256_DIGEST], *message = calloc(size + EX_SHA256_DIGEST, 1);
    if (message == NULL)
        return 2;
    clock_t start = clock();
    for (n = 0; n < count; n++) {
        ex_sha256(message, size, digest);
        /* The next message depends on it, so that no call can be left out. */
        memcpy(message, digest, size < EX_SHA256_DIGEST ? size : EX_SHA256_DIGEST);
    }
    printf("%.1f\n", 1e9 * (double)(clock() - start) / CLOCKS_PER_SEC / (double)count);
    free(message);
    return 0;
}
