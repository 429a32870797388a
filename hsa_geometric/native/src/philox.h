// Dropout from counters: whether a weight is kept follows from seed, key, query and head alone, by
// Philox 4x32-10 (Salmon et al., 2011) with the numbers that Triton's `philox` gives.
#pragma once
#include <cstdint>

static inline bool philox_keeps(uint64_t seed, int32_t place, int32_t query, int32_t head, double p) {
    uint32_t c0 = (uint32_t)place, c1 = (uint32_t)query, c2 = (uint32_t)head, c3 = 0;
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        const uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)b;
        c3 = (uint32_t)a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    const int32_t x = (int32_t)c0;
    return (float)(x < 0 ? -(x + 1) : x) * 4.6566127342e-10f >= (float)p;
}
