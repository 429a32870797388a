// Interaction lists as the kernel reads them: for each family of the query tree, in the order of its
// walk, groups of at most 64 members, and the keys that each group meets.
#pragma once
#include <cstdint>

struct Blocks {
    int32_t* group_ptr;  // [P + 1] groups of each family of the query tree
    int32_t* place;      // [PK] position of the parent of each family of the key tree
    int32_t* first;      // [G] of each group its first member within the family ...
    int32_t* size;       // [G] ... and how many follow
    int32_t* run_ptr;    // [G + 1] runs of each group
    int32_t* run;        // [R, 3] key positions side by side: the first, how many, and where their masks begin, or -1
                         // if all members meet all of them

    // P, PK: families of the walks of both trees.
    Blocks(int32_t* at, int64_t P, int64_t PK, int64_t G)
        : group_ptr(at), place(at + P + 1), first(place + PK), size(first + G), run_ptr(size + G), run(run_ptr + G + 1) {}
};
