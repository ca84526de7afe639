// Runs CUDA kernels on a CPU, to test their arithmetic where there is no GPU. Not for speed.
//
// Every thread of a block is a fibre. Fibres run in an order drawn from a seed, warp by warp, and change only where
// threads meet: at barriers, shuffles, matrix instructions. Undefined behaviour of a GPU is made visible: shared memory
// and the targets of copies in flight hold NaN until they are written, misaligned or foreign addresses stop the run,
// and so does a barrier that not all threads reach. A kernel whose result depends on the seed has a race.
//
// Not emulated: divergence inside a warp at a collective, caches, bank conflicts, time.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__
#define __constant__
#define __restrict__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct uint4 { unsigned x, y, z, w; };
struct uint2 { unsigned x, y; };
struct dim3 { unsigned x = 1, y = 1, z = 1; };

namespace emulator {

constexpr int LANES = 32, BARRIERS = 16, STACK_BYTES = 256 << 10, GUARD_BYTES = 4096;

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "emulated kernel: %s\n", what);
  std::fflush(stderr);
  std::abort();
}

struct Copy { char* to; const char* from; int bytes, filled; };

struct Fibre {
  ucontext_t start;
  jmp_buf resume;
  std::unique_ptr<char[]> stack;
  enum { FRESH, RUNNABLE, WAITING, DONE } state = FRESH;
  int thread = 0, warp = 0, lane = 0;
  std::vector<std::vector<Copy>> groups;  // committed asynchronous copies, oldest first
  std::vector<Copy> open;
};

// Where the 32 threads of a warp meet.
struct Meeting {
  int arrived = 0;
  void* arguments[LANES];
  const void* what = nullptr;
};

struct Barrier { int arrived = 0; };

struct Block {
  std::vector<Fibre> fibres;
  std::vector<Meeting> meetings;
  Barrier barriers[BARRIERS];
  std::vector<std::vector<Fibre*>> waiting = std::vector<std::vector<Fibre*>>(BARRIERS);
  std::vector<char> shared;
  size_t shared_bytes = 0;
  std::function<void()> body;
  jmp_buf scheduler;
  Fibre* current = nullptr;
  uint64_t random = 1;
  dim3 block_index, grid, threads;
};

inline Block* block = nullptr;

inline char* shared_base() {
  auto address = reinterpret_cast<uintptr_t>(block->shared.data()) + GUARD_BYTES;
  return reinterpret_cast<char*>((address + 1023) / 1024 * 1024);
}

inline void pause() {
  if (_setjmp(block->current->resume) == 0) _longjmp(block->scheduler, 1);
}

inline void enter() {
  block->body();
  if (!block->current->open.empty() || !block->current->groups.empty()) fail("a thread ends with copies in flight");
  block->current->state = Fibre::DONE;
  _longjmp(block->scheduler, 1);
}

// Calls `act(arguments of the 32 lanes)` once all of them are here.
template <class Argument, class Act>
void together(const void* what, Argument& argument, Act act) {
  Fibre* fibre = block->current;
  Meeting& meeting = block->meetings[fibre->warp];
  if (meeting.arrived && meeting.what != what) fail("the lanes of a warp meet at different instructions");
  meeting.what = what;
  meeting.arguments[fibre->lane] = &argument;
  if (++meeting.arrived < LANES) {
    fibre->state = Fibre::WAITING;
    pause();
    return;
  }
  Argument* all[LANES];
  for (int lane = 0; lane < LANES; ++lane) all[lane] = static_cast<Argument*>(meeting.arguments[lane]);
  act(all);
  meeting.arrived = 0;
  for (int lane = 0; lane < LANES; ++lane) block->fibres[fibre->warp * LANES + lane].state = Fibre::RUNNABLE;
}

inline void barrier(int id, int count) {
  Barrier& here = block->barriers[id];
  if (count % LANES || count > static_cast<int>(block->fibres.size())) fail("a barrier of an impossible count");
  if (++here.arrived < count) {
    block->current->state = Fibre::WAITING;
    block->waiting[id].push_back(block->current);
    pause();
    return;
  }
  here.arrived = 0;
  for (Fibre* fibre : block->waiting[id]) fibre->state = Fibre::RUNNABLE;
  block->waiting[id].clear();
}

inline void check_shared(const void* address, int bytes, int alignment) {
  auto offset = static_cast<const char*>(address) - shared_base();
  if (offset < 0 || offset + bytes > static_cast<long>(block->shared_bytes)) fail("an address outside shared memory");
  if (offset % alignment) fail("a misaligned address in shared memory");
}

inline void check_aligned(const void* address, int alignment) {
  if (reinterpret_cast<uintptr_t>(address) % alignment) fail("a misaligned address in global memory");
}

inline void copy_async(void* to, const void* from, int bytes, int filled) {
  check_shared(to, bytes, bytes);
  if (filled) check_aligned(from, bytes);
  std::memset(to, 0xff, bytes);
  block->current->open.push_back({static_cast<char*>(to), static_cast<const char*>(from), bytes, filled});
}

inline void copy_commit() {
  block->current->groups.push_back(std::move(block->current->open));
  block->current->open.clear();
}

inline void copy_wait(int left) {
  auto& groups = block->current->groups;
  while (static_cast<int>(groups.size()) > left) {
    for (const Copy& copy : groups.front()) {
      std::memset(copy.to, 0, copy.bytes);
      if (copy.filled) std::memcpy(copy.to, copy.from, copy.filled);
    }
    groups.erase(groups.begin());
  }
}

inline unsigned draw(unsigned below) {
  block->random = block->random * 6364136223846793005ull + 1442695040888963407ull;
  return static_cast<unsigned>((block->random >> 33) % below);
}

inline void run(Block& self) {
  block = &self;
  const int warps = static_cast<int>(self.meetings.size());
  for (;;) {
    bool done = true, moved = false;
    const int first = draw(warps), turn = draw(2);
    for (int i = 0; i < warps; ++i) {
      const int warp = (first + (turn ? i : warps - i)) % warps;
      for (int lane = 0; lane < LANES; ++lane) {
        Fibre& fibre = self.fibres[warp * LANES + lane];
        done = done && fibre.state == Fibre::DONE;
        if (fibre.state != Fibre::FRESH && fibre.state != Fibre::RUNNABLE) continue;
        moved = true;
        self.current = &fibre;
        if (_setjmp(self.scheduler) == 0) {
          if (fibre.state == Fibre::RUNNABLE) _longjmp(fibre.resume, 1);
          fibre.state = Fibre::RUNNABLE;
          setcontext(&fibre.start);
        }
      }
      if (moved && draw(4) == 0) break;  // let another warp overtake
    }
    if (done) return;
    if (!moved) fail("the threads wait for each other");
  }
}

// Runs `body` for every thread of every block of the grid.
inline void launch(dim3 grid, dim3 threads, size_t shared_bytes, uint64_t seed, std::function<void()> body) {
  const int count = threads.x * threads.y * threads.z;
  if (count % LANES) fail("a block is not whole warps");
  Block self;
  self.fibres.resize(count);
  self.meetings.resize(count / LANES);
  self.shared_bytes = shared_bytes;
  self.body = std::move(body);
  self.random = seed * 2 + 1;
  self.grid = grid;
  self.threads = threads;
  for (int thread = 0; thread < count; ++thread) {
    Fibre& fibre = self.fibres[thread];
    fibre.thread = thread;
    fibre.warp = thread / LANES;
    fibre.lane = thread % LANES;
    fibre.stack = std::make_unique<char[]>(STACK_BYTES);
  }
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        self.block_index = {x, y, z};
        self.shared.assign(shared_bytes + 2 * GUARD_BYTES + 1024, static_cast<char>(0xff));
        for (Fibre& fibre : self.fibres) {
          getcontext(&fibre.start);
          fibre.start.uc_stack.ss_sp = fibre.stack.get();
          fibre.start.uc_stack.ss_size = STACK_BYTES;
          fibre.start.uc_link = nullptr;
          makecontext(&fibre.start, enter, 0);
          fibre.state = Fibre::FRESH;
        }
        run(self);
        block = &self;
        const char* end = shared_base() + shared_bytes;
        for (int i = 0; i < GUARD_BYTES; ++i)
          if (end[i] != static_cast<char>(0xff) || shared_base()[-1 - i] != static_cast<char>(0xff))
            fail("a write outside shared memory");
      }
}

inline dim3 thread_index() {
  const dim3 size = block->threads;
  const unsigned thread = block->current->thread;
  return {thread % size.x, thread / size.x % size.y, thread / (size.x * size.y)};
}

}  // namespace emulator

#define threadIdx (emulator::thread_index())
#define blockIdx (emulator::block->block_index)
#define blockDim (emulator::block->threads)
#define gridDim (emulator::block->grid)
