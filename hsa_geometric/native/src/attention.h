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

constexpr int SMALL = 8;   // members of a family whose products are taken row by row
constexpr int LOT = TILE;  // lanes of such families: members of several heads
constexpr int NEAR = 1 << 16;  // numbers that stay in the cache of a thread
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

    // Logits of a tile of ld queries; those of members with themselves become `own` and -inf.
    void logits(const Family& m, int ld, const Scratch<A>& w, int i0, int i1, int j0, int j1, A* own) const {
        const A *lm = log_mass(m), by = scaled() ? A(1) : scale;
        all_dots(w.s, w.qt, Even<A>{w.k, EP}, ld, j1 - j0, E);
        for (int j = j0; j < j1; j++) {
            A* s = w.s + (j - j0) * ld;
            for (int i = 0; i < ld; i += LANES<A>) store(s + i, load(s + i) * by + lm[j]);
            if (j < i0 || j >= i1) continue;
            if (own) own[j - i0] = s[j - i0];
            s[j - i0] = -INF<A>;
        }
    }
    void masks(const Family& m, int h, int ld, int i0, int i1, int j0, int j1, A* drop) const {
        for (int j = j0; j < j1; j++)
            for (int i = i0; i < i1; i++)
                drop[(j - j0) * ld + i - i0] = philox_keeps(c.seed, j, m.first + i, h, c.dropout) ? kept : A(0);
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

    // Queries i0 ... i1 of a family meet all keys; returned is their part of the family's f. With `whole` these are
    // all members, and their means are taken on the way.
    A meet(const Family& m, int h, int i0, int i1, const Scratch<A>& w, bool whole) const {
        const int L = LANES<A>, n = i1 - i0, ld = padded<A>(n), b = m.size;
        A *own = w.lane, *top = own + TILE, *total = top + TILE, *inside = total + TILE, *keep = inside + TILE, *fix = keep + TILE;
        A* sum = whole ? mean(m.p, h) : nullptr;
        if (whole) std::fill(sum, sum + width, A(0));
        queries(m, h, i0, i1, w.q, sum);
        transpose(w.qt, ld, w.q, EP, n, E);
        for (int i = 0; i < ld; i += L) store(top + i, splat(-INF<A>)), store(total + i, vec<A>{});
        for (int j0 = 0; j0 < b; j0 += TILE) {
            const int j1 = std::min(b, j0 + TILE);
            keys(m, h, j0, j1, w.k, whole ? sum + D : nullptr);
            values(m, h, j0, j1, w.v, whole ? sum + 2 * D : nullptr);
            logits(m, ld, w, i0, i1, j0, j1, own);
            if (c.dropout > 0) masks(m, h, ld, i0, i1, j0, j1, w.drop);
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
            all_combine(Even<A>{w.acc, VP}, n, w.s, 1, ld, j1 - j0, Even<A>{w.v, VP}, VP, j0 > 0);
        }
        // In each lane: S, f, g = sigmoid(f - S) and Z = logaddexp(f, S).
        for (int i = 0; i < n; i++) {
            const int32_t s = m.source[i0 + i];
            inside[i] = s < 0 ? *inner(f, -1 - s, h, 1) : c.self_loop && seen(m, i0 + i) ? own[i] : -INF<A>;
            if (c.bias) keep[i] = bias(m, i0 + i, h) * (A)LOG2E;
        }
        A *outer = fix, *both = own, part = 0;
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
        if (c.save) {
            std::copy(total, total + n, S + index(m, H, h) + i0);
            std::copy(keep, keep + n, g + index(m, H, h) + i0);
        }
        for (int i = 0; i < n; i++) {
            if (share[i] != 0) part += share[i] * both[i];
            // U = (1 - g) M, and g v at a leaf
            const int32_t s = m.source[i0 + i];
            A* M = w.acc + i * VP;
            if (s < 0) {
                weigh(inner(U, -1 - s, h, V), M, outer[i], M, A(0));
                if (!c.save) *inner(g, -1 - s, h, 1) = keep[i];
                continue;
            }
            const A own_part = keep[i] * own_mask(m, i0 + i, h);
            const A* v = w.v + (i0 + i) * VP;  // there, where all keys are one tile
            if (b > TILE && own_part != 0) v = leaf(w.dq, c.v, s, h, V);
            const Rows& to = c.save ? c.U_leaf : c.out;
            A* direct = (A*)out_row(to, s, h, V);
            weigh(same(to.dtype) ? direct : M, M, outer[i], v, own_part);
            if (!same(to.dtype)) write(out_row(to, s, h, V), M, to.dtype, V);
        }
        return part;
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
        if (m.size <= SMALL) return in_lots(m, h0, h1, [&](int h, int end) { small_up(m, h, end, w); });
        const bool whole = m.size <= TILE;
        for (int h = h0; h < h1; h++) {
            A sum = 0;
            if (!whole) sums(m, h, w);
            for (int i = 0; i < m.size; i += TILE) sum += meet(m, h, i, std::min(m.size, i + TILE), w, whole);
            finish_up(m, h, sum);
        }
    }
    // Calls each(first head, end) for as many heads at a time as have their members in a lot of lanes.
    template <class Each> static void in_lots(const Family& m, int h0, int h1, const Each& each) {
        for (int h = h0, step = LOT / m.size; h < h1; h += step) each(h, std::min(h1, h + step));
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

    void down(int p, int h0, int h1, int j0, int j1) const {
        const Family m = family(p);
        const int whole = V / LANES<A> * LANES<A>;
        const bool plain = same(c.out.dtype);
        const Rows& leaves = c.save ? c.U_leaf : c.out;
        A line[256];
        for (int j = j0; j < j1; j++) {
            const int32_t s = m.source[j];
            for (int h = h0; h < h1; h++) {
                const A *z_ = inner(Z, p, h, V), by = *inner(W, p, h, 1);
                if (s >= 0 && !plain) {
                    for (int d = 0; d < V; d += 256) {
                        const int n = std::min(256, V - d), size = size_of(leaves.dtype);
                        read(line, row(leaves, s, h, V) + d * size, leaves.dtype, n);
                        for (int e = 0; e < n; e++) line[e] = z_[d + e] + by * line[e];
                        write(out_row(c.out, s, h, V) + d * size, line, leaves.dtype, n);
                    }
                    continue;
                }
                const A* u = s < 0 ? inner(U, -1 - s, h, V) : (const A*)row(leaves, s, h, V);
                A* to = s < 0 ? inner(Z, -1 - s, h, V) : (A*)out_row(c.out, s, h, V);
                int d = 0;
                for (; d < whole; d += LANES<A>) store(to + d, load(z_ + d) + load(u + d) * by);
                for (; d < V; d++) to[d] = z_[d] + by * u[d];
                if (s < 0) *inner(W, -1 - s, h, 1) = by * (c.save ? g[index(m, H, h) + j] : *inner(g, -1 - s, h, 1));
            }
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
    // members, which they share with other queries; those of queries are finished here.
    void meet_back(const Family& m, int h, int i0, int i1, const Scratch<A>& w, A* dk, A* dv, bool first) const {
        const int L = LANES<A>, n = i1 - i0, ld = padded<A>(n), b = m.size;
        A *share = w.lane, *less = share + TILE, *S_ = less + TILE, *dfs = S_ + TILE, *dS = dfs + TILE;
        const A* wt = weight(m);
        for (int i = 0; i < ld; i += L) store(share + i, vec<A>{}), store(less + i, vec<A>{}), store(S_ + i, splat(INF<A>));
        const A by = *inner(W, m.p, h, 1), dF = *inner(df, m.p, h, 1);
        const int64_t at = index(m, H, h) + i0;
        for (int i = 0; i < n; i++) {
            const A keep = g[at + i], mu_ = mu[at + i], sib = S[at + i];
            const A gate = by * keep * ((1 - keep) * dW[at + i] - mu_), f_i = dF * wt[i0 + i];
            dfs[i] = gate + f_i * keep;
            dS[i] = f_i * (1 - keep) - gate;
            share[i] = by * (1 - keep);
            less[i] = dS[i] - by * mu_;
            S_[i] = sib == -INF<A> ? INF<A> : sib - bias(m, i0 + i, h) * (A)LOG2E;
        }
        queries(m, h, i0, i1, w.q, nullptr);
        transpose(w.qt, ld, w.q, EP, n, E);
        for (int i = 0; i < n; i++) {
            const int32_t s = m.source[i0 + i];
            A* to = w.g + i * VP;
            const A* from = s < 0 ? inner(G, -1 - s, h, V) : leaf(to, c.grad, s, h, V);
            int d = 0;
            for (; d + L <= V; d += L) store(to + d, load(from + d));
            for (; d < V; d++) to[d] = from[d];
            for (; d < VP; d++) to[d] = 0;
        }
        transpose(w.gt, ld, w.g, VP, n, V);
        for (int j0 = 0; j0 < b; j0 += TILE) {
            const int j1 = std::min(b, j0 + TILE), nk = j1 - j0;
            keys(m, h, j0, j1, w.k, nullptr);
            values(m, h, j0, j1, w.v, nullptr);
            all_dots(w.x, w.gt, Even<A>{w.v, VP}, ld, nk, V);
            logits(m, ld, w, i0, i1, j0, j1, nullptr);
            if (c.dropout > 0) masks(m, h, ld, i0, i1, j0, j1, w.drop);
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
            // A leaf's own logit; its own value comes at the end.
            for (int j = std::max(i0, j0); j < std::min(i1, j1); j++)
                w.x[(j - j0) * ld + j - i0] = m.source[j] >= 0 && c.self_loop && seen(m, j) ? dfs[j - i0] : A(0);
            const Even<A> q{w.q, EP}, k{w.k, EP}, G_{w.g, VP};
            all_combine(Even<A>{dv + (int64_t)j0 * VP, VP}, nk, w.s, ld, 1, n, G_, VP, !first);
            all_combine(Even<A>{dk + (int64_t)j0 * EP, EP}, nk, w.x, ld, 1, n, q, EP, !first);
            all_combine(Even<A>{w.dq, EP}, n, w.x, 1, ld, nk, k, EP, j0 > 0);
        }
        for (int i = 0; i < n; i++) {
            const int j = i0 + i;
            const int32_t s = m.source[j];
            give_query(m, j, h, w.dq + i * EP, inner(z, m.p, h, width), w);
            if (c.d_bias) ((A*)c.d_bias)[id(m, j) * H + h] = S_[i] == INF<A> ? A(0) : dS[i];
            if (s < 0) {
                *inner(W, -1 - s, h, 1) = by * g[at + i];
                *inner(df, -1 - s, h, 1) = dfs[i];
            }
        }
    }
    // Finishes the gradient of a query, and of what is in it.
    void give_query(const Family& m, int j, int h, A* d, const A* z_, const Scratch<A>& w) const {
        const A t = temperature(m, j, h);
        if (c.d_temperature) ((A*)c.d_temperature)[id(m, j) * H + h] = raw_dot(m, j, h, d, w);
        for (int e = 0; e < P; e++) ((A*)c.d_pos_q)[(id(m, j) * H + h) * P + e] = t * d[D + e];
        give(m, j, h, m.source[j], c.dq, 0, d, t * (A)c.scale, z_, weight(m)[j], D);
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

    void up_back(int p, int h0, int h1, const Scratch<A>& w) const {
        const Family m = family(p);
        if (m.size <= SMALL) return in_lots(m, h0, h1, [&](int h, int end) { small_up_back(m, h, end, w); });
        for (int h = h0; h < h1; h++) up_back(p, h, w);
    }
    void down_back(int p, int h0, int h1, const Scratch<A>& w, std::vector<A>& memory) const {
        const Family m = family(p);
        if (m.size <= SMALL) return in_lots(m, h0, h1, [&](int h, int end) { small_down_back(m, h, end, w); });
        if ((int64_t)memory.size() < room(m.size)) memory.resize(room(m.size));
        A *dk = memory.data(), *dv = dk + (int64_t)(m.size + 8) * EP;
        for (int h = h0; h < h1; h++) {
            begin_back(m, h);
            for (int i = 0; i < m.size; i += TILE) meet_back(m, h, i, std::min(m.size, i + TILE), w, dk, dv, i == 0);
            finish_back(m, h, 0, m.size, w, dk, dv, 1, 0);
        }
    }

    // --- small families ----------------------------------------------------------------------------

    // A lane for each head and member, as S and g are stored, in vectors that heads share. Logits are dot products of
    // rows that are read where they are, and all heads take one exponential together.
    struct Lanes {
        Family m;
        int h0, h1, b, n, ld;
        typename Types<A>::integer member[LOT], own[LOT];  // which member; whether it is a leaf that attends to itself
        Lanes(const Attention& a, const Family& m, int h0, int h1)
            : m(m), h0(h0), h1(h1), b(m.size), n((h1 - h0) * b), ld(padded<A>(n)) {
            for (int j = 0; j < b; j++)
                for (int l = j; l < n; l += b) {
                    member[l] = j;
                    own[l] = m.source[j] >= 0 && a.c.self_loop && a.seen(m, j);
                }
        }
        ivec<A> is(int j, int l) const { return loaded(member + l) == j; }
        ivec<A> itself(int l) const { return loaded(own + l) != 0; }
        static ivec<A> loaded(const void* x) { ivec<A> y; memcpy(&y, x, sizeof y); return y; }
    };
    // Rows of inner members: `at` in those of `wide` numbers for each family and head.
    struct Inner {
        A* x;
        int wide, at;
    };
    // Addresses of members' rows of n numbers. Those that are no whole vectors of A, and padding if it is to be
    // hidden, are copied to `room`, with zeros up to `wide`; without room they are where they are.
    void place(const Lanes& t, const Rows& x, const Inner& inner, int n, int wide, A* room, bool hide, A** to) const {
        for (int j = 0; j < t.b; j++) {
            const int32_t s = t.m.source[j];
            A* from = s < 0 ? inner.x + ((-1 - s) * (int64_t)H + t.h0) * inner.wide + inner.at : (A*)row(x, s, t.h0, n);
            const int step = s < 0 ? inner.wide : n;
            const bool shown = !hide || seen(t.m, j), here = n == wide && (s < 0 || (same(x.dtype) && shown));
            for (int h = t.h0, l = j; h < t.h1; h++, l += t.b, from += step) {
                to[l] = from;
                if (here || !room) continue;
                A* y = to[l] = room + l * wide;
                std::fill(y, y + wide, A(0));
                if (s < 0) std::copy(from, from + n, y);
                else if (shown) read(y, row(x, s, h, n), (int)x.dtype, n);
            }
        }
        for (int l = t.n; l < t.ld; l++) to[l] = to[0];
    }
    // Sums over the members, weighted or not, of each head's rows.
    void sum_up(const Lanes& t, A* const* x, const A* w, const Inner& to, int n) const {
        for (int h = t.h0; h < t.h1; h++, x += t.b) {
            A* y = to.x + (t.m.p * (int64_t)H + h) * to.wide + to.at;
            int d = 0;
            for (; d + 4 * LANES<A> <= n; d += 4 * LANES<A>) add_up<4>(y + d, x, w, t.b, d);
            for (; d + LANES<A> <= n; d += LANES<A>) add_up<1>(y + d, x, w, t.b, d);
            for (; d < n; d++) {
                y[d] = 0;
                for (int j = 0; j < t.b; j++) y[d] += w ? x[j][d] * w[j] : x[j][d];
            }
        }
    }
    template <int N> INLINE void add_up(A* y, A* const* x, const A* w, int b, int d) {
        vec<A> sum[N] = {};
        for (int j = 0; j < b; j++)
            for (int v = 0; v < N; v++) sum[v] += load(x[j] + d + v * LANES<A>) * (w ? w[j] : A(1));
        for (int v = 0; v < N; v++) store(y + v * LANES<A>, sum[v]);
    }
    // What queries() and keys() add to rows.
    void finish_rows(const Lanes& t, const Scratch<A>& w, A** q, A** k) const {
        for (int h = t.h0, l = 0; scaled() && h < t.h1; h++)
            for (int j = 0; j < t.b; j++, l++) {
                const A by = temperature(t.m, j, h);
                const int64_t at = (id(t.m, j) * H + h) * P;
                A* y = w.q + l * EP;
                for (int d = 0; d < EP; d++) y[d] = q[l][d] * by * scale;
                for (int e = 0; e < P; e++) y[D + e] = by * (A)LOG2E * ((const A*)c.pos_q)[at + e];
                for (int e = 0; e < P; e++) k[l][D + e] = ((const A*)c.pos_k)[at + e];
                q[l] = y;
            }
    }
    // s[j][l] = x[l] . y[member j of the same head], times `by`.
    void products(const Lanes& t, A* s, A* const* x, A* const* y, int n) const {
        const A* other[LOT];
        for (int j = 0; j < t.b; j++, s += t.ld) {
            for (int l = 0; l < t.n; l += t.b)
                for (int i = 0; i < t.b; i++) other[l + i] = y[l + j];
            for (int l = t.n; l < t.ld; l++) other[l] = y[0];
            for (int l = 0; l < t.ld; l += LANES<A>) store(s + l, row_dots<A>(x + l, other + l, n));
        }
    }
    // Dropout of weights; on the diagonal that of a leaf's weight of itself.
    void masks(const Lanes& t, A* drop) const {
        for (int h = t.h0, l = 0; h < t.h1; h++)
            for (int i = 0; i < t.b; i++, l++) {
                for (int j = 0; j < t.b; j++) drop[j * t.ld + l] = philox_keeps(c.seed, j, t.m.first + i, h, c.dropout) ? kept : A(0);
                drop[i * t.ld + l] = own_mask(t.m, i, h);
            }
    }

    void small_up(const Family& m, int h0, int h1, const Scratch<A>& w) const {
        const Lanes t(*this, m, h0, h1);
        const int L = LANES<A>, b = t.b, n = t.n, ld = t.ld;
        A *q[LOT], *k[LOT], *v[LOT], *u[LOT];
        place(t, c.q, {means, width, 0}, D, EP, w.q, true, q);
        place(t, c.k, {means, width, D}, D, EP, w.k, true, k);
        place(t, c.v, {means, width, 2 * D}, V, VP, w.v, true, v);
        if (walk.tree[m.p] < 0 || c.half) {
            sum_up(t, q, weight(m), {means, width, 0}, D);
            sum_up(t, k, weight(m), {means, width, D}, D);
            sum_up(t, v, weight(m), {means, width, 2 * D}, V);
        }
        finish_rows(t, w, q, k);
        products(t, w.s, q, k, EP);
        if (c.dropout > 0) masks(t, w.drop);
        A *below = w.lane, *added = below + LOT, *sib = added + LOT, *keep = sib + LOT, *both = keep + LOT;
        for (int h = h0, l = 0; h < h1; h++)
            for (int j = 0; j < b; j++, l++) {
                below[l] = m.source[j] < 0 ? *inner(f, -1 - m.source[j], h, 1) : -INF<A>;
                if (c.bias) added[l] = bias(m, j, h) * (A)LOG2E;
            }
        const A *lm = log_mass(m), by = scaled() ? A(1) : scale;
        // Each member's f stands among the logits to its siblings: then U are rows of one softmax, of whose weights g is
        // the member's own, which an inner member has no part of.
        for (int l = 0; l < ld; l += L) {
            vec<A> high = splat(-INF<A>), own{}, sum{}, others{};
            for (int j = 0; j < b; j++) {
                A* s = w.s + j * ld + l;
                const vec<A> x = load(s) * by + lm[j], inside = t.itself(l) ? x : load(below + l);
                const vec<A> y = t.is(j, l) ? inside : c.bias ? x + load(added + l) : x;
                store(s, y);
                high = larger<A>(y, high);
            }
            const vec<A> top = high == -INF<A> ? vec<A>{} : high;
            for (int j = 0; j < b; j++) {
                A* s = w.s + j * ld + l;
                const vec<A> x = exp2(load(s) - top);
                sum += x;
                own = t.is(j, l) ? x : own;
                others += t.is(j, l) ? vec<A>{} : x;
                store(s, x);
            }
            const vec<A> part = sum == A(0) ? vec<A>{} : A(1) / sum, itself = t.itself(l) ? own * part : vec<A>{};
            store(both + l, high + log2<A>(sum)), store(keep + l, own * part);
            if (c.save) store(sib + l, high + log2<A>(others));
            for (int j = 0; j < b; j++) {
                A* s = w.s + j * ld + l;
                vec<A> x = t.is(j, l) ? itself : load(s) * part;
                if (c.dropout > 0) x *= load(w.drop + j * ld + l);
                store(s, x);
            }
        }
        if (c.save) {
            std::copy(sib, sib + n, S + index(m, H, h0));
            std::copy(keep, keep + n, g + index(m, H, h0));
        }
        const Rows& to = c.save ? c.U_leaf : c.out;
        const bool direct = V == VP && same(to.dtype);
        place(t, to, {U, V, 0}, V, V, nullptr, false, u);
        for (int h = h0, l = 0; h < h1; h++, l += b) {
            A part = 0;
            for (int i = 0; i < b; i++) {
                if (weight(m)[i] != 0) part += weight(m)[i] * both[l + i];
                if (m.source[i] < 0 && !c.save) *inner(g, -1 - m.source[i], h, 1) = keep[l + i];
            }
            finish_up(m, h, part);
            A *there[SMALL], **y = direct ? u + l : there;
            for (int i = 0; i < b; i++) there[i] = w.acc + i * VP;
            Mix<A>{w.s + l, 1, ld, b, v + l, A(1), nullptr, nullptr}.to(y, b, VP);
            for (int i = 0; !direct && i < b; i++)
                if (m.source[i] < 0) std::copy(there[i], there[i] + V, u[l + i]);
                else write(out_row(to, m.source[i], h, V), there[i], (int)to.dtype, V);
        }
    }

    void small_up_back(const Family& m, int h0, int h1, const Scratch<A>& w) const {
        const Lanes t(*this, m, h0, h1);
        const bool top = walk.tree[m.p] >= 0;
        A *G_[LOT], *u[LOT], *v[LOT], *by_u = w.lane, *by_v = by_u + LOT;
        place(t, c.grad, {G, V, 0}, V, VP, w.g, false, G_);
        place(t, c.U_leaf, {U, V, 0}, V, VP, w.acc, false, u);
        place(t, c.v, {U, V, 0}, V, VP, w.v, true, v);
        for (int l = 0; l < t.ld; l += LANES<A>) {
            store(by_u + l, row_dots<A>(G_ + l, u + l, VP));
            store(by_v + l, row_dots<A>(G_ + l, v + l, VP));
        }
        if (!top || c.half) sum_up(t, G_, nullptr, {G, V, 0}, V);
        A *mu_ = mu + index(m, H, h0), *E_ = dW + index(m, H, h0);
        const A* keep = g + index(m, H, h0);
        for (int h = h0, l = 0; h < h1; h++) {
            A total = 0;
            for (int j = 0; j < t.b; j++, l++) {
                const int32_t s = m.source[j];
                E_[l] = s < 0 ? *inner(z_scalar(), -1 - s, h, 1) : by_v[l] * own_mask(m, j, h);
                mu_[l] = s < 0 ? by_u[l] : by_u[l] - keep[l] * E_[l];
                total += mu_[l] + keep[l] * E_[l];
            }
            *inner(z_scalar(), m.p, h, 1) = total;
        }
    }

    void small_down_back(const Family& m, int h0, int h1, const Scratch<A>& w) const {
        const Lanes t(*this, m, h0, h1);
        const int L = LANES<A>, b = t.b, n = t.n, ld = t.ld;
        A *q[LOT], *k[LOT], *v[LOT], *G_[LOT];
        place(t, c.q, {means, width, 0}, D, EP, w.q, true, q);
        place(t, c.k, {means, width, D}, D, EP, w.k, true, k);
        place(t, c.v, {means, width, 2 * D}, V, VP, w.v, true, v);
        place(t, c.grad, {G, V, 0}, V, VP, w.g, false, G_);
        finish_rows(t, w, q, k);
        products(t, w.s, q, k, EP);
        products(t, w.x, G_, v, VP);
        if (c.dropout > 0) masks(t, w.drop);
        A* lane[9];
        for (int i = 0; i < 9; i++) lane[i] = w.lane + i * LOT;
        auto [keep, mu_, E_, sib, by_W, dF, added, df_, dS] = lane;
        const int64_t at = index(m, H, h0);
        std::copy(g + at, g + at + n, keep), std::copy(mu + at, mu + at + n, mu_);
        std::copy(dW + at, dW + at + n, E_), std::copy(S + at, S + at + n, sib);
        for (int h = h0, l = 0; h < h1; h++) {
            begin_back(m, h);
            for (int j = 0; j < b; j++, l++) {
                by_W[l] = *inner(W, m.p, h, 1);
                dF[l] = *inner(df, m.p, h, 1) * weight(m)[j];
                added[l] = bias(m, j, h) * (A)LOG2E;
            }
        }
        const A *lm = log_mass(m), by = scaled() ? A(1) : scale;
        for (int l = 0; l < ld; l += L) {
            const vec<A> g_ = load(keep + l), W_ = load(by_W + l), f_ = load(dF + l), mean = load(mu_ + l), S_ = load(sib + l);
            const vec<A> gate = W_ * g_ * ((A(1) - g_) * load(E_ + l) - mean);
            const vec<A> dfs = gate + f_ * g_, dSs = f_ * (A(1) - g_) - gate;
            const vec<A> share = W_ * (A(1) - g_), less = dSs - W_ * mean, from = S_ == -INF<A> ? splat(INF<A>) : S_ - load(added + l);
            store(df_ + l, dfs), store(dS + l, S_ == -INF<A> ? vec<A>{} : dSs);
            for (int j = 0; j < b; j++) {
                const int e = j * ld + l;
                const vec<A> p = exp2(load(w.s + e) * by + lm[j] - from);
                vec<A> part = share, own = W_ * g_;
                if (c.dropout > 0) part *= load(w.drop + e), own *= load(w.drop + e);
                // A leaf's own logit and weight.
                const vec<A> ds = p * (part * load(w.x + e) + less);
                store(w.s + e, t.is(j, l) ? t.itself(l) ? own : vec<A>{} : p * part);
                store(w.x + e, t.is(j, l) ? t.itself(l) ? dfs : vec<A>{} : ds);
            }
        }
        const bool plain = !scaled() && !c.masses && D == EP && V == VP && same(c.dq.dtype) && same(c.dk.dtype) && same(c.dv.dtype);
        const A by_k = scaled() ? (A)(1 / LOG2E) : (A)c.scale;  // what q has in it or not
        A *dq[LOT], *dk[LOT], *dv[LOT], *there[SMALL];
        place(t, c.dq, {z, width, 0}, D, D, nullptr, false, dq);
        place(t, c.dk, {z, width, D}, D, D, nullptr, false, dk);
        place(t, c.dv, {z, width, 2 * D}, V, V, nullptr, false, dv);
        for (int h = h0, l = 0; h < h1; h++, l += b) {
            const A *z_ = inner(z, m.p, h, width), *wt = weight(m), *ds = w.x + l, *p = w.s + l;
            if (plain) {
                Mix<A>{ds, 1, ld, b, k + l, (A)c.scale, z_, wt}.to(dq + l, b, D);
                Mix<A>{ds, ld, 1, b, q + l, by_k, z_ + D, wt}.to(dk + l, b, D);
                Mix<A>{p, ld, 1, b, G_ + l, A(1), z_ + 2 * D, wt}.to(dv + l, b, V);
            } else {
                for (int i = 0; i < b; i++) there[i] = w.dq + i * std::max(EP, VP);
                Mix<A>{ds, 1, ld, b, k + l, A(1), nullptr, nullptr}.to(there, b, EP);
                for (int i = 0; i < b; i++) give_query(m, i, h, there[i], z_, w);
                Mix<A>{ds, ld, 1, b, q + l, by_k, nullptr, nullptr}.to(there, b, EP);
                for (int j = 0; j < b; j++) {
                    for (int e = 0; e < P; e++) ((A*)c.d_pos_k)[(id(m, j) * H + h) * P + e] = there[j][D + e];
                    give(m, j, h, m.source[j], c.dk, D, there[j], A(1), z_ + D, wt[j], D);
                }
                Mix<A>{p, ld, 1, b, G_ + l, A(1), nullptr, nullptr}.to(there, b, VP);
                for (int j = 0; j < b; j++) give(m, j, h, m.source[j], c.dv, 2 * D, there[j], A(1), z_ + 2 * D, wt[j], V);
            }
            for (int i = 0; i < b; i++) {
                const int32_t s = m.source[i];
                if (s < 0) *inner(W, -1 - s, h, 1) = by_W[l] * keep[l + i], *inner(df, -1 - s, h, 1) = df_[l + i];
                if (c.d_bias) ((A*)c.d_bias)[id(m, i) * H + h] = dS[l + i];
            }
        }
    }

    // --- both ways through the tree ----------------------------------------------------------------

    bool many(int p) const { return walk.size[p] >= MANY; }

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
    // With `rest`, those alone whose trees go on above the tasks.
    template <class Each> void below(Team& team, bool upwards, const Each& each, bool rest = false) const {
        ranges(team, [&](int p0, int p1, int h0, int h1) {
            for (int p = 0; p < p1 - p0 && !(rest && walk.tree[p1 - 1 - p] >= 0); p++) each(upwards ? p0 + p : p1 - 1 - p, h0, h1);
        });
    }
    template <class Each> void ranges(Team& team, const Each& each) const {
        // Few tasks are shared by heads too.
        const int cut = c.tasks >= 2 * team.size ? 1 : std::min(H, team.size);
        for (int64_t n; (n = team.next()) < (int64_t)c.tasks * cut;) {
            const int task = (int)(n / cut), part = (int)(n % cut), h0 = H * part / cut, h1 = H * (part + 1) / cut;
            each(walk.tasks[2 * task], walk.tasks[2 * task + 1], h0, h1);
        }
    }

    // Up through the tasks. Trees that end there are gone down at once, while they are in the cache: small ones have
    // what nobody needs afterwards in memory of the thread, `numbers` for each family and head, set up by `move`.
    template <class Move, class Up, class Down>
    void tasks(Team& team, int numbers, const Move& move, const Up& climb, const Down& descend) const {
        static thread_local std::vector<A> memory;
        if (memory.empty()) memory.resize(NEAR);
        Attention own = *this;
        ranges(team, [&](int p0, int p1, int h0, int h1) {
            for (int p = p0, end; p < p1; p = end) {
                for (end = p; end < p1 && walk.tree[end] < 0;) end++;
                const bool whole = end < p1, small = whole && !c.half && (end - p + 1) * (int64_t)H * numbers <= NEAR;
                end += whole;
                A* at = memory.data();
                // So many numbers for each family and head, the tree's first one first.
                auto next = [&](A*& x, int count) { x = at - (int64_t)p * H * count, at += (int64_t)(end - p) * H * count; };
                if (small) move(own, next);
                const Attention& a = small ? own : *this;
                for (int i = p; c.half != 2 && i < end; i++) climb(a, i, h0, h1);
                for (int i = end; c.half != 1 && whole && i-- > p;) descend(a, i, h0, h1);
            }
        });
    }

    void forward(Team& team, int member) const {
        const Scratch<A> w(TILE, EP, VP);
        auto climb = [&](const Attention& a, int p, int h0, int h1) { a.up(p, h0, h1, w); };
        auto descend = [&](const Attention& a, int p, int h0, int h1) {
            for (int h = h0; h < h1; h++) a.begin_down(family(p), h);
            a.down(p, h0, h1, 0, walk.size[p]);
        };
        auto with = [&](const auto& each) { return [&](int p, int h0, int h1) { each(*this, p, h0, h1); }; };
        tasks(team, width + 2 * V + 4, [&](Attention& a, const auto& next) {
            next(a.Z, V), next(a.W, 1);
            if (!c.save) next(a.means, width), next(a.U, V), next(a.f, 1), next(a.g, 1);
        }, climb, descend);
        team.wait();
        if (c.half != 2) above(team, member, true, with(climb), [&](int p) {
            const Family m = family(p);
            const int tiles = (m.size + TILE - 1) / TILE;
            for (int h = member; h < H; h += team.size) sums(m, h, w);
            team.wait();
            for (int n = member; n < H * tiles; n += team.size) {
                const int i = n / H * TILE;
                ((A*)c.parts)[n] = meet(m, n % H, i, std::min(m.size, i + TILE), w, false);
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
        above(team, member, false, with(descend), [&](int p) {
            for (int h = member; h < H; h += team.size) begin_down(family(p), h);
            team.wait();
            const int64_t size = walk.size[p];
            const int j0 = (int)(size * member / team.size), j1 = (int)(size * (member + 1) / team.size);
            down(p, 0, H, j0, j1);
        });
        team.wait();
        below(team, false, with(descend), true);
    }

    void backward(Team& team, int member) const {
        const Scratch<A> w(TILE, EP, VP);
        std::vector<A> memory;
        auto climb = [&](const Attention& a, int p, int h0, int h1) { a.up_back(p, h0, h1, w); };
        auto descend = [&](const Attention& a, int p, int h0, int h1) { a.down_back(p, h0, h1, w, memory); };
        auto with = [&](const auto& each) { return [&](int p, int h0, int h1) { each(*this, p, h0, h1); }; };
        tasks(team, width + V + 2, [&](Attention& a, const auto& next) {
            next(a.G, V), next(a.z, width), next(a.W, 1), next(a.df, 1);
        }, climb, descend);
        team.wait();
        if (c.half != 2) above(team, member, true, with(climb), [&](int p) {
            for (int h = member; h < H; h += team.size) up_back(p, h, w);
        });
        team.wait();
        if (c.half == 1) return;
        above(team, member, false, with(descend), [&](int p) {
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
                    meet_back(m, h, t * TILE, std::min(m.size, (t + 1) * TILE), w, dk, dv, t == t0);
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
        below(team, false, with(descend), true);
    }
};

}  // namespace SIMD
