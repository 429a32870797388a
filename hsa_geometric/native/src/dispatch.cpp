// What Python calls, and which of the kernels this processor can run.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <vector>

#include "call.h"
#include "export.h"

#define KERNELS(set) \
    void run_##set(const Call&, bool); \
    void run_lists_##set(const ListsCall&, bool);
KERNELS(base)
#if defined(__x86_64__)
KERNELS(avx2)
KERNELS(avx512)
#define CHOICE(run) {run##base, run##avx2, run##avx512}
#else
#define CHOICE(run) {run##base}
#endif

static int best() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl"))
        return 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
    return 0;
}
static int chosen = -1;

// The instruction set: 0 is what every processor of the family has, 1 AVX2, 2 AVX-512. Asks for `wanted`, if this
// processor has it and it is not negative; returns the one that is used.
EXPORT int hsa_instructions(int wanted) {
    if (chosen < 0 || wanted >= 0) chosen = wanted >= 0 ? std::min(wanted, best()) : best();
    return chosen;
}

template <class Call> static int run(const Call* given, bool backward, void (*const kernels[])(const Call&, bool)) {
    try {
        Call call = *given;
        call.ready();
        kernels[hsa_instructions(-1)](call, backward);
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}
static void (*const siblings[])(const Call&, bool) = CHOICE(run_);
static void (*const lists[])(const ListsCall&, bool) = CHOICE(run_lists_);

// What these sources were, so that Python sees a library that others made.
EXPORT const char* hsa_sources() { return SOURCES; }
EXPORT int hsa_forward(const Call* call) { return run(call, false, siblings); }
EXPORT int hsa_backward(const Call* call) { return run(call, true, siblings); }
EXPORT int hsa_lists_forward(const ListsCall* call) { return run(call, false, lists); }
EXPORT int hsa_lists_backward(const ListsCall* call) { return run(call, true, lists); }

// Of each position the share of its parent's mass and the logarithm of its mass in base 2, from masses
// of the leaves' rows, or from leaf counts where there are none.
template <class A> static void masses(const double* mass, const int64_t* leaf, const int64_t* up, const int64_t* count,
                                      int64_t T, int64_t N, int64_t R, A* weight, A* log_mass) {
    std::vector<double> total(T, 0);
    if (mass) {
        for (int64_t i = 0; i < N; i++) total[leaf[i]] = mass[i];
        for (int64_t i = T - 1; i >= R; i--) total[up[i]] += total[i];
    } else {
        for (int64_t i = 0; i < T; i++) total[i] = (double)count[i];
    }
    for (int64_t i = 0; i < T; i++) {
        const double above = total[up[i]];
        weight[i] = above > 0 ? (A)(total[i] / above) : A(0);
        log_mass[i] = i && total[i] == total[i - 1] ? log_mass[i - 1] : (A)std::log2(total[i]);
    }
}
EXPORT void hsa_masses(const double* mass, const int64_t* leaf, const int64_t* up, const int64_t* count, int64_t T,
                           int64_t N, int64_t R, void* weight, void* log_mass, int precise) {
    if (precise) masses(mass, leaf, up, count, T, N, R, (double*)weight, (double*)log_mass);
    else masses(mass, leaf, up, count, T, N, R, (float*)weight, (float*)log_mass);
}
