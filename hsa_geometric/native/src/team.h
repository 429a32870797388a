// Threads of one call: started for it and joined before it returns. So forks, concurrent callers and
// exit need no care; 10 to 20 microseconds for each is little where threads pay at all.
#pragma once
#include <atomic>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

class Team {
public:
    explicit Team(int size) : size(size) {}

    // Every member waits here for all others.
    void wait() {
        if (size == 1) return next_.store(0);
        int round = round_.load();
        if (arrived_.fetch_add(1) + 1 == size) {
            arrived_.store(0);
            next_.store(0);
            round_.store(round + 1);
            return;
        }
        for (int spins = 0; round_.load(std::memory_order_acquire) == round; spins++)
            if (spins > 2000) std::this_thread::yield();
#if defined(__x86_64__)
            else _mm_pause();
#endif
    }
    // Numbers 0, 1, 2, … since the last wait, each given to one member.
    int64_t next() { return next_.fetch_add(1); }

    // Calls work(team, member) by all members; the caller is member 0.
    template <class Work> static void run(int size, const Work& work) {
        if (size > 1) {
            Team team(size);
            std::vector<std::thread> others;
            // The others begin when all are there: if the system refuses one, fewer do the work.
            std::atomic<int> go{0};
            try {
                others.reserve(size - 1);
                for (int i = 1; i < size; i++)
                    others.emplace_back([&, i] {
                        while (!go.load()) std::this_thread::yield();
                        work(team, i);
                    });
            } catch (const std::system_error&) {
            } catch (const std::bad_alloc&) {
            }
            team.size = 1 + (int)others.size();
            go.store(1);
            work(team, 0);
            for (auto& thread : others) thread.join();
            return;
        }
        Team team(1);
        work(team, 0);
    }

    int size;

private:
    std::atomic<int> arrived_{0}, round_{0};
    std::atomic<int64_t> next_{0};
};
