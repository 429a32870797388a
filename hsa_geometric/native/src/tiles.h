// Products of tiles, queries times keys, and the memory that they stand in.
#pragma once
#include <algorithm>
#include <cstdlib>
#include <vector>

#include "simd.h"

namespace SIMD {

constexpr int TILE = 64;  // queries and keys of a tile

// Rows of numbers, `wide` apart ...
template <class A> struct Even {
    A* x;
    int wide;
    A* operator[](int j) const { return x + j * wide; }
    Even operator+(int j) const { return {x + j * wide, wide}; }
};
// ... or anywhere, each `shift` behind its address.
template <class A> struct Spread {
    A* const* x;
    int64_t shift;
    A* operator[](int j) const { return x[j] + shift; }
    Spread operator+(int j) const { return {x + j, shift}; }
};

// s[j][i] = sum_e q[e][i] k[j][e] for NK keys and NV vectors of queries; SPLIT sums side by side hide
// the latency of additions.
template <class A, int NV, int NK, int SPLIT = 1, class Rows>
INLINE void dots(A* s, const A* q, Rows keys, int ld, int E) {
    const A* k[NK];
    for (int j = 0; j < NK; j++) k[j] = keys[j];
    vec<A> acc[SPLIT][NK][NV] = {};
    int e = 0;
    for (; e + SPLIT <= E; e += SPLIT)
        for (int u = 0; u < SPLIT; u++) {
            vec<A> x[NV];
            for (int v = 0; v < NV; v++) x[v] = load(q + (e + u) * ld + v * LANES<A>);
            for (int j = 0; j < NK; j++)
                for (int v = 0; v < NV; v++) acc[u][j][v] += x[v] * k[j][e + u];
        }
    for (; e < E; e++)
        for (int v = 0; v < NV; v++)
            for (int j = 0; j < NK; j++) acc[0][j][v] += load(q + e * ld + v * LANES<A>) * k[j][e];
    for (int j = 0; j < NK; j++)
        for (int v = 0; v < NV; v++) {
            vec<A> y = acc[0][j][v];
            for (int u = 1; u < SPLIT; u++) y += acc[u][j][v];
            store(s + j * ld + v * LANES<A>, y);
        }
}

// All pairs of a tile: n keys, of which room for 8 more is there, and ld queries, a whole number of vectors.
template <class A, class Rows> static void all_dots(A* s, const A* q, Rows k, int ld, int n, int E) {
    const int L = LANES<A>;
    int i = 0;
    for (; i + 2 * L <= ld; i += 2 * L) {
        int j = 0;
#if VECTOR_BYTES == 64
        for (; j + 8 <= n; j += 8) dots<A, 2, 8>(s + j * ld + i, q + i, k + j, ld, E);
#endif
        for (; j < n; j += 4) dots<A, 2, 4>(s + j * ld + i, q + i, k + j, ld, E);
    }
    if (i < ld) {
        int j = 0;
        for (; n - j > 4; j += 8) dots<A, 1, 8>(s + j * ld + i, q + i, k + j, ld, E);
        for (; j < n; j += 4) dots<A, 1, 4, 2>(s + j * ld + i, q + i, k + j, ld, E);
    }
}

// The same for W queries, fewer than a vector, of which several heads stand beside each other.
template <class A, int W, int NK, class Rows> INLINE void narrow_dots(A* s, const A* q, Rows keys, int ld, int E) {
    typedef typename Narrow<A, W>::vec small;
    const A* k[NK];
    for (int j = 0; j < NK; j++) k[j] = keys[j];
    small acc[2][NK] = {};
    int e = 0;
    auto add = [&](int u, int at) {
        small x;
        memcpy(&x, q + at * ld, sizeof x);
        for (int j = 0; j < NK; j++) acc[u][j] += x * k[j][at];
    };
    for (; e + 2 <= E; e += 2) add(0, e), add(1, e + 1);
    if (e < E) add(0, e);
    for (int j = 0; j < NK; j++) {
        acc[0][j] += acc[1][j];
        memcpy(s + j * ld, &acc[0][j], sizeof acc[0][j]);
    }
}

// How many lanes the queries of a family of b have, if heads share vectors; else whole vectors.
template <class A> INLINE int lanes(int b) {
    return b <= 4 && LANES<A> >= 8 ? 4 : b <= 8 && LANES<A> >= 16 ? 8 : padded<A>(b);
}

template <class A, class Rows> static void head_dots(A* s, const A* q, Rows k, int ld, int group, int n, int E) {
    if (group >= LANES<A>) return all_dots(s, q, k, ld, n, E);
    if constexpr (LANES<A> >= 8)
        if (group == 4) {
            int j = 0;
            for (; n - j > 2; j += 4) narrow_dots<A, 4, 4>(s + j * ld, q, k + j, ld, E);
            if (j < n) narrow_dots<A, 4, 2>(s + j * ld, q, k + j, ld, E);
            return;
        }
    if constexpr (LANES<A> >= 16)
        for (int j = 0; j < n; j += 4) narrow_dots<A, 8, 4>(s + j * ld, q, k + j, ld, E);
}

// y[r][v ...] (+)= sum_t a[r * by_row + t * by_term] x[t][v ...] for NR rows and NV vectors.
template <class A, int NR, int NV, class Sums, class Rows>
INLINE void combine(Sums y, const A* a, int by_row, int by_term, int terms, Rows x, int at, bool more) {
    const int L = LANES<A>;
    vec<A> acc[NR][NV] = {};
    if (more)
        for (int r = 0; r < NR; r++)
            for (int v = 0; v < NV; v++) acc[r][v] = load(y[r] + at + v * L);
    for (int t = 0; t < terms; t++) {
        vec<A> row[NV];
        for (int v = 0; v < NV; v++) row[v] = load(x[t] + at + v * L);
        for (int r = 0; r < NR; r++)
            for (int v = 0; v < NV; v++) acc[r][v] += row[v] * a[r * by_row + t * by_term];
    }
    for (int r = 0; r < NR; r++)
        for (int v = 0; v < NV; v++) store(y[r] + at + v * L, acc[r][v]);
}

// The same for all rows, of which room for 8 more is there, of `wide` numbers, a whole number of vectors.
template <class A, class Sums, class Rows>
static void all_combine(Sums y, int rows, const A* a, int by_row, int by_term, int terms, Rows x, int wide, bool more) {
    const int L = LANES<A>;
    for (int r = 0; r < rows;) {
        int v = 0, step = 4;
        const A* at = a + r * by_row;
#if VECTOR_BYTES == 64
        if (rows - r > 4) {
            step = 8;
            for (; v + 2 * L <= wide; v += 2 * L) combine<A, 8, 2>(y + r, at, by_row, by_term, terms, x, v, more);
            for (; v < wide; v += L) combine<A, 8, 1>(y + r, at, by_row, by_term, terms, x, v, more);
        }
#endif
        for (; v + 2 * L <= wide; v += 2 * L) combine<A, 4, 2>(y + r, at, by_row, by_term, terms, x, v, more);
        for (; v < wide; v += L) combine<A, 4, 1>(y + r, at, by_row, by_term, terms, x, v, more);
        r += step;
    }
}

// Dot products x[i] . y[i] of rows, which stand anywhere, one in each lane; E is a whole number of vectors.
template <class A, int N> INLINE vec<A> row_dots(const A* const* x, const A* const* y, int E) {
    const int L = LANES<A>;
    vec<A> all[LANES<A>];
    for (int i = 0; i < L; i++) {
        all[i] = load(x[i]) * load(y[i]);
        for (int d = 1; d < (N ? N : E / L); d++) all[i] += load(x[i] + d * L) * load(y[i] + d * L);
    }
    return sums<A>(all);
}
template <class A> INLINE vec<A> row_dots(const A* const* x, const A* const* y, int E) {
    return E == 4 * LANES<A> ? row_dots<A, 4>(x, y, E) : E == 2 * LANES<A> ? row_dots<A, 2>(x, y, E) : row_dots<A, 0>(x, y, E);
}

// y[r] = share[r] z + by sum_t a[r * by_row + t * by_term] x[t], without z where that is null.
template <class A> struct Mix {
    const A* a;
    int by_row, by_term, terms;
    const A* const* x;
    A by;
    const A *z, *share;

    template <int NR, int NV> INLINE void tile(const Mix& m, A* const* y, int r, int at) {
        const int L = LANES<A>;
        vec<A> acc[NR][NV] = {};
        for (int t = 0; t < m.terms; t++)
            for (int v = 0; v < NV; v++) {
                const vec<A> row = load(m.x[t] + at + v * L);
                for (int i = 0; i < NR; i++) acc[i][v] += row * m.a[(r + i) * m.by_row + t * m.by_term];
            }
        for (int v = 0; v < NV; v++) {
            const vec<A> z_ = m.z ? load(m.z + at + v * L) : vec<A>{};
            for (int i = 0; i < NR; i++) {
                vec<A> sum = acc[i][v] * m.by;
                if (m.z) sum += z_ * m.share[r + i];
                store(y[r + i] + at + v * L, sum);
            }
        }
    }
    template <int NR> INLINE void rows(const Mix& m, A* const* y, int r, int wide) {
        int at = 0;
        if constexpr (NR <= 2)
            for (; at + 4 * LANES<A> <= wide; at += 4 * LANES<A>) tile<NR, 4>(m, y, r, at);
        for (; at + 2 * LANES<A> <= wide; at += 2 * LANES<A>) tile<NR, 2>(m, y, r, at);
        if (at < wide) tile<NR, 1>(m, y, r, at);
    }
    void to(A* const* y, int n, int wide) const {
        int r = 0;
        for (; r + 4 <= n; r += 4) rows<4>(*this, y, r, wide);
        if (n - r == 3) rows<3>(*this, y, r, wide);
        if (n - r == 2) rows<2>(*this, y, r, wide);
        if (n - r == 1) rows<1>(*this, y, r, wide);
    }
};

// Memory of one thread, kept for its next call; a thread's own, so callers may be many.
template <class A> struct Scratch {
    A *q, *k, *v, *qt, *s, *g, *gt, *x, *acc, *dq, *drop, *lane;
    static constexpr int VECTORS = 16;  // of TILE lanes, at `lane`

    Scratch(int keys, int E, int V) {
        const int rows = std::max(keys + 8, 3 * LANES<A>), ld = padded<A>(keys), wide = std::max(E, V);  // see Heads
        size_t sizes[] = {(size_t)rows * E, (size_t)rows * E, (size_t)rows * V, (size_t)ld * E, (size_t)rows * ld,
                          (size_t)rows * V, (size_t)ld * V, (size_t)rows * ld, (size_t)rows * V, (size_t)rows * wide,
                          (size_t)rows * ld, (size_t)VECTORS * TILE * 2};
        A** parts[] = {&q, &k, &v, &qt, &s, &g, &gt, &x, &acc, &dq, &drop, &lane};
        size_t total = 64 / sizeof(A);
        for (size_t n : sizes) total += (n + 31) / 32 * 32;
        static thread_local std::vector<A> memory;
        if (memory.size() < total) memory.assign(total, A(0));
        A* at = (A*)(((uintptr_t)memory.data() + 63) / 64 * 64);
        for (int i = 0; i < 12; i++) *parts[i] = at, at += (sizes[i] + 31) / 32 * 32;
    }
};

}  // namespace SIMD
