/* Reads events as relays send them, many at once: proves their ids, and makes the rows in which
 * PostgreSQL takes them.
 *
 * It takes none but plain events: compact, in the very bytes in which they were hashed, and in which
 * bigbrotr itself would write them. Of all others, valid or not, it says nothing: whoever asks has to
 * look at them in another way. So it need not tell what is wrong, nor know rare ways to write JSON.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "crc32.h"
#include "json.h"
#include "sha256.h"

#define EXPORT __attribute__((visibility("default")))
#define MAX_KIND 65535
#define MAX_DIGITS 18   /* of a time: more may not fit */
#define MAX_HASHES 5000 /* of an event's tags */
#define WEEK_S 604800
#define LAST_SLICE INT32_MAX
#define COLUMNS 10 /* with the number, which is not in these rows yet */
#define CLAIM 128  /* bytes: a signature (64), an id (32), a public key (32) */

/* A stretch of a frame. */
typedef struct {
    const uint8_t *at;
    size_t length;
} slice;

typedef struct {
    slice id, pubkey, sig; /* hexadecimal digits */
    slice created_at, kind; /* decimal digits */
    slice tags, content;    /* JSON */
    int64_t seconds;
    uint32_t number; /* of the kind */
} event;

enum { MADE = 1, LOOK_DEEPER = 2 };

/* What is said of a row. */
typedef struct {
    uint8_t flags;  /* LOOK_DEEPER: other texts than those of tags may name relays */
    uint32_t texts; /* of tags that begin like the URL of a relay: so many bytes of them */
} made;

static int hex_of(uint8_t *bytes, slice digits, size_t count) {
    if (digits.length != 2 * count) return 0;
    for (size_t i = 0; i < count; i++) {
        uint8_t high = HEX[digits.at[2 * i]], low = HEX[digits.at[2 * i + 1]];
        if ((high | low) > 15) return 0;
        bytes[i] = (uint8_t)(high << 4 | low);
    }
    return 1;
}

/* A whole number as we would write it, up to `most` digits. */
static int number_of(const uint8_t **at, const uint8_t *end, slice *digits, int64_t *value) {
    const uint8_t *p = *at;
    int64_t found = 0;
    digits->at = p;
    while (p < end && *p >= '0' && *p <= '9') {
        if (p - *at == MAX_DIGITS) return 0;
        found = 10 * found + (*p++ - '0');
    }
    digits->length = (size_t)(p - *at);
    if (!digits->length || (*digits->at == '0' && digits->length > 1)) return 0;
    *at = p;
    *value = found;
    return 1;
}

/* A string without its quotes. */
static int string_of(const uint8_t **at, const uint8_t *end, slice *found, int may_escape) {
    if (*at == end || **at != '"') return 0;
    found->at = *at + 1;
    const uint8_t *quote = string_end(found->at, end, may_escape);
    if (!quote) return 0;
    found->length = (size_t)(quote - found->at);
    *at = quote + 1;
    return 1;
}

/* Lists of strings without white space between them; none of the lists is empty. */
static int tags_of(const uint8_t **at, const uint8_t *end, slice *tags) {
    const uint8_t *p = *at;
    slice item;
    if (!eat(&p, end, '[')) return 0;
    if (!eat(&p, end, ']')) {
        do {
            if (!eat(&p, end, '[')) return 0;
            do {
                if (!string_of(&p, end, &item, 1)) return 0;
            } while (eat(&p, end, ','));
            if (!eat(&p, end, ']')) return 0;
        } while (eat(&p, end, ','));
        if (!eat(&p, end, ']')) return 0;
    }
    *tags = (slice){*at, (size_t)(p - *at)};
    *at = p;
    return 1;
}

static int is(slice name, const char *other) {
    return name.length == strlen(other) && memcmp(name.at, other, name.length) == 0;
}

/* A field of an event: no other than the seven, none of them twice. */
static int field_of(const uint8_t **at, const uint8_t *end, slice name, event *e) {
    int64_t value;
    if (is(name, "id")) return !e->id.at && string_of(at, end, &e->id, 0);
    if (is(name, "pubkey")) return !e->pubkey.at && string_of(at, end, &e->pubkey, 0);
    if (is(name, "sig")) return !e->sig.at && string_of(at, end, &e->sig, 0);
    if (is(name, "tags")) return !e->tags.at && tags_of(at, end, &e->tags);
    if (is(name, "content")) return !e->content.at && string_of(at, end, &e->content, 1);
    if (is(name, "created_at")) return !e->created_at.at && number_of(at, end, &e->created_at, &e->seconds);
    if (!is(name, "kind") || e->kind.at || !number_of(at, end, &e->kind, &value)) return 0;
    e->number = (uint32_t)value;
    return value <= MAX_KIND;
}

static int object_of(const uint8_t **at, const uint8_t *end, event *e) {
    slice name;
    memset(e, 0, sizeof *e);
    if (!eat(at, end, '{')) return 0;
    do {
        skip_space(at, end);
        if (!string_of(at, end, &name, 0)) return 0;
        skip_space(at, end);
        if (!eat(at, end, ':')) return 0;
        skip_space(at, end);
        if (!field_of(at, end, name, e)) return 0;
        skip_space(at, end);
    } while (eat(at, end, ','));
    return eat(at, end, '}') && e->id.at && e->pubkey.at && e->sig.at && e->created_at.at && e->kind.at
        && e->tags.at && e->content.at;
}

/* ["EVENT", a subscription, an event]; `wanted` is the subscription, any if NULL. */
static int frame_of(slice frame, const slice *wanted, event *e) {
    const uint8_t *p = frame.at, *end = p + frame.length;
    slice name, subscription;
    skip_space(&p, end);
    if (!eat(&p, end, '[')) return 0;
    skip_space(&p, end);
    if (!string_of(&p, end, &name, 0) || !is(name, "EVENT")) return 0;
    skip_space(&p, end);
    if (!eat(&p, end, ',')) return 0;
    skip_space(&p, end);
    if (!string_of(&p, end, &subscription, 0)) return 0;
    if (wanted
        && (subscription.length != wanted->length
            || memcmp(subscription.at, wanted->at, wanted->length) != 0))
        return 0;
    skip_space(&p, end);
    if (!eat(&p, end, ',')) return 0;
    skip_space(&p, end);
    if (!object_of(&p, end, e)) return 0;
    skip_space(&p, end);
    if (!eat(&p, end, ']')) return 0;
    skip_space(&p, end);
    return p == end;
}

static uint8_t *put(uint8_t *to, const void *from, size_t length) {
    memcpy(to, from, length);
    return to + length;
}

static uint8_t *put_slice(uint8_t *to, slice from) { return put(to, from.at, from.length); }

/* The hash of what an event's author signed (NIP-01); `room` is larger than its frame by 200. */
static void id_of(const event *e, uint8_t *room, sha_block *take_block, uint8_t *hash) {
    uint8_t *p = put(room, "[0,\"", 4);
    p = put_slice(p, e->pubkey);
    p = put(p, "\",", 2);
    p = put_slice(p, e->created_at);
    *p++ = ',';
    p = put_slice(p, e->kind);
    *p++ = ',';
    p = put_slice(p, e->tags);
    p = put(p, ",\"", 2);
    p = put_slice(p, e->content);
    p = put(p, "\"]", 2);
    size_t length = (size_t)(p - room), padded = (length + 9 + 63) / 64 * 64;
    *p++ = 0x80;
    memset(p, 0, (size_t)(room + padded - p));
    for (int i = 0; i < 8; i++) room[padded - 1 - (size_t)i] = (uint8_t)((uint64_t)length * 8 >> 8 * i);
    uint32_t state[8];
    memcpy(state, SHA_START, sizeof state);
    for (size_t at = 0; at < padded; at += 64) take_block(state, room + at);
    for (int i = 0; i < 32; i++) hash[i] = (uint8_t)(state[i / 4] >> (24 - 8 * (i % 4)));
}

/* Says of each frame whether it is a plain event for the subscription (1), and of one that is, what is
 * in it: its kind, its time, its claim (the signature, the id, the public key), and where it lies. 0
 * where there is no memory. `bounds` says where in `data` each frame begins and ends; -1 where they are
 * not in order. */
EXPORT int bigbrotr_native_scan(const uint8_t *data, const uint32_t *bounds, size_t count,
                                const uint8_t *subscription, size_t subscription_length, uint8_t *are_plain,
                                uint32_t *kinds, int64_t *created_ats, uint8_t *claims, uint64_t *addresses,
                                uint32_t *lengths) {
    static sha_block *take_block; /* to ask the processor takes longer than a hash; two may ask */
    sha_block *here = __atomic_load_n(&take_block, __ATOMIC_RELAXED);
    if (!here) __atomic_store_n(&take_block, here = sha_block_here(), __ATOMIC_RELAXED);
    const slice wanted = {subscription, subscription_length};
    size_t most = 0;
    for (size_t i = 0; i < count; i++) {
        if (bounds[2 * i] > bounds[2 * i + 1] || (i && bounds[2 * i] < bounds[2 * i - 1])) return -1;
        lengths[i] = bounds[2 * i + 1] - bounds[2 * i];
        if (lengths[i] > most) most = lengths[i];
    }
    uint8_t *room = malloc(most + 200);
    if (!room) return 0;
    for (size_t i = 0; i < count; i++) {
        event e;
        uint8_t hash[32], *claim = claims + CLAIM * i;
        const slice frame = {data + bounds[2 * i], lengths[i]};
        are_plain[i] = 0;
        addresses[i] = (uint64_t)(uintptr_t)frame.at;
        if (!frame_of(frame, &wanted, &e)) continue;
        if (!hex_of(claim, e.sig, 64) || !hex_of(claim + 64, e.id, 32) || !hex_of(claim + 96, e.pubkey, 32))
            continue;
        id_of(&e, room, here, hash);
        if (memcmp(hash, claim + 64, 32) != 0) continue;
        are_plain[i] = 1;
        kinds[i] = e.number;
        created_ats[i] = e.seconds;
    }
    free(room);
    return 1;
}

typedef struct {
    int64_t at;
    const uint8_t *id;
    uint32_t place;
} key;

static int compare(const void *one, const void *other) {
    const key *a = one, *b = other;
    if (a->at != b->at) return a->at < b->at ? -1 : 1;
    int found = memcmp(a->id, b->id, 32);
    if (found) return found;
    return a->place < b->place ? -1 : 1;
}

/* Puts events into the order of (time, id): 1; 0 where two have the same id, -1 where there is no
 * memory. */
EXPORT int bigbrotr_native_order(const int64_t *created_ats, const uint8_t *claims, size_t count,
                                 uint32_t *order) {
    key *keys = malloc((count + 1) * sizeof *keys);
    if (!keys) return -1;
    /* Most relays begin with the newest: what is sorted already is sorted fast. */
    for (size_t i = 0; i < count; i++) {
        size_t from = count - 1 - i;
        keys[i] = (key){created_ats[from], claims + CLAIM * from + 64, (uint32_t)from};
    }
    qsort(keys, count, sizeof *keys, compare);
    int is_unique = 1;
    for (size_t i = 0; i < count; i++) {
        order[i] = keys[i].place;
        if (i && keys[i].at == keys[i - 1].at && memcmp(keys[i].id, keys[i - 1].id, 32) == 0) is_unique = 0;
    }
    free(keys);
    return is_unique;
}

/* Copies the columns of events that stand at the places, in their order. 0 where there is no such place. */
EXPORT int bigbrotr_native_pick(const uint32_t *places, size_t count, size_t all, const int64_t *created_ats,
                                const uint8_t *claims, const uint64_t *addresses, const uint32_t *lengths,
                                const uint32_t *kinds, int64_t *to_created_ats, uint8_t *to_claims,
                                uint64_t *to_addresses, uint32_t *to_lengths, uint32_t *to_kinds) {
    for (size_t i = 0; i < count; i++) {
        size_t from = places[i];
        if (from >= all) return 0;
        to_created_ats[i] = created_ats[from];
        memcpy(to_claims + CLAIM * i, claims + CLAIM * from, CLAIM);
        to_addresses[i] = addresses[from];
        to_lengths[i] = lengths[from];
        to_kinds[i] = kinds[from];
    }
    return 1;
}

/* Finds the text messages that follow on each other from `at` on, each in one frame of its own and not
 * larger than `largest`: where they begin and end, `most` at most. Returns where they cease: with
 * what is not whole, or anything else, which is left to others. */
EXPORT size_t bigbrotr_native_messages(const uint8_t *data, size_t length, size_t at, size_t largest,
                                       size_t most, uint32_t *bounds, size_t *count) {
    for (*count = 0; *count < most && length - at >= 2 && data[at] == 0x81; ++*count) {
        size_t start = at + 2, size = data[at + 1];
        if (size >= 126) {
            int bytes = size == 126 ? 2 : size == 127 ? 8 : 0; /* none: it is masked */
            if (!bytes || length - start < (size_t)bytes) break;
            for (size = 0; bytes--; start++) {
                if (size >> 56) return at;
                size = size << 8 | data[start];
            }
        }
        if (!size || size > largest || size > length - start) break;
        bounds[2 * *count] = (uint32_t)start;
        bounds[2 * *count + 1] = (uint32_t)(start + size);
        at = start + size;
    }
    return at;
}

static uint8_t *put32(uint8_t *to, uint32_t value) {
    const uint8_t bytes[4] = {(uint8_t)(value >> 24), (uint8_t)(value >> 16), (uint8_t)(value >> 8), (uint8_t)value};
    return put(to, bytes, 4);
}

static uint8_t *put64(uint8_t *to, uint64_t value) {
    return put32(put32(to, (uint32_t)(value >> 32)), (uint32_t)value);
}

static int is_letter(uint8_t c) { return (c | 32) >= 'a' && (c | 32) <= 'z'; }

/* Whether a text may begin like the URL of a relay: 1 if it does, -1 if an escape, or another letter
 * or space than ASCII's, decides that. */
static int begins_like_a_relay(slice item) {
    const uint8_t *p = item.at, *end = p + item.length;
    while (p < end && *p == ' ') p++;
    for (const char *name = "ws"; *name; name++, p++) {
        if (p == end) return 0;
        if (*p >= 0x80 || *p == '\\') return -1;
        if ((*p | 32) != *name) return 0;
    }
    if (p < end && *p >= 0x80) return -1;
    if (p < end && (*p | 32) == 's') p++;
    if (end - p < 3 || memcmp(p, "://", 3) != 0) return 0;
    return memchr(p, '\\', (size_t)(end - p)) ? -1 : 1;
}

/* Hashes of tags, each once, in order; `slots` says where one stands, 0 for nowhere. */
typedef struct {
    uint32_t all[MAX_HASHES];
    uint16_t slots[16384];
    uint32_t count, mask;
} hashes;

static void add(hashes *h, uint32_t hash) {
    if (h->mask) {
        uint32_t slot = hash & h->mask;
        for (; h->slots[slot]; slot = (slot + 1) & h->mask)
            if (h->all[h->slots[slot] - 1] == hash) return;
        h->slots[slot] = (uint16_t)(h->count + 1);
    } else {
        for (uint32_t i = 0; i < h->count; i++)
            if (h->all[i] == hash) return;
    }
    h->all[h->count++] = hash;
}

/* What a string says; it takes no more than it did with its escapes. */
static uint8_t *unescape(uint8_t *to, slice string) {
    const uint8_t *p = string.at, *end = p + string.length;
    while (p < end) {
        const uint8_t *next = memchr(p, '\\', (size_t)(end - p));
        if (!next) next = end;
        to = put(to, p, (size_t)(next - p));
        if (next == end) break;
        switch (next[1]) {
        case 'b': *to++ = '\b'; break;
        case 'f': *to++ = '\f'; break;
        case 'n': *to++ = '\n'; break;
        case 'r': *to++ = '\r'; break;
        case 't': *to++ = '\t'; break;
        case 'u': *to++ = (uint8_t)(HEX[next[4]] << 4 | HEX[next[5]]); break;
        default: *to++ = next[1];
        }
        p = next + (next[1] == 'u' ? 6 : 2);
    }
    return to;
}

/* Goes through the tags of an event; 0 when they are too many. `room` is for one of their strings. */
static int walk_tags(slice tags, uint8_t *room, hashes *h, uint8_t *texts, made *said) {
    const uint8_t *p = tags.at + 1, *end = tags.at + tags.length - 1;
    uint32_t indexed = 0;
    /* Each tag with a value takes nine bytes: few are compared with each other, many are not. */
    h->count = h->mask = 0;
    if (tags.length / 9 > 24) {
        h->mask = 63;
        while (h->mask < 2 * (tags.length / 9) && h->mask < 16383) h->mask = 2 * h->mask + 1;
        memset(h->slots, 0, (h->mask + 1) * sizeof *h->slots);
    }
    while (p < end) { /* a tag and what is behind it */
        slice name = {0}, item = {0};
        for (uint32_t n = 0; *p != ']'; n++) {
            p++; /* [ or , */
            string_of(&p, end, &item, 1);
            int is_like = begins_like_a_relay(item);
            if (is_like < 0) said->flags |= LOOK_DEEPER;
            if (is_like > 0) {
                uint8_t *to = put_slice(texts + said->texts, item);
                *to = '\n';
                said->texts += (uint32_t)item.length + 1;
            }
            if (n == 0) name = item;
            if (n != 1 || name.length != 1 || !is_letter(*name.at)) continue;
            if (++indexed > MAX_HASHES) return 0;
            if (memchr(item.at, '\\', item.length))
                item = (slice){room, (size_t)(unescape(room, item) - room)};
            const uint8_t begun[2] = {*name.at, ':'};
            add(h, crc32_end(crc32_add(crc32_add(CRC_BEGIN, begun, 2), item.at, item.length)) ^ 0x80000000);
        }
        p++;
        if (p < end) p++; /* , */
    }
    return 1;
}

/* Whether "1q" is somewhere in a text. */
static int has_entity(const uint8_t *p, const uint8_t *end) {
#ifdef WIDE_STRINGS
    const __m128i one = _mm_set1_epi8('1'), q = _mm_set1_epi8('q');
    for (; end - p >= 17; p += 16) {
        const __m128i first = _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)p), one);
        const __m128i second = _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)(p + 1)), q);
        if (_mm_movemask_epi8(_mm_and_si128(first, second))) return 1;
    }
#endif
    while (end - p > 1 && (p = memchr(p, '1', (size_t)(end - p - 1))) != NULL)
        if (*++p == 'q') return 1;
    return 0;
}

/* Makes the row of an event, whose claim is known; returns its end. */
static uint8_t *row_of(const event *e, const uint8_t *claim, uint8_t *row, hashes *h, uint8_t *texts, made *said) {
    int64_t week = e->seconds / WEEK_S;
    uint8_t *p = row;
    *p++ = 0;
    *p++ = COLUMNS;
    p = put64(put32(p, 8), (uint64_t)e->seconds);
    p = put32(put32(p, 4), e->number);
    p = put32(put32(p, 4), week < LAST_SLICE ? (uint32_t)week : (uint32_t)LAST_SLICE);
    p = put(put32(p, 32), claim + 64, 32);
    p = put(put32(p, 32), claim + 96, 32);
    p = put(put32(p, 64), claim, 64);
    p = put32(p, (uint32_t)e->tags.length);
    p = put_slice(p, e->tags);
    if (!walk_tags(e->tags, p, h, texts, said)) return row;
    if (h->count) {
        p = put32(p, 20 + 8 * h->count);
        p = put32(put32(put32(p, 1), 0), 23); /* dimensions, NULLs, the number of int4 */
        p = put32(put32(p, h->count), 1);
        for (uint32_t i = 0; i < h->count; i++) p = put32(put32(p, 4), h->all[i]);
    } else {
        p = put32(p, UINT32_MAX);
    }
    uint8_t *length = p;
    p = unescape(p + 4, e->content);
    put32(length, (uint32_t)(p - length - 4));
    if (e->number == 2 || (e->number == 3 && e->content.length) || has_entity(length + 4, p))
        said->flags |= LOOK_DEEPER;
    said->flags |= MADE;
    return p;
}

/* Makes the rows of plain events, whose claims are known, one behind the other: the columns created_at, kind, slice, id,
 * pubkey, sig, tags, tag_hashes and content of a binary COPY. Returns their length, or -1 where there
 * is no memory. The frames lie at the addresses; where that is 0 there is none, nor a row. `rows` has
 * room for twice the frames and 300 bytes for each of them, `texts` for the frames: what begins like
 * the URL of a relay stands there, each with a line feed behind it. */
EXPORT int64_t bigbrotr_native_rows(const uint64_t *addresses, const uint32_t *lengths,
                                    const uint8_t *claims, size_t count, uint8_t *rows, uint32_t *row_lengths, uint8_t *flags, uint8_t *texts,
                                    uint32_t *text_lengths) {
    hashes *h = malloc(sizeof *h);
    if (!h) return -1;
    uint8_t *p = rows;
    for (size_t i = 0; i < count; i++) {
        event e;
        made said = {0};
        uint8_t *end = p;
        const slice frame = {(const uint8_t *)(uintptr_t)addresses[i], lengths[i]};
        if (frame.at && frame_of(frame, NULL, &e)) end = row_of(&e, claims + CLAIM * i, p, h, texts, &said);
        if (!(said.flags & MADE)) {
            said = (made){0};
            end = p;
        }
        flags[i] = said.flags;
        texts += text_lengths[i] = said.texts;
        row_lengths[i] = (uint32_t)(end - p);
        p = end;
    }
    free(h);
    return p - rows;
}

/* Puts its number behind each row, and `columns` before it; no more than `most` bytes of it are kept,
 * if that is not 0. Returns the length of all: `to` has room for the rows and 12 bytes for each. */
EXPORT size_t bigbrotr_native_number(const uint8_t *rows, const uint32_t *lengths, const int64_t *numbers,
                                     size_t count, uint32_t columns, uint32_t most, uint8_t *to) {
    uint8_t *p = to;
    for (size_t i = 0; i < count; rows += lengths[i++]) {
        uint8_t *row = p;
        p = put(p, rows, most && most < lengths[i] ? most : lengths[i]);
        row[0] = (uint8_t)(columns >> 8);
        row[1] = (uint8_t)columns;
        p = put64(put32(p, 8), (uint64_t)numbers[i]);
    }
    return (size_t)(p - to);
}
