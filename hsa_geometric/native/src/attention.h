// Hierarchical self-attention, forward and backward, fused: one walk up the tree and one down.
//
//     up      families in post-order: means of q, k, v; logits between the members; S, f and
//             U = (1 - g) M + g v (without v at inner nodes), where g = sigmoid(f - S)
//     down    the same families backwards: out = Z + W U, where Z is that of the parent, W -> W g
//
// Backward walks up with the gradient's sums G and what depends on <G, U>, then down with the
// gradients of W, f and of the means. Logits are in base 2. In a tile the lanes are queries, so sums
// over keys need no lanes to meet: s[j][i] = sum_d q[d][i] k[j][d].
#pragma once
#include "call.h"
#include "philox.h"
#include "team.h"
#include "tiles.h"
#include "tree.h"

namespace SIMD {

constexpr int MANY = 512;  // a family above the tasks with so many members is cut for the threads
constexpr double LOG2E = 1.4426950408889634074;

template <class A> struct Attention {
    const Call& c;
    Walk walk;
    const int H, D, V, P, E, EP, VP;  // heads; channels of q, v, positions; D + P; rows padded to whole vectors
    const int width;                  // of means, and of gradients that go down
    const A scale, kept;              // of products, in base 2; of weights that dropout kept
    A *means, *U, *Z, *f, *g, *W, *S, *G, *dW, *df, *z, *mu;

    explicit Attention(const Call& c) : Attention(c, 2 * c.D + c.V) {}
    Attention(const Call& c, int width)
        : c(c), walk(c.walk, c.T, c.F, c.R), H(c.H), D(c.D), V(c.V), P(c.P), E(c.D + c.P), EP(padded<A>(c.D + c.P)),
          VP(padded<A>(c.V)), width(width), scale((A)(c.scale * LOG2E)), kept(c.dropout < 1 ? (A)(1 / (1 - c.dropout)) : A(0)) {
        means = (A*)c.means, U = (A*)c.U, Z = (A*)c.Z, f = (A*)c.f, g = (A*)c.g, W = (A*)c.W, S = (A*)c.S;
        G = (A*)c.G, dW = (A*)c.dW, df = (A*)c.df, z = (A*)c.z, mu = (A*)c.mu;
    }

    // --- where things are --------------------------------------------------------------------------

    struct Family {
        int p, first, size;
        const int32_t* source;
    };
    Family family(int p) const { return {p, walk.first[p], walk.size[p], walk.source + walk.first[p]}; }
    A* mean(int p, int h) const { return means + (p * (int64_t)H + h) * width; }
    template <class X> X* inner(X* x, int p, int h, int n) const { return x + (p * (int64_t)H + h) * n; }
    static int64_t index(const Family& m, int H, int h) { return m.first * (int64_t)H + h * (int64_t)m.size; }
    const A* weight(const Family& m) const { return (const A*)c.weight + m.first; }
    const A* log_mass(const Family& m) const { return (const A*)c.log_mass + m.first; }
    const char* row(const Rows& x, int64_t leaf, int h, int n) const {
        return x.data + leaf * x.stride + (int64_t)h * n * size_of(x.dtype);
    }
    char* out_row(const Rows& x, int64_t leaf, int h, int n) const { return const_cast<char*>(row(x, leaf, h, n)); }
    int64_t id(const Family& m, int j) const { return c.order[m.first + j]; }
    A temperature(const Family& m, int j, int h) const {
        return c.temperature ? ((const A*)c.temperature)[id(m, j) * H + h] : A(1);
    }
    A bias(const Family& m, int j, int h) const { return c.bias ? ((const A*)c.bias)[id(m, j) * H + h] : A(0); }
    bool seen(const Family& m, int j) const { return !c.masses || log_mass(m)[j] != -INF<A>; }

    // Rows j0 ... j1 of what `x` holds at leaves and means at inner members, `n` channels at `at` of a mean, padded
    // with zeros to `wide`; adds them up to the family's mean where there is one. Padding may hold anything: it reads
    // as 0.
    void rows(const Family& m, int h, const Rows& x, int at, int n, int j0, int j1, A* y, int wide, A* sum) const {
        const A *w = weight(m) + j0, *from[TILE];
        const int count = j1 - j0;
        for (int j = 0; j < count; j++) {
            const int32_t s = m.source[j0 + j];
            if (s < 0) {
                from[j] = mean(-1 - s, h) + at;
            } else if (!seen(m, j0 + j)) {
                from[j] = y + j * wide;
                std::fill(y + j * wide, y + j * wide + n, A(0));
            } else {
                from[j] = leaf(y + j * wide, x, s, h, n);
            }
        }
        int d = 0;
        for (; d + LANES<A> <= n; d += LANES<A>) {
            vec<A> total = sum ? load(sum + d) : vec<A>{};
            for (int j = 0; j < count; j++) {
                const vec<A> z_ = load(from[j] + d);
                store(y + j * wide + d, z_);
                total += z_ * w[j];
            }
            if (sum) store(sum + d, total);
        }
        for (; d < n; d++)
            for (int j = 0; j < count; j++) {
                const A z_ = y[j * wide + d] = from[j][d];
                if (sum) sum[d] += z_ * w[j];
            }
        for (; d < wide; d++)
            for (int j = 0; j < count; j++) y[j * wide + d] = 0;
    }
    bool same(int64_t dtype) const { return dtype == (sizeof(A) == 8 ? DOUBLE : FLOAT); }
    // A leaf's numbers: where they are, or in `room` where they must be converted.
    const A* leaf(A* room, const Rows& x, int64_t leaf_, int h, int n) const {
        const char* from = row(x, leaf_, h, n);
        if (same(x.dtype)) return (const A*)from;
        read(room, from, (int)x.dtype, n);
        return room;
    }

    // Rows of queries have temperature and scale in them where there are temperatures or positions, which stand
    // behind the channels; elsewhere the logits are scaled.
    bool scaled() const { return P || c.temperature; }
    void queries(const Family& m, int h, int j0, int j1, A* y, A* sum) const {
        rows(m, h, c.q, 0, D, j0, j1, y, EP, sum);
        if (!scaled()) return;
        for (int j = j0; j < j1; j++, y += EP) {
            const A t = temperature(m, j, h), by = t * scale;
            for (int d = 0; d < D; d++) y[d] *= by;
            for (int e = 0; e < P; e++) y[D + e] = t * (A)LOG2E * ((const A*)c.pos_q)[(id(m, j) * H + h) * P + e];
        }
    }
    void keys(const Family& m, int h, int j0, int j1, A* y, A* sum) const {
        rows(m, h, c.k, D, D, j0, j1, y, EP, sum);
        for (int j = j0; P && j < j1; j++, y += EP)
            for (int e = 0; e < P; e++) y[D + e] = ((const A*)c.pos_k)[(id(m, j) * H + h) * P + e];
    }
    void values(const Family& m, int h, int j0, int j1, A* y, A* sum) const {
        rows(m, h, c.v, 2 * D, V, j0, j1, y, VP, sum);
    }

    A own_mask(const Family& m, int j, int h) const {
        return c.dropout > 0 && !philox_keeps(c.seed, -1, m.first + j, h, c.dropout) ? A(0) : c.dropout > 0 ? kept : A(1);
    }

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

    // Logits of a tile; those of members with themselves become `own` and -inf.
    void logits(const Family& m, const Heads& hs, const Scratch<A>& w, int i0, int i1, int j0, int j1, A* own) const {
        const A* lm = log_mass(m);
        for (int n = 0; n < hs.count; n++)
            head_dots(w.s + n * hs.group, w.qt + n * hs.group, Even<A>{w.k + n * hs.apart * EP, EP}, hs.ld, hs.group, j1 - j0, E);
        const A by = scaled() ? A(1) : scale;
        for (int j = j0; j < j1; j++) {
            A* s = w.s + (j - j0) * hs.ld;
            for (int i = 0; i < hs.ld; i += LANES<A>) store(s + i, load(s + i) * by + lm[j]);
            if (j >= i0 && j < i1)
                for (int n = 0; n < hs.count; n++) {
                    A& self = s[n * hs.group + j - i0];
                    if (own) own[n * hs.group + j - i0] = self;
                    self = -INF<A>;
                }
        }
    }
    void masks(const Family& m, const Heads& hs, int i0, int i1, int j0, int j1, A* drop) const {
        for (int n = 0; n < hs.count; n++)
            for (int j = j0; j < j1; j++)
                for (int i = i0; i < i1; i++)
                    drop[(j - j0) * hs.ld + n * hs.group + i - i0] =
                        philox_keeps(c.seed, j, m.first + i, hs.first + n, c.dropout) ? kept : A(0);
    }

    // --- forward -----------------------------------------------------------------------------------

    // Means of a family that is too wide for one tile, or of none of whose logits anybody asks.
    void sums(const Family& m, int h, const Scratch<A>& w) const {
        A* sum = mean(m.p, h);
        std::fill(sum, sum + width, A(0));
        for (int j = 0; j < m.size; j += TILE) {
            const int end = std::min(m.size, j + TILE);
            rows(m, h, c.q, 0, D, j, end, w.q, EP, sum);
            rows(m, h, c.k, D, D, j, end, w.k, EP, sum + D);
            rows(m, h, c.v, 2 * D, V, j, end, w.v, VP, sum + 2 * D);
        }
    }

    // Queries i0 ... i1 of a family meet all keys; `part` [heads] is their part of the family's f. With `whole` these
    // are all members, and their means are taken on the way.
    void meet(const Family& m, const Heads& hs, int i0, int i1, const Scratch<A>& w, bool whole, A* part) const {
        const int L = LANES<A>, n = i1 - i0, ld = hs.ld, b = m.size;
        A *own = w.lane, *top = own + TILE, *total = top + TILE, *inside = total + TILE, *keep = inside + TILE, *fix = keep + TILE;
        auto fetch = [&](int j0, int j1) {
            for (int a = 0, h = hs.first; a < hs.count; a++, h++) {
                A* sum = whole ? mean(m.p, h) : nullptr;
                keys(m, h, j0, j1, w.k + a * hs.apart * EP, whole ? sum + D : nullptr);
                values(m, h, j0, j1, w.v + a * hs.apart * VP, whole ? sum + 2 * D : nullptr);
            }
        };
        for (int a = 0, h = hs.first; a < hs.count; a++, h++) {
            A *sum = whole ? mean(m.p, h) : nullptr, *q = w.q + a * hs.apart * EP;
            if (whole) std::fill(sum, sum + width, A(0));
            queries(m, h, i0, i1, q, sum);
            transpose(w.qt + a * hs.group, ld, q, EP, n, E);
        }
        for (int i = 0; i < ld; i += L) store(top + i, splat(-INF<A>)), store(total + i, vec<A>{});
        for (int j0 = 0; j0 < b; j0 += TILE) {
            const int j1 = std::min(b, j0 + TILE);
            fetch(j0, j1);
            logits(m, hs, w, i0, i1, j0, j1, own);
            if (b == 1) break;
            if (c.dropout > 0) masks(m, hs, i0, i1, j0, j1, w.drop);
            for (int i = 0; i < ld; i += L) {
                const vec<A> before = load(top + i);
                vec<A> high = before, l{};
                for (int j = 0; j < j1 - j0; j++) high = larger<A>(load(w.s + j * ld + i), high);
                const vec<A> by = high == -INF<A> ? vec<A>{} : high;
                for (int j = 0; j < j1 - j0; j++) {
                    vec<A> p = exp2(load(w.s + j * ld + i) - by);
                    l += p;
                    if (c.dropout > 0) p *= load(w.drop + j * ld + i);
                    store(w.s + j * ld + i, p);
                }
                if (j0) {
                    const vec<A> shrink = exp2(before - by);
                    store(fix + i, shrink);
                    l += load(total + i) * shrink;
                }
                store(top + i, high);
                store(total + i, l);
            }
            if (j0)
                for (int i = 0; i < n; i++)
                    for (int d = 0; d < VP; d += L) store(w.acc + i * VP + d, load(w.acc + i * VP + d) * fix[i]);
            for (int a = 0; a < hs.count; a++)
                all_combine(Even<A>{w.acc + a * hs.apart * VP, VP}, n, w.s + a * hs.group, 1, ld, j1 - j0, Even<A>{w.v + a * hs.apart * VP, VP}, VP, j0 > 0);
        }
        // In each lane: S, f, g = sigmoid(f - S) and Z = logaddexp(f, S).
        for (int a = 0, h = hs.first; a < hs.count; a++, h++)
            for (int i = 0; i < n; i++) {
                const int32_t s = m.source[i0 + i];
                const int at = a * hs.group + i;
                inside[at] = s < 0 ? *inner(f, -1 - s, h, 1) : c.self_loop && seen(m, i0 + i) ? own[at] : -INF<A>;
                if (c.bias) keep[at] = bias(m, i0 + i, h) * (A)LOG2E;
            }
        A *outer = fix, *both = own;
        for (int i = 0; i < ld; i += L) {
            const vec<A> l = load(total + i), in = load(inside + i);
            vec<A> sib = load(top + i) + log2<A>(l);  // -inf where l is 0
            if (c.bias) sib += load(keep + i);
            const vec<A> high = larger<A>(in, sib), low = in > sib ? sib : in;
            const vec<A> t = exp2(low == -INF<A> ? splat(-INF<A>) : low - high);
            vec<A> g_ = (in > sib ? splat(A(1)) : t) / (t + A(1));
            g_ = in == -INF<A> ? vec<A>{} : g_;
            store(keep + i, g_);
            const vec<A> out_ = (sib == sib ? splat(A(1)) - g_ : sib) / l;
            store(outer + i, l == A(0) ? vec<A>{} : out_);
            store(both + i, high + log2<A>(t + A(1)));
            store(total + i, sib);
        }
        const A* share = weight(m) + i0;
        for (int a = 0, h = hs.first; a < hs.count; a++, h++) {
            const int at = a * hs.group;
            if (c.save) {
                std::copy(total + at, total + at + n, S + index(m, H, h) + i0);
                std::copy(keep + at, keep + at + n, g + index(m, H, h) + i0);
            }
            part[a] = 0;
            for (int i = 0; i < n; i++) {
                if (share[i] != 0) part[a] += share[i] * both[at + i];
                // U = (1 - g) M, and g v at a leaf
                const int32_t s = m.source[i0 + i];
                const A by = outer[at + i];
                A* M = w.acc + (a * hs.apart + i) * VP;
                if (s < 0) {
                    A* to = inner(U, -1 - s, h, V);
                    weigh(to, M, by, M, A(0));
                    if (!c.save) *inner(g, -1 - s, h, 1) = keep[at + i];
                    continue;
                }
                const A own_part = keep[at + i] * own_mask(m, i0 + i, h);
                const A* v = w.v + (a * hs.apart + i0 + i) * VP;  // there, where all keys are one tile
                if (b > TILE && own_part != 0) v = leaf(w.dq, c.v, s, h, V);
                const Rows& to = c.save ? c.U_leaf : c.out;
                A* direct = (A*)out_row(to, s, h, V);
                weigh(same(to.dtype) ? direct : M, M, by, v, own_part);
                if (!same(to.dtype)) write(out_row(to, s, h, V), M, to.dtype, V);
            }
        }
    }
    // y = a x + b z, where a factor of 0 hides what may not be there.
    void weigh(A* y, const A* x, A a, const A* z_, A b) const {
        if (a == 0) x = z_, a = b, b = 0;
        if (a == 0) return std::fill(y, y + V, A(0)), void();
        if (b == 0) z_ = x;
        int d = 0;
        for (; d + LANES<A> <= V; d += LANES<A>) store(y + d, load(x + d) * a + load(z_ + d) * b);
        for (; d < V; d++) y[d] = a * x[d] + b * z_[d];
    }

    void finish_up(const Family& m, int h, A part) const {
        const A* w = weight(m);
        bool empty = true;
        for (int j = 0; empty && j < m.size; j++) empty = w[j] == 0;
        if (empty) part = -INF<A>;
        *inner(f, m.p, h, 1) = part;
        const int32_t tree = walk.tree[m.p];
        if (tree >= 0) ((A*)c.evidence)[tree * (int64_t)H + h] = part * (A)(1 / LOG2E);
    }

    void up(int p, int h0, int h1, const Scratch<A>& w) const {
        const Family m = family(p);
        const bool whole = m.size <= TILE;
        for (int h = h0; h < h1;) {
            const Heads hs(h, h1, m.size);
            A part[LANES<A>], sum[LANES<A>] = {};
            if (!whole) sums(m, h, w);
            for (int i = 0; i < m.size; i += TILE) {
                meet(m, hs, i, std::min(m.size, i + TILE), w, whole, part);
                for (int a = 0; a < hs.count; a++) sum[a] += part[a];
            }
            for (int a = 0; a < hs.count; a++) finish_up(m, h++, sum[a]);
        }
    }

    // W and Z of the top of a tree.
    void begin_down(const Family& m, int h) const {
        if (walk.tree[m.p] < 0) return;
        begin_weight(m, h);
        given(inner(Z, m.p, h, V), c.root_Z, m, h, V);
    }
    void begin_weight(const Family& m, int h) const {
        if (c.root_W) given(inner(W, m.p, h, 1), c.root_W, m, h, 1);
        else *inner(W, m.p, h, 1) = *inner(f, m.p, h, 1) == -INF<A> ? A(0) : A(1);
    }
    // What the top of a tree has from outside, or zeros.
    void given(A* to, const void* from, const Family& m, int h, int n) const {
        const A* x = (const A*)from + (walk.tree[m.p] * (int64_t)H + h) * n;
        if (from) std::copy(x, x + n, to);
        else std::fill(to, to + n, A(0));
    }

    void down(int p, int h, int j0, int j1) const {
        const Family m = family(p);
        const A *z_ = inner(Z, p, h, V), by = *inner(W, p, h, 1), *keep = g + index(m, H, h);
        const int whole = V / LANES<A> * LANES<A>;
        const bool plain = same(c.out.dtype);
        A line[256];
        for (int j = j0; j < j1; j++) {
            const int32_t s = m.source[j];
            if (s >= 0 && !plain) {
                const Rows& u = c.save ? c.U_leaf : c.out;
                for (int d = 0; d < V; d += 256) {
                    const int n = std::min(256, V - d), size = size_of(u.dtype);
                    read(line, row(u, s, h, V) + d * size, u.dtype, n);
                    for (int e = 0; e < n; e++) line[e] = z_[d + e] + by * line[e];
                    write(out_row(c.out, s, h, V) + d * size, line, u.dtype, n);
                }
                continue;
            }
            const A* u = s < 0 ? inner(U, -1 - s, h, V) : (const A*)row(c.save ? c.U_leaf : c.out, s, h, V);
            A* to = s < 0 ? inner(Z, -1 - s, h, V) : (A*)out_row(c.out, s, h, V);
            int d = 0;
            for (; d < whole; d += LANES<A>) store(to + d, load(z_ + d) + load(u + d) * by);
            for (; d < V; d++) to[d] = z_[d] + by * u[d];
            if (s < 0) *inner(W, -1 - s, h, 1) = by * (c.save ? keep[j] : *inner(g, -1 - s, h, 1));
        }
    }

    // --- backward ----------------------------------------------------------------------------------

    // G of a family; per member mu = (1 - g) <G, M> and E, the gradient of its W; their part of the parent's.
    void up_back(int p, int h, const Scratch<A>& w) const {
        const Family m = family(p);
        A *sum = inner(G, p, h, V), total = 0;
        std::fill(sum, sum + V, A(0));
        A *mu_ = mu + index(m, H, h), *E_ = dW + index(m, H, h);
        const A* keep = g + index(m, H, h);
        for (int j = 0; j < m.size; j++) {
            const int32_t s = m.source[j];
            A by_u = 0, by_v = 0;
            if (s < 0) {
                const A *Gc = inner(G, -1 - s, h, V), *uc = inner(U, -1 - s, h, V);
                by_u = dot_and_add(Gc, uc, uc, sum, by_v);
                mu_[j] = by_u;
                E_[j] = *inner(z_scalar(), -1 - s, h, 1);
            } else {
                const A *grad = leaf(w.g, c.grad, s, h, V), *u = leaf(w.acc, c.U_leaf, s, h, V), *v = w.v;
                if (seen(m, j)) v = leaf(w.v, c.v, s, h, V);
                else std::fill(w.v, w.v + V, A(0));
                by_u = dot_and_add(grad, u, v, sum, by_v);
                E_[j] = by_v * own_mask(m, j, h);
                mu_[j] = by_u - keep[j] * E_[j];
            }
            total += mu_[j] + keep[j] * E_[j];
        }
        *inner(z_scalar(), p, h, 1) = total;
    }
    // The gradient of W of families, where df stands later.
    A* z_scalar() const { return df; }
    A dot_and_add(const A* G_, const A* u, const A* v, A* sum, A& by_v) const {
        vec<A> a{}, b{};
        int d = 0;
        for (; d + LANES<A> <= V; d += LANES<A>) {
            const vec<A> x = load(G_ + d);
            a += x * load(u + d), b += x * load(v + d);
            store(sum + d, load(sum + d) + x);
        }
        A y = SIMD::sum<A>(a), t = SIMD::sum<A>(b);
        for (; d < V; d++) y += G_[d] * u[d], t += G_[d] * v[d], sum[d] += G_[d];
        by_v = t;
        return y;
    }

    void begin_back(const Family& m, int h) const {
        if (walk.tree[m.p] < 0) return;
        begin_weight(m, h);
        given(inner(df, m.p, h, 1), c.grad_evidence, m, h, 1);
        given(inner(z, m.p, h, width), c.root_z, m, h, width);
    }

    // Queries i0 ... i1 of a family meet all keys again. The gradients of keys and values go to dk and dv of all
    // members (`dk`, `dv` of a head `next` numbers behind those of the one before), which they share with other
    // queries; those of queries are finished here.
    void meet_back(const Family& m, const Heads& hs, int i0, int i1, const Scratch<A>& w, A* dk, A* dv, int64_t next, bool first) const {
        const int L = LANES<A>, n = i1 - i0, ld = hs.ld, b = m.size;
        A *share = w.lane, *less = share + TILE, *S_ = less + TILE, *dfs = S_ + TILE, *dS = dfs + TILE;
        const A* wt = weight(m);
        for (int i = 0; i < ld; i += L) store(share + i, vec<A>{}), store(less + i, vec<A>{}), store(S_ + i, splat(INF<A>));
        for (int a = 0, h = hs.first; a < hs.count; a++, h++) {
            const A by = *inner(W, m.p, h, 1), dF = *inner(df, m.p, h, 1);
            const int64_t at = index(m, H, h) + i0;
            for (int i = 0, l = a * hs.group; i < n; i++, l++) {
                const A keep = g[at + i], mu_ = mu[at + i], sib = S[at + i];
                const A gate = by * keep * ((1 - keep) * dW[at + i] - mu_), f_i = dF * wt[i0 + i];
                dfs[l] = gate + f_i * keep;
                dS[l] = f_i * (1 - keep) - gate;
                share[l] = by * (1 - keep);
                less[l] = dS[l] - by * mu_;
                S_[l] = sib == -INF<A> ? INF<A> : sib - bias(m, i0 + i, h) * (A)LOG2E;
            }
            A *q = w.q + a * hs.apart * EP, *G_ = w.g + a * hs.apart * VP;
            queries(m, h, i0, i1, q, nullptr);
            transpose(w.qt + a * hs.group, ld, q, EP, n, E);
            for (int i = 0; i < n; i++) {
                const int32_t s = m.source[i0 + i];
                A* to = G_ + i * VP;
                const A* from = s < 0 ? inner(G, -1 - s, h, V) : leaf(to, c.grad, s, h, V);
                int d = 0;
                for (; d + L <= V; d += L) store(to + d, load(from + d));
                for (; d < V; d++) to[d] = from[d];
                for (; d < VP; d++) to[d] = 0;
            }
            transpose(w.gt + a * hs.group, ld, G_, VP, n, V);
        }
        for (int j0 = 0; j0 < b; j0 += TILE) {
            const int j1 = std::min(b, j0 + TILE), nk = j1 - j0;
            for (int a = 0, h = hs.first; a < hs.count; a++, h++) {
                keys(m, h, j0, j1, w.k + a * hs.apart * EP, nullptr);
                A* v = w.v + a * hs.apart * VP;
                values(m, h, j0, j1, v, nullptr);
                head_dots(w.x + a * hs.group, w.gt + a * hs.group, Even<A>{v, VP}, ld, hs.group, nk, V);
            }
            logits(m, hs, w, i0, i1, j0, j1, nullptr);
            if (c.dropout > 0) masks(m, hs, i0, i1, j0, j1, w.drop);
            for (int i = 0; i < ld; i += L) {
                const vec<A> S_i = load(S_ + i), by_x = load(share + i), by_p = load(less + i);
                for (int j = 0; j < nk; j++) {
                    const int64_t e = j * ld + i;
                    const vec<A> p = exp2(load(w.s + e) - S_i);
                    vec<A> part = by_x;
                    if (c.dropout > 0) part *= load(w.drop + e);
                    const vec<A> ds = p * (part * load(w.x + e) + by_p);
                    store(w.s + e, p * part);
                    store(w.x + e, ds);
                }
            }
            for (int a = 0; a < hs.count; a++) {
                const int at = a * hs.group;
                // A leaf's own logit; its own value comes at the end.
                for (int j = std::max(i0, j0); j < std::min(i1, j1); j++)
                    w.x[(j - j0) * ld + at + j - i0] = m.source[j] >= 0 && c.self_loop && seen(m, j) ? dfs[at + j - i0] : A(0);
                const Even<A> q{w.q + a * hs.apart * EP, EP}, k{w.k + a * hs.apart * EP, EP}, G_{w.g + a * hs.apart * VP, VP};
                all_combine(Even<A>{dv + a * next + (int64_t)j0 * VP, VP}, nk, w.s + at, ld, 1, n, G_, VP, !first);
                all_combine(Even<A>{dk + a * next + (int64_t)j0 * EP, EP}, nk, w.x + at, ld, 1, n, q, EP, !first);
                all_combine(Even<A>{w.dq + a * hs.apart * EP, EP}, n, w.x + at, 1, ld, nk, k, EP, j0 > 0);
            }
        }
        for (int a = 0, h = hs.first; a < hs.count; a++, h++) {
            const A *z_ = inner(z, m.p, h, width), *keep = g + index(m, H, h) + i0, by = *inner(W, m.p, h, 1);
            for (int i = 0, l = a * hs.group; i < n; i++, l++) {
                const int j = i0 + i;
                const int32_t s = m.source[j];
                A* d = w.dq + (a * hs.apart + i) * EP;
                const A t = temperature(m, j, h), by_q = t * (A)c.scale;
                if (c.d_temperature) ((A*)c.d_temperature)[id(m, j) * H + h] = raw_dot(m, j, h, d, w);
                if (c.d_bias) ((A*)c.d_bias)[id(m, j) * H + h] = S_[l] == INF<A> ? A(0) : dS[l];
                for (int e = 0; e < P; e++) ((A*)c.d_pos_q)[(id(m, j) * H + h) * P + e] = t * d[D + e];
                give(m, j, h, s, c.dq, 0, d, by_q, z_, wt[j], D);
                if (s < 0) {
                    *inner(W, -1 - s, h, 1) = by * keep[i];
                    *inner(df, -1 - s, h, 1) = dfs[l];
                }
            }
        }
    }
    A raw_dot(const Family& m, int j, int h, const A* d, const Scratch<A>& w) const {
        A* y = w.acc;  // free meanwhile
        rows(m, h, c.q, 0, D, j, j + 1, y, std::max(D, 1), nullptr);
        A sum = 0;
        for (int e = 0; e < D; e++) sum += d[e] * y[e];
        sum *= (A)c.scale;
        for (int e = 0; e < P; e++) sum += d[D + e] * ((const A*)c.pos_q)[(id(m, j) * H + h) * P + e];
        return sum;
    }
    // A finished gradient of a member, a x + b z, to the leaf's row or to z of the family below. Padding gets none.
    void give(const Family& m, int j, int h, int32_t s, const Rows& to, int at, A* x, A a, const A* z_, A b, int n) const {
        const bool direct = s < 0 || same(to.dtype);
        if (s >= 0 && !seen(m, j)) a = b = 0, std::fill(x, x + n, A(0));
        A* y = s < 0 ? inner(z, -1 - s, h, width) + at : direct ? (A*)out_row(to, s, h, n) : x;
        int d = 0;
        for (; d + LANES<A> <= n; d += LANES<A>) store(y + d, load(x + d) * a + load(z_ + d) * b);
        for (; d < n; d++) y[d] = x[d] * a + z_[d] * b;
        if (!direct) write(out_row(to, s, h, n), x, to.dtype, n);
    }
    // Gradients of keys and values of members j0 ... j1, of which `parts` sums stand `apart` numbers from each other.
    void finish_back(const Family& m, int h, int j0, int j1, const Scratch<A>& w, A* dk, A* dv, int parts, int64_t apart) const {
        const A *z_ = inner(z, m.p, h, width), by = *inner(W, m.p, h, 1), *wt = weight(m);
        const A* keep = g + index(m, H, h);
        for (int j = j0; j < j1; j++) {
            const int32_t s = m.source[j];
            A *k = dk + (int64_t)j * EP, *v = dv + (int64_t)j * VP;
            for (int part = 1; part < parts; part++) {
                for (int e = 0; e < E; e++) k[e] += k[part * apart + e];
                for (int e = 0; e < V; e++) v[e] += v[part * apart + e];
            }
            const A by_k = scaled() ? (A)(1 / LOG2E) : (A)c.scale;  // what q has in it or not
            for (int e = 0; e < P; e++) ((A*)c.d_pos_k)[(id(m, j) * H + h) * P + e] = k[D + e] * by_k;
            if (s >= 0) {
                const A own = by * keep[j] * own_mask(m, j, h);
                if (own != 0) {
                    const A* grad = leaf(w.acc, c.grad, s, h, V);
                    for (int e = 0; e < V; e++) v[e] += own * grad[e];
                }
            }
            give(m, j, h, s, c.dk, D, k, by_k, z_ + D, wt[j], D);
            give(m, j, h, s, c.dv, 2 * D, v, A(1), z_ + 2 * D, wt[j], V);
        }
    }
    // Room for gradients of keys and values of a family.
    int64_t room(int size) const { return (int64_t)(size + 8) * (EP + VP); }

    void down_back(int p, int h0, int h1, const Scratch<A>& w, A* memory) const {
        const Family m = family(p);
        for (int h = h0; h < h1;) {
            const Heads hs(h, h1, m.size);
            for (int a = 0; a < hs.count; a++) begin_back(m, h + a);
            A *dk = memory, *dv = memory + (int64_t)(m.size + 8) * EP;
            for (int i = 0; i < m.size; i += TILE)
                meet_back(m, hs, i, std::min(m.size, i + TILE), w, dk, dv, room(m.size), i == 0);
            for (int a = 0; a < hs.count; a++) finish_back(m, h++, 0, m.size, w, dk + a * room(m.size), dv + a * room(m.size), 1, 0);
        }
    }

    // --- both ways through the tree ----------------------------------------------------------------

    bool many(int p) const { return walk.size[p] >= MANY; }
    int slot() const { return std::min(c.widest, TILE); }

    // Calls small(p, first head, end) for families above the tasks and large(p) for those that threads share, children
    // first or, backwards, parents first.
    template <class Small, class Large> void above(Team& team, int member, bool upwards, const Small& small, const Large& large) const {
        const int32_t* top = walk.tasks + 2 * c.tasks;
        const int h0 = H * member / team.size, h1 = H * (member + 1) / team.size;
        for (int i = 0; i < c.tops;) {
            auto at = [&](int n) { return top[upwards ? n : c.tops - 1 - n]; };
            if (many(at(i))) {
                large(at(i++));
            } else {
                for (; i < c.tops && !many(at(i)); i++)
                    if (h0 < h1) small(at(i), h0, h1);
            }
            team.wait();
        }
    }
    template <class Each> void below(Team& team, bool upwards, const Each& each) const {
        // Few tasks are shared by heads too.
        const int cut = c.tasks >= 2 * team.size ? 1 : std::min(H, team.size);
        for (int64_t n; (n = team.next()) < (int64_t)c.tasks * cut;) {
            const int task = (int)(n / cut), part = (int)(n % cut), h0 = H * part / cut, h1 = H * (part + 1) / cut;
            const int p0 = walk.tasks[2 * task], p1 = walk.tasks[2 * task + 1];
            for (int p = 0; p < p1 - p0; p++) each(upwards ? p0 + p : p1 - 1 - p, h0, h1);
        }
    }

    void forward(Team& team, int member) const {
        const Scratch<A> w(slot(), EP, VP);
        auto climb = [&](int p, int h0, int h1) { up(p, h0, h1, w); };
        auto descend = [&](int p, int h0, int h1) {
            for (int h = h0; h < h1; h++) begin_down(family(p), h), down(p, h, 0, walk.size[p]);
        };
        if (c.half != 2) below(team, true, climb);
        team.wait();
        if (c.half != 2) above(team, member, true, climb, [&](int p) {
            const Family m = family(p);
            const int tiles = (m.size + TILE - 1) / TILE;
            for (int h = member; h < H; h += team.size) sums(m, h, w);
            team.wait();
            for (int n = member; n < H * tiles; n += team.size) {
                const int i = n / H * TILE;
                meet(m, Heads(n % H, H, m.size), i, std::min(m.size, i + TILE), w, false, (A*)c.parts + n);
            }
            team.wait();
            for (int h = member; h < H; h += team.size) {
                A part = 0;
                for (int t = 0; t < tiles; t++) part += ((A*)c.parts)[t * H + h];
                finish_up(m, h, part);
            }
        });
        team.wait();
        if (c.half == 1) return;
        above(team, member, false, descend, [&](int p) {
            for (int h = member; h < H; h += team.size) begin_down(family(p), h);
            team.wait();
            const int64_t size = walk.size[p];
            const int j0 = (int)(size * member / team.size), j1 = (int)(size * (member + 1) / team.size);
            for (int h = 0; h < H; h++) down(p, h, j0, j1);
        });
        team.wait();
        below(team, false, descend);
    }

    void backward(Team& team, int member) const {
        const Scratch<A> w(slot(), EP, VP);
        auto climb = [&](int p, int h0, int h1) {
            for (int h = h0; h < h1; h++) up_back(p, h, w);
        };
        std::vector<A> memory;
        auto descend = [&](int p, int h0, int h1) {
            const size_t needed = room(walk.size[p]) * (walk.size[p] <= LANES<A> ? LANES<A> : 1);
            if (memory.size() < needed) memory.resize(needed);
            down_back(p, h0, h1, w, memory.data());
        };
        if (c.half != 2) below(team, true, climb);
        team.wait();
        if (c.half != 2) above(team, member, true, climb, [&](int p) {
            for (int h = member; h < H; h += team.size) up_back(p, h, w);
        });
        team.wait();
        if (c.half == 1) return;
        above(team, member, false, descend, [&](int p) {
            // Members share a head where there are more of them; each part sums up gradients of its own.
            const Family m = family(p);
            const int parts = (team.size + H - 1) / H, tiles = (m.size + TILE - 1) / TILE;
            A* shared = (A*)c.parts;
            for (int h = member; h < H; h += team.size) begin_back(m, h);
            team.wait();
            for (int n = member; n < H * parts; n += team.size) {
                const int h = n % H, part = n / H, t0 = tiles * part / parts, t1 = tiles * (part + 1) / parts;
                A *dk = shared + n * room(m.size), *dv = dk + (int64_t)(m.size + 8) * EP;
                if (t0 == t1) std::fill(dk, dk + room(m.size), A(0));
                for (int t = t0; t < t1; t++)
                    meet_back(m, Heads(h, H, m.size), t * TILE, std::min(m.size, (t + 1) * TILE), w, dk, dv, 0, t == t0);
            }
            team.wait();
            const int64_t size = m.size;
            const int j0 = (int)(size * member / team.size), j1 = (int)(size * (member + 1) / team.size);
            for (int h = 0; h < H; h++) {
                A *dk = shared + h * room(m.size), *dv = dk + (int64_t)(m.size + 8) * EP;
                finish_back(m, h, j0, j1, w, dk, dv, parts, H * room(m.size));
            }
        });
        team.wait();
        below(team, false, descend);
    }
};

}  // namespace SIMD
