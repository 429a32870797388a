// The arguments of one call, as Python hands them over: numbers of eight bytes, in this order, which
// that of the fields in kernels/cpu/call.py must be.
#pragma once
#include <cstdint>

// Rows [N, heads, n] of leaves; the heads of a row stand beside each other.
struct Rows {
    const char* data;
    int64_t stride, dtype;  // bytes from row to row; a Dtype
};

struct Call {
    int32_t* walk;            // see tree.h
    const int64_t* order;     // node id at each position
    int64_t T, F, R, families, tasks, tops;
    int64_t widest_;          // members of the largest family
    int64_t cost;             // of a walk, about the rows that it moves
    int64_t heads, channels, values, features;
    Rows q, k, v, out, U_leaf, grad, dq, dk, dv;
    const void *pos_q, *pos_k, *temperature, *bias;         // [T, H, P] and [T, H] by node id, or null
    void *d_pos_q, *d_pos_k, *d_temperature, *d_bias;
    const void *weight, *log_mass;                          // [T] by position, in base 2
    void* evidence;                                         // [R, H]
    const void* grad_evidence;                              // [R, H] or null
    void *means, *U, *Z, *f, *g, *W, *S, *G, *dW, *df, *z, *mu, *parts;  // see attention.h and call.py
    // Of trees that hang below others, or null: Z [R, H, V], W [R, H], gradients of means [R, H, 2 D + V].
    const void *root_Z, *root_W, *root_z;
    int64_t half;             // 1 walks up only, 2 then down only, 0 both ways
    int64_t masses, self_loop, save, seed, threads, precise;
    double scale, dropout;

    // Small numbers again.
    int H, D, V, P, widest;
    void ready() { H = (int)heads, D = (int)channels, V = (int)values, P = (int)features, widest = (int)widest_; }
};

// Attention by interaction lists. Of `query` the rows q, out, U_leaf, grad and dq count, of `key` k, v, dk and dv.
struct ListsCall {
    Call query, key;
    int32_t* blocks;                // see blocks.h
    const uint64_t* masks;
    int64_t groups;
    void *keys, *values;            // rows of the key tree, see lists.h
    void *d_keys, *d_values;        // what they get
    int64_t parts;                  // how many threads may share a head on the way back
    int64_t same;                   // whether both trees are one
    int64_t direct;                 // whether leaves' rows are read where they are: whole vectors, of the right dtype
    void ready() { query.ready(), key.ready(); }
};
