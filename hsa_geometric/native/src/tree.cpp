// The index of a parent vector and the order in which the kernel walks a tree, in linear time.
#include <cstdint>
#include <cstring>
#include <vector>

#include "tree.h"
#include "export.h"

// Fields of TreeIndex from parent [T]. The vectors are as long as their names in tree.h say, at most.
// Returns the number of nodes reached from the roots: fewer than T where there is a cycle, -1 where a
// parent is out of range.
EXPORT int64_t hsa_index(const int64_t* parent, int64_t T, int64_t* order, int64_t* position, int64_t* up,
                             int64_t* starts, int64_t* leaf, int64_t* count, int64_t* family_parent,
                             int64_t* family_ptr, int64_t* sizes) {
    std::vector<int32_t> children(T + 1, 0), first(T + 1, 0), below(T), queue(T), level(T, 0);
    int64_t roots = 0;
    for (int64_t a = 0; a < T; a++) {
        if (parent[a] < 0 || parent[a] >= T) return -1;
        if (parent[a] == a) queue[roots++] = (int32_t)a;
        else children[parent[a]]++;
    }
    for (int64_t a = 0; a < T; a++) first[a + 1] = first[a] + children[a];
    std::vector<int32_t> at(first.begin(), first.end() - 1);
    for (int64_t a = 0; a < T; a++)
        if (parent[a] != a) below[at[parent[a]]++] = (int32_t)a;  // by parent, then id
    // Level by level from the roots; how many families are on each.
    std::vector<int64_t> families(1, 0);
    int64_t reached = roots;
    for (int64_t i = 0; i < reached; i++) {
        int32_t a = queue[i], n = children[a];
        if (!n) continue;
        if ((size_t)level[a] >= families.size()) families.push_back(0);
        families[level[a]]++;
        for (int32_t j = 0; j < n; j++) {
            int32_t b = below[first[a] + j];
            level[b] = level[a] + 1;
            queue[reached++] = b;
        }
    }
    if (reached < T) return reached;
    // Families by (level of the parent, its id), so that levels and families are slices.
    int64_t inner = 0, depth = 0;
    while (depth < (int64_t)families.size() && families[depth]) inner += families[depth++];
    std::vector<int64_t> place(depth + 1, 0);
    for (int64_t l = 0; l < depth; l++) place[l + 1] = place[l] + families[l];
    std::vector<int64_t> open(place.begin(), place.end());
    int64_t leaves = 0;
    for (int64_t a = 0; a < T; a++)
        if (children[a]) family_parent[open[level[a]]++] = a;  // an id as yet
    int64_t next = roots;
    for (int64_t r = 0; r < roots; r++) order[r] = queue[r], position[queue[r]] = r, up[r] = r;
    for (int64_t l = 0, f = 0; l < depth; l++) {
        starts[l] = next;
        for (; f < place[l + 1]; f++) {
            int64_t a = family_parent[f];
            family_ptr[f] = next;
            family_parent[f] = position[a];
            for (int32_t j = 0; j < children[a]; j++, next++) {
                int64_t b = below[first[a] + j];
                order[next] = b;
                position[b] = next;
                up[next] = position[a];
            }
        }
    }
    family_ptr[inner] = next;
    for (int64_t a = 0; a < T; a++) {
        if (children[a]) count[position[a]] = 0;
        else count[position[a]] = 1, leaf[leaves++] = position[a];
    }
    for (int64_t i = T - 1; i >= roots; i--) count[up[i]] += count[i];
    sizes[0] = roots, sizes[1] = leaves, sizes[2] = inner, sizes[3] = depth;
    return T;
}

// The walk of a tree, see tree.h. `walk` has room for 6 (F + R) + T numbers.
// sizes: P, tasks, families above them, members of the widest, and about what all cost.
EXPORT void hsa_walk(const int64_t* family_parent, const int64_t* family_ptr, const int64_t* leaf, int64_t T,
                         int64_t N, int64_t F, int64_t R, int32_t* walk, int64_t* sizes) {
    std::vector<int32_t> family(T, -1), row(T, -1), number(F, 1), open(F), root(F, -1);
    for (int64_t i = 0; i < N; i++) row[leaf[i]] = (int32_t)i;
    std::vector<int32_t> inside(T, -1);  // the family that each node is in
    for (int64_t f = 0; f < F; f++) {
        family[family_parent[f]] = (int32_t)f;
        for (int64_t i = family_ptr[f]; i < family_ptr[f + 1]; i++) inside[i] = (int32_t)f;
    }
    std::vector<int64_t> cost(F);
    int64_t widest = 1, total = 0;
    for (int64_t f = F - 1; f >= 0; f--) {  // children before parents
        int64_t size = family_ptr[f + 1] - family_ptr[f];
        widest = size > widest ? size : widest;
        cost[f] += size * (4 + (size < 1024 ? size : 1024) / 4);
        if (family_parent[f] < R) continue;
        int32_t lo = inside[family_parent[f]];
        number[lo] += number[f];
        cost[lo] += cost[f];
    }
    // Post-order: the families of a subtree are one range that ends with its top.
    Walk w(walk, T, F, R);
    int64_t P = 0;
    for (int64_t r = 0; r < R; r++) {
        int32_t f = family[r];
        if (f < 0) {  // a root that is a leaf counts as a family of one
            w.first[P] = (int32_t)r, w.size[P] = 1, w.tree[P] = (int32_t)r, w.source[r] = row[r];
            total += 4;
            P++;
        } else {
            open[f] = (int32_t)P;
            root[f] = (int32_t)r;
            P += number[f];
            total += cost[f];
        }
    }
    int64_t target = total / 24;
    target = target < 4096 ? 4096 : target > 1 << 20 ? 1 << 20 : target;
    std::vector<int64_t> price(P, 4);
    std::vector<char> top(P, 0), loose(P, 1);  // loose: nothing of a task is above
    for (int64_t f = 0; f < F; f++) {
        int64_t begin = open[f], own = begin + number[f] - 1;
        w.first[own] = (int32_t)family_ptr[f];
        w.size[own] = (int32_t)(family_ptr[f + 1] - family_ptr[f]);
        w.tree[own] = root[f];
        price[own] = cost[f];
        top[own] = cost[f] > target;
        if (root[f] >= 0) w.source[family_parent[f]] = -1 - (int32_t)own;
        for (int64_t i = family_ptr[f]; i < family_ptr[f + 1]; i++) {
            int32_t c = family[i];
            if (c < 0) {
                w.source[i] = row[i];
            } else {
                open[c] = (int32_t)begin;
                begin += number[c];
                w.source[i] = -1 - (int32_t)(begin - 1);
                loose[begin - 1] = top[own];
            }
        }
    }
    // Tasks are ranges of whole subtrees of about the target's cost; what is above them is the top.
    int32_t* out = w.tasks;
    int64_t tasks = 0, tops = 0, from = 0, sum = 0;
    auto close = [&](int64_t to) {
        if (to > from) out[2 * tasks] = (int32_t)from, out[2 * tasks + 1] = (int32_t)to, tasks++;
        from = to, sum = 0;
    };
    std::vector<int32_t> above;
    for (int64_t p = 0; p < P; p++) {
        if (top[p]) {
            close(p);
            above.push_back((int32_t)p);
            from = p + 1;
        } else if (loose[p]) {
            sum += price[p];
            if (sum >= target) close(p + 1);
        }
    }
    close(P);
    for (int32_t p : above) out[2 * tasks + tops++] = p;
    sizes[0] = P, sizes[1] = tasks, sizes[2] = tops, sizes[3] = widest, sizes[4] = total;
}
