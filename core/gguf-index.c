/* Name index of the GGUF reader: open addressing, at most half full, hashed with SipHash-1-3.
 *
 * The hash is keyed with random bytes because names come from untrusted files: with a fixed hash, a file of names
 * that collide would make opening quadratic. SipHash: Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012.
 */
#include "gguf-internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

struct sharpi_gguf_slot {
    struct sharpi_str name; /* name.data == NULL: free */
    uint64_t item;
};

static uint64_t rotate(uint64_t x, int bits)
{
    return x << bits | x >> (64 - bits);
}

static void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[1] = rotate(v[1], 13) ^ v[0];
    v[0] = rotate(v[0], 32);
    v[2] += v[3];
    v[3] = rotate(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = rotate(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = rotate(v[1], 17) ^ v[2];
    v[2] = rotate(v[2], 32);
}

static uint64_t hash(const uint64_t key[2], struct sharpi_str name)
{
    uint64_t v[4] = {key[0] ^ 0x736f6d6570736575u, key[1] ^ 0x646f72616e646f6du, key[0] ^ 0x6c7967656e657261u,
                     key[1] ^ 0x7465646279746573u};
    uint64_t done = 0;
    for (int last = 0; !last;) {
        uint64_t word = 0, n = name.n - done;
        last = n < 8;
        if (last)
            word = name.n << 56;
        for (uint64_t i = 0; i < (last ? n : 8); i++)
            word |= (uint64_t)(uint8_t)name.data[done + i] << (8 * i);
        done += 8;
        v[3] ^= word;
        sip_round(v);
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    for (int i = 0; i < 3; i++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

int32_t sharpi_gguf_index_init(struct sharpi_gguf_index *index, uint64_t n_items)
{
    uint64_t n_slots = 8;
    while (n_slots / 2 < n_items)
        n_slots *= 2;
    index->slots = calloc(n_slots, sizeof *index->slots);
    if (!index->slots)
        return SHARPI_ENOMEM;
    index->mask = n_slots - 1;
    if (getrandom(index->key, sizeof index->key, GRND_NONBLOCK) != sizeof index->key) {
        /* Early boot or a forbidden system call: addresses are the next best secret. */
        index->key[0] = (uint64_t)(uintptr_t)index->slots;
        index->key[1] = (uint64_t)(uintptr_t)index;
    }
    return 0;
}

static struct sharpi_gguf_slot *find_slot(const struct sharpi_gguf_index *index, struct sharpi_str name)
{
    uint64_t at = hash(index->key, name) & index->mask;
    for (;; at = (at + 1) & index->mask) {
        struct sharpi_gguf_slot *slot = &index->slots[at];
        if (!slot->name.data || (slot->name.n == name.n && memcmp(slot->name.data, name.data, name.n) == 0))
            return slot;
    }
}

int32_t sharpi_gguf_index_add(struct sharpi_gguf_index *index, struct sharpi_str name, uint64_t *item)
{
    struct sharpi_gguf_slot *slot = find_slot(index, name);
    if (slot->name.data) {
        *item = slot->item;
        return 0;
    }
    slot->name = name;
    slot->item = *item;
    return 1;
}

int32_t sharpi_gguf_index_find(const struct sharpi_gguf_index *index, struct sharpi_str name, uint64_t *item)
{
    const struct sharpi_gguf_slot *slot = index->slots ? find_slot(index, name) : NULL;
    if (!slot || !slot->name.data)
        return 0;
    *item = slot->item;
    return 1;
}

void sharpi_gguf_index_free(struct sharpi_gguf_index *index)
{
    free(index->slots);
    index->slots = NULL;
}
