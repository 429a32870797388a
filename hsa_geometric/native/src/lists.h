// Attention by interaction lists: a query tree and a key tree, which may be one.
//
//     pack    means of k and v over each subtree of the key tree
//     up      families of the query tree in post-order: means of q; logits of the blocks; S, g and
//             U = (1 - g) M, where g = sigmoid(I - S) and I is the sum of w F over the children
//     down    the same families backwards: out = Z + W U, as among siblings (attention.h)
//
// Backward is that of siblings too, but for what a key's row gets: it comes from queries of many
// families. Threads that share a head sum it up in rows of their own. At last gradients of means go
// down the key tree.
#pragma once
#include <cstring>

#include "attention.h"
#include "blocks.h"

namespace SIMD {

template <class A> struct Lists {
    typedef typename Attention<A>::Family Family;

    const ListsCall& l;
    const Call& c;  // of the query tree
    const Blocks blocks;
    const Attention<A> q, k;  // where things are, of both trees
    const int H, D, V, P, E, EP, VP;
    const int64_t nobody;     // the row of nobody, behind all others

    // Heads that share the vectors of a tile: `count` from `first`, the queries of each in `group` lanes and its rows
    // `apart` from those of the one before.
    struct Heads {
        int first, count, group, ld, apart;
        Heads(int first, int end, int b) : first(first), group(lanes<A>(std::min(b, TILE))) {
            count = group < LANES<A> ? std::min(end - first, LANES<A> / group) : 1;
            ld = padded<A>(group * count);
            apart = group + 8;
        }
    };

    explicit Lists(const ListsCall& l)
        : l(l), c(l.query), blocks(l.blocks, l.query.families, l.key.families, l.groups), q(l.query, l.query.D), k(l.key, l.key.D),
          H(q.H), D(q.D), V(q.V), P(q.P), E(q.E), EP(q.EP), VP(q.VP), nobody(l.direct ? l.key.families : l.key.T) {}

    // --- the key tree ------------------------------------------------------------------------------

    // Rows of the key tree [rows, H, wide]: in `direct` calls those of leaves are where they were given, and only
    // families have one here; else all positions do.
    A* row(void* base, const Rows& x, int64_t position, int h, int wide) const {
        if (l.direct) {
            const int32_t s = k.walk.source[position];
            if (s >= 0) return (A*)k.row(x, s, h, wide);
            position = -1 - s;
        }
        return at(base, position, h, wide);
    }
    A* at(void* base, int64_t index, int h, int wide) const { return (A*)base + (index * H + h) * wide; }
    A* key(int64_t position, int h) const { return row(l.keys, l.key.k, position, h, EP); }
    A* value(int64_t position, int h) const { return row(l.values, l.key.v, position, h, VP); }
    // What keys and values get in a part; all but the first have a row for all positions. T is nobody's.
    A* given(void* base, const Rows& x, int part, int64_t position, int h, int wide) const {
        if (part == 0) return position == l.key.T ? at(base, nobody, h, wide) : row(base, x, position, h, wide);
        return at(base, nobody + 1 + (part - 1) * (l.key.T + 1) + position, h, wide);
    }
    A* d_key(int part, int64_t position, int h) const { return given(l.d_keys, l.key.dk, part, position, h, EP); }
    A* d_value(int part, int64_t position, int h) const { return given(l.d_values, l.key.dv, part, position, h, VP); }

    // Whether the family is a root that is a leaf, and has no other row.
    bool lone(int p) const { return blocks.place[p] == k.walk.first[p]; }

    // Means of a family; rows of its leaves where they are not taken as they are.
    void pack(int p, int h) const {
        const Family m = k.family(p);
        auto read_rows = [&](const Rows& x, int n, int wide, bool keys) {
            for (int j = 0; j < m.size; j++) {
                if (m.source[j] < 0) continue;
                A* row = keys ? key(m.first + j, h) : value(m.first + j, h);
                std::fill(row, row + wide, A(0));
                if (k.seen(m, j)) read(row, k.row(x, m.source[j], h, n), (int)x.dtype, n);
            }
        };
        if (!l.direct) read_rows(l.key.k, D, EP, true), read_rows(l.key.v, V, VP, false);
        const A* w = k.weight(m);
        auto sum = [&](int wide, bool keys) {
            A* to = keys ? key(blocks.place[p], h) : value(blocks.place[p], h);
            for (int d = 0; d < wide; d += LANES<A>) {
                vec<A> total{};
                for (int j = 0; j < m.size; j++) total += load((keys ? key(m.first + j, h) : value(m.first + j, h)) + d) * w[j];
                store(to + d, total);
            }
        };
        if (!lone(p)) sum(EP, true), sum(VP, false);
        auto positions = [&](int64_t position) {
            for (int e = 0; e < P; e++) key(position, h)[D + e] = ((const A*)l.key.pos_k)[(l.key.order[position] * H + h) * P + e];
        };
        for (int j = 0; P && j < m.size; j++)
            if (m.source[j] >= 0) positions(m.first + j);
        if (!lone(p)) positions(blocks.place[p]);
    }

    // Gradients of keys and values of members j0 ... j1: what blocks gave, and their parent's.
    void unpack(int p, int h, int j0, int j1) const {
        const Family m = k.family(p);
        const A by_k = q.scaled() ? (A)(1 / LOG2E) : (A)c.scale;  // what q has in it or not
        for (int j = j0; j < j1; j++) {
            const int64_t position = m.first + j;
            const int32_t s = m.source[j];
            A *dk = d_key(0, position, h), *dv = d_value(0, position, h);
            for (int part = 1; part < l.parts; part++) {
                const A *more = d_key(part, position, h), *others = d_value(part, position, h);
                for (int e = 0; e < E; e++) dk[e] += more[e];
                for (int e = 0; e < V; e++) dv[e] += others[e];
            }
            for (int e = 0; e < E; e++) dk[e] *= by_k;
            for (int e = 0; e < P; e++) ((A*)l.key.d_pos_k)[(k.id(m, j) * H + h) * P + e] = dk[D + e];
            if (!lone(p)) {
                const A w = k.weight(m)[j], *zk = d_key(0, blocks.place[p], h), *zv = d_value(0, blocks.place[p], h);
                for (int e = 0; e < D; e++) dk[e] += w * zk[e];
                for (int e = 0; e < V; e++) dv[e] += w * zv[e];
            }
            if (s < 0 || l.direct) continue;
            if (!k.seen(m, j)) std::fill(dk, dk + D, A(0)), std::fill(dv, dv + V, A(0));
            write(k.out_row(l.key.dk, s, h, D), dk, (int)l.key.dk.dtype, D);
            write(k.out_row(l.key.dv, s, h, V), dv, (int)l.key.dv.dtype, V);
        }
    }

    // --- blocks ------------------------------------------------------------------------------------

    // Keys of a group, TILE at a time; addresses are those of the first of the heads, and of 8 more that nobody asks.
    struct Tile {
        const int32_t *run, *end;
        int done = 0, n = 0;  // keys of the run that were there; keys that are here
        bool masked = false;
        A *key[TILE + 8], *value[TILE + 8], *d_key[TILE + 8], *d_value[TILE + 8];
        int32_t position[TILE];
        uint64_t mask[TILE];
    };
    Tile tile(int group) const {
        Tile t;
        t.run = blocks.run + 3 * (int64_t)blocks.run_ptr[group], t.end = blocks.run + 3 * (int64_t)blocks.run_ptr[group + 1];
        return t;
    }
    bool next(Tile& t, int h, int n, const Scratch<A>& w, int part, bool back) const {
        t.n = 0, t.masked = false;
        for (; t.run < t.end && t.n < TILE; t.done = 0, t.run += 3) {
            const int take = std::min(t.run[1] - t.done, TILE - t.n);
            const bool masked = t.run[2] >= 0;
            t.masked |= masked;
            for (int i = 0; i < take; i++, t.n++, t.done++) {
                t.position[t.n] = t.run[0] + t.done;
                t.mask[t.n] = masked ? l.masks[t.run[2] + t.done] : ~(uint64_t)0;
            }
            if (t.done < t.run[1]) break;
        }
        for (int j = 0; j < t.n + 8; j++) {
            const bool is = j < t.n;
            t.key[j] = is ? key(t.position[j], h) : at(l.keys, nobody, h, EP);
            t.value[j] = is ? value(t.position[j], h) : at(l.values, nobody, h, VP);
            if (!back) continue;
            const int64_t position = is ? t.position[j] : l.key.T;
            t.d_key[j] = d_key(part, position, h), t.d_value[j] = d_value(part, position, h);
        }
        // Many members, which have the tile to one head, read them again and again: side by side.
        for (int j = 0; n >= TILE / 2 && j < t.n; j++) {
            t.key[j] = (A*)std::memcpy(w.k + j * EP, t.key[j], EP * sizeof(A));
            t.value[j] = (A*)std::memcpy(w.v + j * VP, t.value[j], VP * sizeof(A));
        }
        return t.n > 0;
    }
    // Which leaf of members i0 ... i0 + n the key is itself, or -1.
    int self(const Family& m, int i0, int n, int32_t position) const {
        const int i = position - m.first - i0;
        return l.same && i >= 0 && i < n && m.source[i0 + i] >= 0 ? i : -1;
    }

    // Logits of a tile of members i0 ... i0 + n; `bias` has a number for each lane.
    void logits(const Family& m, const Heads& hs, const Scratch<A>& w, int i0, int n, const Tile& t, const A* bias) const {
        const int L = LANES<A>, lanes = std::min(hs.group, L);
        const A* lm = (const A*)l.key.log_mass;
        const A by = q.scaled() ? A(1) : q.scale;
        for (int a = 0; a < hs.count; a++)
            head_dots(w.s + a * hs.group, w.qt + a * hs.group, Spread<A>{t.key, (int64_t)a * EP}, hs.ld, hs.group, t.n, E);
        uvec<A> bit;
        for (int i = 0; i < L; i++) bit[i] = (typename Types<A>::integer)1 << i % lanes;
        for (int j = 0; j < t.n; j++) {
            A* s = w.s + j * hs.ld;
            const int own = self(m, i0, n, t.position[j]);
            for (int i = 0; i < hs.ld; i += L) {
                vec<A> x = load(s + i) * by + lm[t.position[j]];
                if (c.bias && own < 0) x += load(bias + i);
                if (t.masked) {
                    const uvec<A> bits = (typename Types<A>::integer)(t.mask[j] >> (hs.group > L ? i : 0)) - uvec<A>{};
                    x = (bits & bit) != 0 ? x : splat(-INF<A>);
                }
                store(s + i, x);
            }
            if (own < 0) continue;
            for (int a = 0; a < hs.count; a++)
                for (int i = 0; i < n; i++) {
                    A& x = s[a * hs.group + i];
                    if (i == own) x = c.self_loop ? x : -INF<A>;
                    else if (c.bias) x += bias[a * hs.group + i];
                }
        }
    }
    void biases(const Family& m, const Heads& hs, int i0, int n, A* bias) const {
        for (int a = 0; c.bias && a < hs.count; a++)
            for (int i = 0; i < n; i++) bias[a * hs.group + i] = q.bias(m, i0 + i, hs.first + a) * (A)LOG2E;
    }
    // A weight is told by the positions of its query and its key.
    void dropout(const Family& m, const Heads& hs, int i0, int n, const Tile& t, A* drop) const {
        for (int a = 0; a < hs.count; a++)
            for (int j = 0; j < t.n; j++)
                for (int i = 0; i < n; i++)
                    drop[j * hs.ld + a * hs.group + i] =
                        philox_keeps(c.seed, t.position[j], m.first + i0 + i, hs.first + a, c.dropout) ? q.kept : A(0);
    }

    // --- forward -----------------------------------------------------------------------------------

    // Shares of the parent's mass; a root that is a leaf is all there is, whatever its mass.
    const A* shares(const Family& m) const {
        static const A all = 1;
        return m.first < c.R ? &all : q.weight(m);
    }
    void finish_up(const Family& m, int h, A part) const {
        if (m.first < c.R) {
            *q.inner(q.f, m.p, h, 1) = part;
            ((A*)c.evidence)[q.walk.tree[m.p] * (int64_t)H + h] = part * (A)(1 / LOG2E);
        } else {
            q.finish_up(m, h, part);
        }
    }
    void sums(const Family& m, int h, const Scratch<A>& w) const {
        A* sum = q.mean(m.p, h);
        std::fill(sum, sum + D, A(0));
        for (int j = 0; j < m.size; j += TILE) q.rows(m, h, c.q, 0, D, j, std::min(m.size, j + TILE), w.q, EP, sum);
    }

    // A group meets its keys; `part` [heads] is its part of I of the family's parent.
    void meet(const Family& m, const Heads& hs, int group, const Scratch<A>& w, bool whole, A* part) const {
        const int L = LANES<A>, i0 = blocks.first[group], n = blocks.size[group], ld = hs.ld;
        A *top = w.lane, *total = top + TILE, *inside = total + TILE, *keep = inside + TILE, *fix = keep + TILE, *bias = fix + TILE;
        for (int a = 0, h = hs.first; a < hs.count; a++, h++) {
            A *sum = whole ? q.mean(m.p, h) : nullptr, *rows = w.q + a * hs.apart * EP;
            if (whole) std::fill(sum, sum + D, A(0));
            q.queries(m, h, i0, i0 + n, rows, sum);
            transpose(w.qt + a * hs.group, ld, rows, EP, n, E);
        }
        biases(m, hs, i0, n, bias);
        for (int i = 0; i < ld; i += L) store(top + i, splat(-INF<A>)), store(total + i, vec<A>{});
        bool more = false;
        for (Tile t = tile(group); next(t, hs.first, n, w, 0, false); more = true) {
            logits(m, hs, w, i0, n, t, bias);
            if (c.dropout > 0) dropout(m, hs, i0, n, t, w.drop);
            for (int i = 0; i < ld; i += L) {
                const vec<A> before = load(top + i);
                vec<A> high = before, sum{};
                for (int j = 0; j < t.n; j++) high = larger<A>(load(w.s + j * ld + i), high);
                const vec<A> by = high == -INF<A> ? vec<A>{} : high;
                for (int j = 0; j < t.n; j++) {
                    vec<A> x = exp2(load(w.s + j * ld + i) - by);
                    sum += x;
                    if (c.dropout > 0) x *= load(w.drop + j * ld + i);
                    store(w.s + j * ld + i, x);
                }
                const vec<A> shrink = exp2(before - by);
                store(fix + i, shrink);
                store(total + i, sum + load(total + i) * shrink);
                store(top + i, high);
            }
            for (int a = 0; a < hs.count; a++) {
                A* acc = w.acc + a * hs.apart * VP;
                for (int i = 0; more && i < n; i++)
                    for (int d = 0; d < VP; d += L) store(acc + i * VP + d, load(acc + i * VP + d) * fix[a * hs.group + i]);
                all_combine(Even<A>{acc, VP}, n, w.s + a * hs.group, 1, ld, t.n, Spread<A>{t.value, (int64_t)a * VP}, VP, more);
            }
        }
        // In each lane: S, I, g = sigmoid(I - S) and F = logaddexp(I, S).
        for (int a = 0, h = hs.first; a < hs.count; a++, h++)
            for (int i = 0; i < n; i++) {
                const int32_t s = m.source[i0 + i];
                inside[a * hs.group + i] = s < 0 ? *q.inner(q.f, -1 - s, h, 1) : -INF<A>;
            }
        A *outer = fix, *both = top;
        for (int i = 0; i < ld; i += L) {
            const vec<A> sum = load(total + i), in = load(inside + i), out = load(top + i) + log2<A>(sum);
            const vec<A> high = larger<A>(in, out), low = in > out ? out : in;
            const vec<A> x = exp2(low == -INF<A> ? splat(-INF<A>) : low - high);
            vec<A> g = (in > out ? splat(A(1)) : x) / (x + A(1));
            g = in == -INF<A> ? vec<A>{} : g;
            store(keep + i, out == -INF<A> ? splat(A(1)) : g);  // all of it where there is no block
            const vec<A> rest = (out == out ? splat(A(1)) - g : out) / sum;
            store(outer + i, sum == A(0) ? vec<A>{} : rest);
            store(both + i, high + log2<A>(x + A(1)));
            store(total + i, out);
        }
        const A* share = shares(m) + i0;
        for (int a = 0, h = hs.first; a < hs.count; a++, h++) {
            const int at = a * hs.group;
            if (c.save) {
                std::copy(total + at, total + at + n, q.S + q.index(m, H, h) + i0);
                std::copy(keep + at, keep + at + n, q.g + q.index(m, H, h) + i0);
            }
            part[a] = 0;
            for (int i = 0; i < n; i++) {
                if (share[i] != 0) part[a] += share[i] * both[at + i];
                const int32_t s = m.source[i0 + i];
                A* M = w.acc + (a * hs.apart + i) * VP;
                if (s < 0) {
                    q.weigh(q.inner(q.U, -1 - s, h, V), M, outer[at + i], M, A(0));
                    if (!c.save) *q.inner(q.g, -1 - s, h, 1) = keep[at + i];
                    continue;
                }
                const Rows& to = c.save ? c.U_leaf : c.out;
                A* direct = (A*)q.out_row(to, s, h, V);
                q.weigh(q.same(to.dtype) ? direct : M, M, outer[at + i], M, A(0));
                if (!q.same(to.dtype)) write(q.out_row(to, s, h, V), M, (int)to.dtype, V);
            }
        }
    }

    // W and Z of the top of a tree.
    void begin_down(const Family& m, int h) const {
        q.begin_down(m, h);
        if (q.walk.tree[m.p] >= 0) *q.inner(q.W, m.p, h, 1) = 1;
    }
    void begin_back(const Family& m, int h) const {
        q.begin_back(m, h);
        if (q.walk.tree[m.p] >= 0) *q.inner(q.W, m.p, h, 1) = 1;
    }

    void up(int p, int h0, int h1, const Scratch<A>& w) const {
        const Family m = q.family(p);
        const int g0 = blocks.group_ptr[p], g1 = blocks.group_ptr[p + 1];
        const bool whole = g1 - g0 == 1;
        for (int h = h0; h < h1; h++) {
            if (!whole) sums(m, h, w);
            *q.inner(q.f, p, h, 1) = 0;
        }
        for (int group = g0; group < g1; group++)
            for (int h = h0; h < h1;) {
                const Heads hs(h, h1, blocks.size[group]);
                A part[LANES<A>];
                meet(m, hs, group, w, whole, part);
                for (int a = 0; a < hs.count; a++) *q.inner(q.f, p, h++, 1) += part[a];
            }
        for (int h = h0; h < h1; h++) finish_up(m, h, *q.inner(q.f, p, h, 1));
    }

    // --- backward ----------------------------------------------------------------------------------

    // G of a family; per member mu = <G, U> and the gradient of its W; their part of the parent's.
    void up_back(int p, int h, const Scratch<A>& w) const {
        const Family m = q.family(p);
        A *sum = q.inner(q.G, p, h, V), total = 0, unused;
        std::fill(sum, sum + V, A(0));
        A *mu = q.mu + q.index(m, H, h), *dW = q.dW + q.index(m, H, h);
        const A* keep = q.g + q.index(m, H, h);
        for (int j = 0; j < m.size; j++) {
            const int32_t s = m.source[j];
            const A* G = s < 0 ? q.inner(q.G, -1 - s, h, V) : q.leaf(w.g, c.grad, s, h, V);
            const A* U = s < 0 ? q.inner(q.U, -1 - s, h, V) : q.leaf(w.acc, c.U_leaf, s, h, V);
            mu[j] = q.dot_and_add(G, U, U, sum, unused);
            dW[j] = s < 0 ? *q.inner(q.z_scalar(), -1 - s, h, 1) : A(0);
            total += mu[j] + keep[j] * dW[j];
        }
        *q.inner(q.z_scalar(), p, h, 1) = total;
    }

    // A group meets its keys again; their gradients are added to the rows of `part`, those of queries finished.
    void meet_back(const Family& m, const Heads& hs, int group, const Scratch<A>& w, int part) const {
        const int L = LANES<A>, i0 = blocks.first[group], n = blocks.size[group], ld = hs.ld;
        A *share = w.lane, *less = share + TILE, *S = less + TILE, *df = S + TILE, *dS = df + TILE, *bias = dS + TILE, *own = bias + TILE;
        const A* wt = shares(m);
        for (int i = 0; i < ld; i += L) {
            store(share + i, vec<A>{}), store(less + i, vec<A>{}), store(own + i, vec<A>{});
            store(S + i, splat(INF<A>));
        }
        biases(m, hs, i0, n, bias);
        for (int a = 0, h = hs.first; a < hs.count; a++, h++) {
            const bool lost = *q.inner(q.f, m.p, h, 1) == -INF<A>;
            const A by = *q.inner(q.W, m.p, h, 1), dF = lost ? A(0) : *q.inner(q.df, m.p, h, 1);
            const int64_t at = q.index(m, H, h) + i0;
            for (int i = 0, x = a * hs.group; i < n; i++, x++) {
                const A keep = q.g[at + i], mu = q.mu[at + i], out = q.S[at + i];
                const A gate = by * keep * ((1 - keep) * q.dW[at + i] - mu), dF_i = dF * wt[i0 + i];
                df[x] = gate + dF_i * keep;
                dS[x] = dF_i * (1 - keep) - gate;
                share[x] = by * (1 - keep);
                less[x] = dS[x] - by * mu;
                S[x] = out == -INF<A> ? INF<A> : out;
            }
            A *rows = w.q + a * hs.apart * EP, *G = w.g + a * hs.apart * VP;
            q.queries(m, h, i0, i0 + n, rows, nullptr);
            transpose(w.qt + a * hs.group, ld, rows, EP, n, E);
            for (int i = 0; i < n; i++) {
                const int32_t s = m.source[i0 + i];
                A* to = G + i * VP;
                const A* from = s < 0 ? q.inner(q.G, -1 - s, h, V) : q.leaf(to, c.grad, s, h, V);
                if (from != to) std::copy(from, from + V, to);
                std::fill(to + V, to + VP, A(0));
            }
            transpose(w.gt + a * hs.group, ld, G, VP, n, V);
            std::fill(w.dq + a * hs.apart * EP, w.dq + (a * hs.apart + n) * EP, A(0));
        }
        for (Tile t = tile(group); next(t, hs.first, n, w, part, true);) {
            for (int a = 0; a < hs.count; a++)
                head_dots(w.x + a * hs.group, w.gt + a * hs.group, Spread<A>{t.value, (int64_t)a * VP}, ld, hs.group, t.n, V);
            logits(m, hs, w, i0, n, t, bias);
            if (c.dropout > 0) dropout(m, hs, i0, n, t, w.drop);
            for (int i = 0; i < ld; i += L) {
                const vec<A> S_i = load(S + i), by_x = load(share + i), by_p = load(less + i);
                for (int j = 0; j < t.n; j++) {
                    const int64_t e = j * ld + i;
                    const vec<A> p = exp2(load(w.s + e) - S_i);
                    vec<A> some = by_x;
                    if (c.dropout > 0) some *= load(w.drop + e);
                    store(w.s + e, p * some);
                    store(w.x + e, p * (some * load(w.x + e) + by_p));
                }
            }
            for (int j = 0; c.d_bias && j < t.n; j++) {
                const int i = self(m, i0, n, t.position[j]);
                for (int a = 0; i >= 0 && a < hs.count; a++) own[a * hs.group + i] = w.x[j * ld + a * hs.group + i];
            }
            for (int a = 0; a < hs.count; a++) {
                const int at = a * hs.group;
                const Even<A> rows{w.q + a * hs.apart * EP, EP}, G{w.g + a * hs.apart * VP, VP}, dq{w.dq + a * hs.apart * EP, EP};
                all_combine(Spread<A>{t.d_value, (int64_t)a * VP}, t.n, w.s + at, ld, 1, n, G, VP, true);
                all_combine(Spread<A>{t.d_key, (int64_t)a * EP}, t.n, w.x + at, ld, 1, n, rows, EP, true);
                all_combine(dq, n, w.x + at, 1, ld, t.n, Spread<A>{t.key, (int64_t)a * EP}, EP, true);
            }
        }
        for (int a = 0, h = hs.first; a < hs.count; a++, h++) {
            const A *z = q.inner(q.z, m.p, h, D), *keep = q.g + q.index(m, H, h) + i0, by = *q.inner(q.W, m.p, h, 1);
            for (int i = 0, x = a * hs.group; i < n; i++, x++) {
                const int j = i0 + i;
                const int32_t s = m.source[j];
                A* d = w.dq + (a * hs.apart + i) * EP;
                const A temperature = q.temperature(m, j, h);
                if (c.d_temperature) ((A*)c.d_temperature)[q.id(m, j) * H + h] = q.raw_dot(m, j, h, d, w);
                if (c.d_bias) ((A*)c.d_bias)[q.id(m, j) * H + h] = S[x] == INF<A> ? A(0) : dS[x] - own[x];
                for (int e = 0; e < P; e++) ((A*)c.d_pos_q)[(q.id(m, j) * H + h) * P + e] = temperature * d[D + e];
                q.give(m, j, h, s, c.dq, 0, d, temperature * (A)c.scale, z, wt[j], D);
                if (s < 0) {
                    *q.inner(q.W, -1 - s, h, 1) = by * keep[i];
                    *q.inner(q.df, -1 - s, h, 1) = df[x];
                }
            }
        }
    }
    void down_back(int p, int h0, int h1, const Scratch<A>& w, int part) const {
        const Family m = q.family(p);
        for (int h = h0; h < h1; h++) begin_back(m, h);
        for (int group = blocks.group_ptr[p]; group < blocks.group_ptr[p + 1]; group++)
            for (int h = h0; h < h1;) {
                const Heads hs(h, h1, blocks.size[group]);
                meet_back(m, hs, group, w, part);
                h += hs.count;
            }
    }

    // --- both ways through the trees ---------------------------------------------------------------

    void pack_all(Team& team, int member) const {
        auto climb = [&](int p, int h0, int h1) {
            for (int h = h0; h < h1; h++) pack(p, h);
        };
        k.below(team, true, climb);
        team.wait();
        k.above(team, member, true, climb, [&](int p) {
            for (int h = member; h < H; h += team.size) pack(p, h);
        });
        team.wait();
    }

    void forward(Team& team, int member) const {
        pack_all(team, member);
        const Scratch<A> w(TILE, EP, VP);
        auto climb = [&](int p, int h0, int h1) { up(p, h0, h1, w); };
        auto descend = [&](int p, int h0, int h1) {
            for (int h = h0; h < h1; h++) begin_down(q.family(p), h);
            q.down(p, h0, h1, 0, q.walk.size[p]);
        };
        q.below(team, true, climb);
        team.wait();
        q.above(team, member, true, climb, [&](int p) {
            const Family m = q.family(p);
            const int g0 = blocks.group_ptr[p], groups = blocks.group_ptr[p + 1] - g0;
            for (int h = member; h < H; h += team.size) sums(m, h, w);
            team.wait();
            for (int64_t n = member; n < (int64_t)H * groups; n += team.size) {
                const int group = g0 + (int)(n / H), h = (int)(n % H);
                meet(m, Heads(h, h + 1, blocks.size[group]), group, w, false, (A*)c.parts + n);
            }
            team.wait();
            for (int h = member; h < H; h += team.size) {
                A sum = 0;
                for (int64_t i = 0; i < groups; i++) sum += ((A*)c.parts)[i * H + h];
                finish_up(m, h, sum);
            }
        });
        team.wait();
        q.above(team, member, false, descend, [&](int p) {
            for (int h = member; h < H; h += team.size) begin_down(q.family(p), h);
            team.wait();
            const int64_t size = q.walk.size[p];
            const int j0 = (int)(size * member / team.size), j1 = (int)(size * (member + 1) / team.size);
            q.down(p, 0, H, j0, j1);
        });
        team.wait();
        q.below(team, false, descend);
    }

    void backward(Team& team, int member) const {
        pack_all(team, member);
        const Scratch<A> w(TILE, EP, VP);
        auto climb = [&](int p, int h0, int h1) {
            for (int h = h0; h < h1; h++) up_back(p, h, w);
        };
        q.below(team, true, climb);
        team.wait();
        q.above(team, member, true, climb, [&](int p) {
            for (int h = member; h < H; h += team.size) up_back(p, h, w);
        });
        // Heads h0 ... h1 are this member's, and those of the others that have other rows for what keys get.
        const int shares = std::min(H, team.size), parts = std::min((int)l.parts, team.size / shares);
        const int part = member / shares, h0 = H * (member % shares) / shares, h1 = H * (member % shares + 1) / shares;
        for (int each = part; part < parts && h0 < h1 && each < l.parts; each += parts)
            for (int64_t i = 0; i < l.key.T; i++) {
                std::memset(d_key(each, i, h0), 0, (h1 - h0) * EP * sizeof(A));
                std::memset(d_value(each, i, h0), 0, (h1 - h0) * VP * sizeof(A));
            }
        team.wait();
        const int32_t* top = q.walk.tasks + 2 * c.tasks;
        for (int64_t i = c.tops; i-- > 0;) {
            const Family m = q.family(top[i]);
            if (part == 0 && !q.many(m.p)) down_back(m.p, h0, h1, w, 0);
            if (!q.many(m.p)) continue;
            team.wait();
            for (int h = h0; part == 0 && h < h1; h++) begin_back(m, h);
            team.wait();
            for (int group = blocks.group_ptr[m.p] + part; part < parts && group < blocks.group_ptr[m.p + 1]; group += parts)
                for (int h = h0; h < h1;) {
                    const Heads hs(h, h1, blocks.size[group]);
                    meet_back(m, hs, group, w, part);
                    h += hs.count;
                }
            team.wait();
        }
        team.wait();
        for (int64_t n = c.tasks * part / parts; part < parts && n < c.tasks * (part + 1) / parts; n++)
            for (int p = q.walk.tasks[2 * n + 1]; p-- > q.walk.tasks[2 * n];) down_back(p, h0, h1, w, part);
        team.wait();
        auto descend = [&](int p, int h0, int h1) {
            for (int h = h0; h < h1; h++) unpack(p, h, 0, k.walk.size[p]);
        };
        k.above(team, member, false, descend, [&](int p) {
            const int64_t size = k.walk.size[p];
            const int j0 = (int)(size * member / team.size), j1 = (int)(size * (member + 1) / team.size);
            for (int h = 0; h < H; h++) unpack(p, h, j0, j1);
        });
        team.wait();
        k.below(team, false, descend);
    }
};

}  // namespace SIMD
