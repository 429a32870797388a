// How the kernel walks a tree of T nodes, F inner ones, R roots: families in post-order, children
// before parents, so that the families of a subtree are one range. A root that is a leaf counts as a
// family of one, so there are P of them, F <= P <= F + R.
#pragma once
#include <cstdint>

struct Walk {
    int32_t* first;   // [P] position of the first member; the others follow
    int32_t* size;    // [P] number of members
    int32_t* tree;    // [P] which tree it is the top of, or -1
    int32_t* source;  // [T] of each position: the leaf's row, or -1 - p of the family below
    int32_t* tasks;   // [tasks, 2] ranges of families that need no others; then the families above

    Walk(int32_t* at, int64_t T, int64_t F, int64_t R)
        : first(at), size(at + F + R), tree(at + 2 * (F + R)), source(at + 3 * (F + R)), tasks(source + T) {}
};
