// The kernel for one instruction set: compiled several times, SIMD being the name of each.
#include "attention.h"
#include "lists.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

namespace SIMD {
template <class Attention> void run(const Attention& attention, int64_t threads, bool backward) {
    Team::run((int)threads, [&](Team& team, int member) {
        if (backward) attention.backward(team, member);
        else attention.forward(team, member);
    });
}
}  // namespace SIMD

void JOIN(run_, SIMD)(const Call& c, bool backward) {
    if (c.precise) SIMD::run(SIMD::Attention<double>(c), c.threads, backward);
    else SIMD::run(SIMD::Attention<float>(c), c.threads, backward);
}
void JOIN(run_lists_, SIMD)(const ListsCall& c, bool backward) {
    if (c.query.precise) SIMD::run(SIMD::Lists<double>(c), c.query.threads, backward);
    else SIMD::run(SIMD::Lists<float>(c), c.query.threads, backward);
}
