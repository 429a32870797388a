// The kernel for one instruction set: compiled several times, SIMD being the name of each.
#include "attention.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

namespace SIMD {
template <class A> void run(const Call& c, bool backward) {
    const Attention<A> attention(c);
    Team::run((int)c.threads, [&](Team& team, int member) {
        if (backward) attention.backward(team, member);
        else attention.forward(team, member);
    });
}
}  // namespace SIMD

void JOIN(run_, SIMD)(const Call& c, bool backward) {
    if (c.precise) SIMD::run<double>(c, backward);
    else SIMD::run<float>(c, backward);
}
