// From the blocks of each query node to those of groups of siblings, which is how the kernel reads them.
#include "blocks.h"

#include <algorithm>
#include <memory>
#include <new>
#include <vector>

#include "export.h"
#include "tree.h"

namespace {

constexpr int MOST = 64;   // members of a group: bits of a mask
constexpr int LEAST = 4;   // of which no group is cut

struct Key {
    int32_t position;
    uint64_t mask;  // who of the group meets it
};

struct Builder {
    const Walk query, key;
    const int64_t *ptr, *block;  // [T + 1] and key positions of the blocks of each query position
    std::vector<int32_t> slot;   // of each key position in `keys`, or -1
    std::vector<Key> keys;
    std::vector<int32_t> group_ptr, place, first, size, run_ptr, run;
    std::vector<uint64_t> masks;
    int64_t logits = 0, most_groups = 0;

    // Members i0 ... i1 of a family that begins at position `from`.
    void group(int32_t from, int32_t i0, int32_t i1) {
        const int n = i1 - i0;
        const uint64_t all = n == MOST ? ~(uint64_t)0 : ((uint64_t)1 << n) - 1;
        keys.clear();
        for (int j = 0; j < n; j++)
            for (int64_t i = ptr[from + i0 + j]; i < ptr[from + i0 + j + 1]; i++) {
                int32_t& at = slot[block[i]];
                if (at < 0) at = (int32_t)keys.size(), keys.push_back({(int32_t)block[i], 0});
                keys[at].mask |= (uint64_t)1 << j;
            }
        int64_t used = 0;
        for (const Key& x : keys) slot[x.position] = -1, used += __builtin_popcountll(x.mask);
        if (n > LEAST && 2 * used < n * (int64_t)keys.size()) {  // too different
            const int32_t middle = i0 + (n / 2 + LEAST - 1) / LEAST * LEAST;
            group(from, i0, middle);
            return group(from, middle, i1);
        }
        std::sort(keys.begin(), keys.end(), [](const Key& x, const Key& y) { return x.position < y.position; });
        logits += n * (int64_t)keys.size();
        first.push_back(i0);
        size.push_back(n);
        for (size_t i = 0; i < keys.size();) {
            const bool whole = keys[i].mask == all;
            size_t end = i + 1;
            while (end < keys.size() && keys[end].position == keys[end - 1].position + 1 && (keys[end].mask == all) == whole) end++;
            run.insert(run.end(), {keys[i].position, (int32_t)(end - i), whole ? -1 : (int32_t)masks.size()});
            for (; i < end; i++)
                if (!whole) masks.push_back(keys[i].mask);
        }
        run_ptr.push_back((int32_t)(run.size() / 3));
    }

    void build(int64_t P, int64_t PK, int64_t TK) {
        slot.assign(TK, -1);
        place.assign(key.first, key.first + PK);  // a root that is a leaf
        for (int64_t i = 0; i < TK; i++)
            if (key.source[i] < 0) place[-1 - key.source[i]] = (int32_t)i;
        group_ptr.push_back(0);
        run_ptr.push_back(0);
        for (int64_t p = 0; p < P; p++) {
            for (int32_t i = 0; i < query.size[p]; i += MOST) group(query.first[p], i, std::min(query.size[p], i + MOST));
            most_groups = std::max(most_groups, (int64_t)first.size() - group_ptr.back());
            group_ptr.push_back((int32_t)first.size());
        }
    }
};

}  // namespace

// The blocks of a query tree of T nodes, F inner ones and R roots, whose walk has P families, and a key tree: `block`
// holds the key positions of each query position, between those of `ptr`. Null without memory; else to be given to
// `hsa_take_blocks`. sizes: numbers of blocks.h, masks, groups, most groups of a family, logits of all groups.
EXPORT void* hsa_blocks(int32_t* query_walk, int64_t T, int64_t F, int64_t R, int64_t P, int32_t* key_walk, int64_t TK,
                        int64_t FK, int64_t RK, int64_t PK, const int64_t* ptr, const int64_t* block, int64_t* sizes) {
    try {
        std::unique_ptr<Builder> x(new Builder{Walk(query_walk, T, F, R), Walk(key_walk, TK, FK, RK), ptr, block});
        x->build(P, PK, TK);
        sizes[0] = (int64_t)(x->group_ptr.size() + x->place.size() + x->first.size() + x->size.size() + x->run_ptr.size() + x->run.size());
        sizes[1] = (int64_t)x->masks.size(), sizes[2] = (int64_t)x->first.size();
        sizes[3] = x->most_groups, sizes[4] = x->logits;
        return x.release();
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}
// Copies what was built and forgets it.
EXPORT void hsa_take_blocks(void* built, int32_t* packed, uint64_t* masks) {
    const std::unique_ptr<Builder> x((Builder*)built);
    for (const auto* part : {&x->group_ptr, &x->place, &x->first, &x->size, &x->run_ptr, &x->run})
        packed = std::copy(part->begin(), part->end(), packed);
    std::copy(x->masks.begin(), x->masks.end(), masks);
}
