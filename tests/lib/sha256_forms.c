/* Hashes messages with one form of sha256.h, for the tests and the benchmark.
 *
 *   sha256_forms FORM            status 3 if this processor does not have it
 *
 * Standard input has messages: four bytes of length, two of the size of the parts in which a context
 * takes the message (0: in one call, without a context), and the message; numbers are little-endian.
 * Standard output gets the 32 bytes of each hash.
 *
 *   sha256_forms FORM two
 *
 * hashes the same input two messages at a time, each of which has its first two parts of that size.
 * Two short ones with a single part go the way of their own.
 *
 *   sha256_forms FORM SIZE COUNT [two]
 *
 * hashes a message of SIZE bytes COUNT times, or two side by side half as often, and prints the
 * nanoseconds of processor time for one.
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

/* Read a message of the input; return 1, 0 at its end, -1 for an error.  The caller frees its parts. */
static int read_message(ex_sha256_message *message) {
    uint8_t head[6];
    size_t left, size;
    int n;
    if (fread(head, 1, sizeof head, stdin) != sizeof head)
        return 0;
    left = head[0] | head[1] << 8 | head[2] << 16 | (size_t)head[3] << 24;
    size = head[4] | head[5] << 8;
    for (n = 0; n < EX_SHA256_PARTS; n++) {
        size_t length = n < EX_SHA256_PARTS - 1 && size < left ? size : left;
        uint8_t *data = malloc(length ? length : 1);
        if (data == NULL || fread(data, 1, length, stdin) != length)
            return -1;
        message->parts[n] = data;
        message->lengths[n] = length;
        left -= length;
    }
    return 1;
}

static void free_message(ex_sha256_message *message) {
    int n;
    for (n = 0; n < EX_SHA256_PARTS; n++)
        free((void *)message->parts[n]);
}

static int hash_two(void) {
    ex_sha256_message one, two;
    uint8_t digests[2 * EX_SHA256_DIGEST];
    int found;
    while ((found = read_message(&one)) == 1) {
        if (read_message(&two) != 1)
            return 2;
        if (ex_sha256_length(&one) <= EX_SHA256_SHORT && one.lengths[0] == ex_sha256_length(&one) &&
            ex_sha256_length(&two) <= EX_SHA256_SHORT && two.lengths[0] == ex_sha256_length(&two))
            ex_sha256_two_short(
                one.parts[0], one.lengths[0], digests,
                two.parts[0], two.lengths[0], digests + EX_SHA256_DIGEST
            );
        else
            ex_sha256_two(&one, digests, &two, digests + EX_SHA256_DIGEST);
        free_message(&one);
        free_message(&two);
        if (fwrite(digests, 1, sizeof digests, stdout) != sizeof digests)
            return 2;
    }
    return found ? 2 : 0;
}

static void hash_two_of(uint8_t *message, size_t size) {
    ex_sha256_message one = {{message, NULL, NULL}, {size, 0, 0}};
    uint8_t digests[2 * EX_SHA256_DIGEST];
    if (size <= EX_SHA256_SHORT)
        ex_sha256_two_short(message, size, digests, message, size, digests + EX_SHA256_DIGEST);
    else
        ex_sha256_two(&one, digests, &one, digests + EX_SHA256_DIGEST);
    memcpy(message, digests, size < EX_SHA256_DIGEST ? size : EX_SHA256_DIGEST);
}

int main(int argc, char **argv) {
    ex_sha256_blocks_fn form = argc > 1 ? ex_sha256_form(argv[1]) : NULL;
    if (form == NULL)
        return 3;
    ex_sha256_blocks = form;
    if (argc < 4)
        return argc == 3 && strcmp(argv[2], "two") == 0 ? hash_two() : hash_input();

    size_t size = strtoul(argv[2], NULL, 10), count = strtoul(argv[3], NULL, 10), n;
    uint8_t digest[EX_SHA256_DIGEST], *message = calloc(size + EX_SHA256_DIGEST, 1);
    if (message == NULL)
        return 2;
    clock_t start = clock();
    for (n = 0; argc > 4 && n < count / 2; n++)
        hash_two_of(message, size);
    for (n = 0; argc <= 4 && n < count; n++) {
        ex_sha256(message, size, digest);
        /* The next message depends on it, so that no call can be left out. */
        memcpy(message, digest, size < EX_SHA256_DIGEST ? size : EX_SHA256_DIGEST);
    }
    printf("%.1f\n", 1e9 * (double)(clock() - start) / CLOCKS_PER_SEC / (double)count);
    free(message);
    return 0;
}
