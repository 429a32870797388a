// Vectors of the width that this file is compiled for: VECTOR_BYTES is 64, 32 or 16.
// Everything is made of the vector extensions that GCC and Clang share; the file is compiled once for
// each instruction set, each time in a namespace of its own.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>

#if defined(__F16C__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

namespace SIMD {

template <class A> struct Types;
template <> struct Types<float> {
    typedef float vec __attribute__((vector_size(VECTOR_BYTES)));
    typedef int32_t ivec __attribute__((vector_size(VECTOR_BYTES)));
    typedef uint32_t uvec __attribute__((vector_size(VECTOR_BYTES)));
    typedef uint32_t integer;
};
template <> struct Types<double> {
    typedef double vec __attribute__((vector_size(VECTOR_BYTES)));
    typedef int64_t ivec __attribute__((vector_size(VECTOR_BYTES)));
    typedef uint64_t uvec __attribute__((vector_size(VECTOR_BYTES)));
    typedef uint64_t integer;
};
// W numbers, fewer than a vector has.
template <class A, int W> struct Narrow { typedef A vec __attribute__((vector_size(W * sizeof(A)))); };
template <class A> using vec = typename Types<A>::vec;
template <class A> using ivec = typename Types<A>::ivec;  // for shifts that keep the sign
template <class A> using uvec = typename Types<A>::uvec;  // for bits: what overflows is defined
template <class A> constexpr int LANES = VECTOR_BYTES / sizeof(A);
template <class A> constexpr A INF = std::numeric_limits<A>::infinity();

template <class A> INLINE vec<A> load(const A* p) { vec<A> x; memcpy(&x, p, sizeof x); return x; }
template <class A> INLINE void store(A* p, vec<A> x) { memcpy(p, &x, sizeof x); }
template <class A> INLINE vec<A> splat(A x) { return x - vec<A>{}; }
template <class A> INLINE vec<A> larger(vec<A> a, vec<A> b) { return a > b ? a : b; }
// A whole number of vectors.
template <class A> INLINE int padded(int n) { return (n + LANES<A> - 1) / LANES<A> * LANES<A>; }

// 2^x; 0 below the smallest normal number. Coefficients: minimax on [-1/2, 1/2] for float, Taylor's
// series for double. Adding and taking off 1.5 * 2^23 (2^52) rounds to a whole number, which stands in
// the lowest bits meanwhile.
INLINE vec<float> exp2(vec<float> x) {
    const float magic = 12582912.f;
    vec<float> shifted = x + magic, f = x - (shifted - magic);
    vec<float> y = f * 1.535336188319500e-4f + 1.339887440266574e-3f;
    y = y * f + 9.618437357674640e-3f;
    y = y * f + 5.550332471162809e-2f;
    y = y * f + 2.402264791363012e-1f;
    y = y * f + 6.931472028550421e-1f;
    y = y * f + 1.f;
    uvec<float> bits = (uvec<float>)y + ((uvec<float>)shifted << 23);
    return x < -126.f ? vec<float>{} : (vec<float>)bits;
}
INLINE vec<double> exp2(vec<double> x) {
    const double magic = 6755399441055744.;
    vec<double> shifted = x + magic, f = (x - (shifted - magic)) * 0.69314718055994530942;
    vec<double> y = f * (1. / 6227020800.) + 1. / 479001600.;
    const double inverse[] = {1. / 39916800., 1. / 3628800., 1. / 362880., 1. / 40320., 1. / 5040., 1. / 720.,
                              1. / 120., 1. / 24., 1. / 6., 1. / 2., 1., 1.};
    for (double c : inverse) y = y * f + c;
    uvec<double> bits = (uvec<double>)y + ((uvec<double>)shifted << 52);
    return x < -1022. ? vec<double>{} : (vec<double>)bits;
}

// log2(x) for normal x > 0 and 0, of which it is -inf; NaN stays NaN.
template <class A> INLINE vec<A> log2(vec<A> x) {
    constexpr bool wide = sizeof(A) == 8;
    constexpr int mantissa = wide ? 52 : 23;
    typedef typename Types<A>::integer I;
    const I root_half = wide ? (I)0x3fe6a09e667f3bcdLL : (I)0x3f3504f3;
    ivec<A> e = (ivec<A>)((uvec<A>)x - root_half) >> mantissa;
    vec<A> m = (vec<A>)((uvec<A>)x - ((uvec<A>)e << mantissa)), t = (m - A(1)) / (m + A(1)), t2 = t * t;
    vec<A> y{};
    for (int n = wide ? 21 : 9; n > 1; n -= 2) y = (y + A(1) / A(n)) * t2;
    y = (y + A(1)) * t * A(2.8853900817779268147);  // 2 / ln 2
    y += __builtin_convertvector(e, vec<A>);
    y = x == A(0) ? splat(-INF<A>) : y;
    return x == x ? y : x;
}

// Of blocks of UNIT lanes the even (or odd) ones of a and b in turn; of single floats the lower (or
// upper) two of four, for which there is an instruction.
template <class A, int UNIT, int ODD> constexpr int picked(int i) {
    const int other = i / UNIT % 2 * LANES<A>;
    if (UNIT == 1 && LANES<A> >= 4 && sizeof(A) == 4) return i / 4 * 4 + i % 4 / 2 + 2 * ODD + other;
    return (i / UNIT / 2 * 2 + ODD) * UNIT + i % UNIT + other;
}
template <class A, int UNIT, int ODD, int... I>
INLINE vec<A> pick(vec<A> a, vec<A> b, std::integer_sequence<int, I...>) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, picked<A, UNIT, ODD>(I)...);
#else
    return __builtin_shuffle(a, b, ivec<A>{picked<A, UNIT, ODD>(I)...});
#endif
}
// Lane i of the result is the sum over the lanes of x[i], which are overwritten.
template <class A, int UNIT = 1> INLINE vec<A> sums(vec<A>* x) {
    if constexpr (UNIT < LANES<A>) {
        constexpr std::make_integer_sequence<int, LANES<A>> all;
        for (int i = 0; i < LANES<A> / UNIT / 2; i++)
            x[i] = pick<A, UNIT, 0>(x[2 * i], x[2 * i + 1], all) + pick<A, UNIT, 1>(x[2 * i], x[2 * i + 1], all);
        return sums<A, 2 * UNIT>(x);
    }
    return x[0];
}

// Sum over the lanes.
template <class A> INLINE A sum(vec<A> x) {
    A y = 0;
    for (int i = 0; i < LANES<A>; i++) y += x[i];
    return y;
}

// How numbers of a tensor are stored.
enum Dtype { FLOAT, DOUBLE, BFLOAT, HALF };
INLINE int size_of(int dtype) { return dtype == FLOAT ? 4 : dtype == DOUBLE ? 8 : 2; }

INLINE float from_bfloat(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, 4);
    return y;
}
INLINE uint16_t to_bfloat(float x) {  // to the nearest, ties to even
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if (x != x) return 0x7fc0;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

// n numbers of a tensor as A, and back.
template <class A> INLINE void read(A* y, const void* x, int dtype, int n) {
    switch (dtype) {
    case FLOAT: for (int i = 0; i < n; i++) y[i] = (A)((const float*)x)[i]; break;
    case DOUBLE: for (int i = 0; i < n; i++) y[i] = (A)((const double*)x)[i]; break;
    case BFLOAT: for (int i = 0; i < n; i++) y[i] = from_bfloat(((const uint16_t*)x)[i]); break;
    default: for (int i = 0; i < n; i++) y[i] = (A)(float)((const _Float16*)x)[i];
    }
}
template <class A> INLINE void write(void* y, const A* x, int dtype, int n) {
    switch (dtype) {
    case FLOAT: for (int i = 0; i < n; i++) ((float*)y)[i] = (float)x[i]; break;
    case DOUBLE: for (int i = 0; i < n; i++) ((double*)y)[i] = x[i]; break;
    case BFLOAT: for (int i = 0; i < n; i++) ((uint16_t*)y)[i] = to_bfloat((float)x[i]); break;
    default: for (int i = 0; i < n; i++) ((_Float16*)y)[i] = (_Float16)(float)x[i];
    }
}

// y[d * ld + i] = x[i * from + d] for i < rows (rounded up to 4), d < n (rounded up to 4).
INLINE void transpose(double* y, int ld, const double* x, int from, int rows, int n) {
    for (int i = 0; i < rows; i++)
        for (int d = 0; d < n; d++) y[d * ld + i] = x[i * from + d];
}
INLINE void transpose(float* y, int ld, const float* x, int from, int rows, int n) {
    typedef float f4 __attribute__((vector_size(16)));
    typedef int32_t i4 __attribute__((vector_size(16)));
    auto four = [](const float* p) { f4 v; memcpy(&v, p, 16); return v; };
#if defined(__clang__)
#define MIX(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define MIX(a, b, ...) __builtin_shuffle(a, b, i4{__VA_ARGS__})
#endif
    for (int i = 0; i < rows; i += 4)
        for (int d = 0; d < n; d += 4) {
            const float* p = x + i * from + d;
            f4 a = four(p), b = four(p + from), c = four(p + 2 * from), e = four(p + 3 * from);
            f4 ab = MIX(a, b, 0, 4, 1, 5), ce = MIX(c, e, 0, 4, 1, 5);
            f4 AB = MIX(a, b, 2, 6, 3, 7), CE = MIX(c, e, 2, 6, 3, 7);
            f4 out[4] = {MIX(ab, ce, 0, 1, 4, 5), MIX(ab, ce, 2, 3, 6, 7), MIX(AB, CE, 0, 1, 4, 5), MIX(AB, CE, 2, 3, 6, 7)};
            for (int u = 0; u < 4; u++) memcpy(y + (d + u) * ld + i, &out[u], 16);
        }
#undef MIX
}

}  // namespace SIMD
