// The fibers and their schedule. With ThreadSanitizer this file alone is compiled without it: the sanitizer then sees
// the kernels' accesses and the order that barriers give them, and nothing of the machinery here. For the same reason
// the containers are of types that no other file has: the linker might take their instrumented copy.
#include "emulator.h"

#include <ucontext.h>

#include <algorithm>
#include <exception>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <stdexcept>
#include <utility>

#include "sanitizers.h"

namespace emulator {
namespace {

constexpr std::size_t kStackBytes = 256 << 10;  // sanitizers need much; what is not used is never backed by memory
constexpr unsigned kWarp = 32;
constexpr int kVote = -1;  // a source

enum class State { kReady, kAtBarrier, kAtWarp, kDone };

// A CUDA thread: a fiber, used again for the thread of the same number of later blocks.
struct Thread {
  unsigned number = 0;  // in the block
  uint3 index{};
  State state = State::kReady;
  const Site* site = nullptr;  // where it waits
  unsigned mask = 0;           // and with whom, what it brings and from which lane it takes, in a warp operation
  std::uint64_t value = 0;
  int source = 0;
  bool orders_memory = false;
  std::uint64_t result = 0;

  ucontext_t context{};
  std::unique_ptr<char[]> stack;
  sanitizers::Stack stack_range{nullptr, 0};
  std::unique_ptr<sanitizers::Thread> sanitized;
};
using Team = std::vector<std::unique_ptr<Thread>>;

struct Warp {
  unsigned live = 0, waiting = 0;  // a bit for each lane
};

// All state, used by one launch at a time.
struct Machine {
  std::mutex busy;
  std::mt19937 random{0};

  const char* kernel = "";
  const std::function<void()>* body = nullptr;
  dim3 grid, block;
  uint3 block_index{};

  Team teams[sanitizers::kTeams];
  Team* team = nullptr;
  unsigned threads = 0, done = 0;  // of the block
  std::vector<Warp> warps;
  std::vector<Thread*> ready, at_barrier;

  Thread launcher;  // whoever called launch()
  Thread* running = &launcher;
  Thread* previous = nullptr;
  std::exception_ptr error;
  sanitizers::Order launch_start, launch_end, fences;
};

Machine machine;

std::string text(const uint3& i) {
  return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) + ")";
}

std::string text(const Site* site) {
  const std::string file = site->file;
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(site->line);
}

[[noreturn]] void fail(const Thread& thread, const std::string& what) {
  throw std::runtime_error("kernel '" + std::string(machine.kernel) + "', block " + text(machine.block_index) +
                           ", thread " + text(thread.index) + ": " + what);
}

// ---- The schedule ----------------------------------------------------------------------------------------------

void make_ready(Thread& thread) {
  thread.state = State::kReady;
  machine.ready.push_back(&thread);
}

[[noreturn]] void fail_stuck() {
  const Thread* stuck = nullptr;
  unsigned at_barrier = 0, at_warp = 0;
  for (unsigned i = 0; i < machine.threads; ++i) {
    const Thread& thread = *(*machine.team)[i];
    at_barrier += thread.state == State::kAtBarrier;
    at_warp += thread.state == State::kAtWarp;
    if (!stuck && thread.state != State::kDone) stuck = &thread;
  }
  fail(*stuck, "barrier not reached by every thread: this one waits at " + text(stuck->site) + "; of " +
                   std::to_string(machine.threads) + " threads " + std::to_string(at_barrier) +
                   " wait at __syncthreads, " + std::to_string(at_warp) + " at a warp operation, and " +
                   std::to_string(machine.done) + " have returned");
}

// One of those that can go on, by lot; the launcher when all are done.
Thread& draw() {
  if (machine.done == machine.threads) return machine.launcher;
  if (machine.ready.empty()) fail_stuck();
  std::swap(machine.ready[machine.random() % machine.ready.size()], machine.ready.back());
  Thread& next = *machine.ready.back();
  machine.ready.pop_back();
  return next;
}

// To be called first by whoever was switched to.
void arrive() { machine.running->stack_range.arrive(machine.previous->stack_range); }

void switch_to(Thread& next) {
  Thread& me = *machine.running;
  if (&next == &me) return;
  machine.previous = &me;
  machine.running = &next;
  me.stack_range.leave(next.stack_range);
  next.sanitized->enter();
  swapcontext(&me.context, &next.context);
  arrive();
}

// What each of the group did before comes before what any of it does after.
void order_memory(const std::vector<Thread*>& group) {
  sanitizers::Order meeting;
  for (Thread* thread : group) {
    thread->sanitized->enter();
    meeting.give();
  }
  for (Thread* thread : group) {
    thread->sanitized->enter();
    meeting.take();
  }
  machine.running->sanitized->enter();
}

// ---- Warps -----------------------------------------------------------------------------------------------------

// Lets the lanes in `thread`'s mask go on if all of them are there; those that have returned are not waited for.
void meet(const Thread& thread) {
  Warp& warp = machine.warps[thread.number / kWarp];
  const unsigned group = thread.mask & warp.live;
  if (group & ~warp.waiting) return;
  const auto lane = [&](unsigned i) -> Thread& { return *(*machine.team)[thread.number / kWarp * kWarp + i]; };
  std::vector<Thread*> members;
  unsigned votes = 0;
  for (unsigned i = 0; i < kWarp; ++i) {
    if (!(group >> i & 1)) continue;
    if (lane(i).site != thread.site || lane(i).mask != thread.mask) {
      fail(lane(i), "lanes of one warp meet at different places or with different masks: " + text(lane(i).site) +
                        " and " + text(thread.site));
    }
    if (lane(i).value) votes |= 1u << i;
    members.push_back(&lane(i));
  }
  for (Thread* member : members) {
    const int source = member->source;
    if (source != kVote && !(group >> source & 1)) {
      fail(*member, "shuffle from lane " + std::to_string(source) + ", which takes no part, at " + text(member->site));
    }
    member->result = source == kVote ? votes : lane(source).value;
  }
  if (thread.orders_memory) order_memory(members);
  warp.waiting &= ~group;
  for (Thread* member : members) make_ready(*member);
}

std::uint64_t warp_operation(unsigned mask, std::uint64_t value, int source, const Site& site, bool orders_memory) {
  Thread& me = *machine.running;
  const unsigned bit = 1u << me.number % kWarp;
  if (!(mask & bit)) fail(me, "lane " + std::to_string(lane()) + " is not in its own mask at " + text(&site));
  me.state = State::kAtWarp;
  me.site = &site;
  me.mask = mask;
  me.value = value;
  me.source = source;
  me.orders_memory = orders_memory;
  machine.warps[me.number / kWarp].waiting |= bit;
  meet(me);
  switch_to(draw());
  return me.result;
}

// ---- A thread's life -------------------------------------------------------------------------------------------

void finish(Thread& me) {
  machine.launch_end.give();
  me.state = State::kDone;
  ++machine.done;
  Warp& warp = machine.warps[me.number / kWarp];
  warp.live &= ~(1u << me.number % kWarp);
  // Lanes that waited for this one alone can go on now.
  for (unsigned i = 0; i < kWarp; ++i) {
    if (warp.waiting >> i & 1) meet(*(*machine.team)[me.number / kWarp * kWarp + i]);
  }
}

void thread_main() {
  arrive();
  for (;;) {
    Thread* next = &machine.launcher;
    try {
      machine.launch_start.take();
      (*machine.body)();
      finish(*machine.running);
      next = &draw();
    } catch (...) {
      machine.error = std::current_exception();
    }
    switch_to(*next);
  }
}

std::unique_ptr<Thread> make_thread(unsigned number) {
  auto thread = std::make_unique<Thread>();
  thread->number = number;
  thread->stack.reset(new char[kStackBytes]);
  thread->stack_range = {thread->stack.get(), kStackBytes};
  thread->sanitized = std::make_unique<sanitizers::Thread>();
  getcontext(&thread->context);
  thread->context.uc_stack.ss_sp = thread->stack.get();
  thread->context.uc_stack.ss_size = kStackBytes;
  makecontext(&thread->context, thread_main, 0);
  thread->context.uc_stack.ss_size = 0;  // else AddressSanitizer clears its marks on the stack at every switch
  return thread;
}

// After an error: threads that wait in the middle of the kernel cannot be used again. Their stacks are not unwound.
void abandon_threads() {
  for (Team& team : machine.teams) {
    for (const auto& thread : team) {
      thread->sanitized->enter();
      machine.launch_end.give();
    }
  }
  machine.launcher.sanitized->enter();
  machine.launch_end.take();
  for (Team& team : machine.teams) team.clear();
}

void run_block() {
  const dim3& size = machine.block;
  machine.threads = size.x * size.y * size.z;
  machine.done = 0;
  machine.team = &machine.teams[machine.random() % sanitizers::kTeams];
  machine.warps.assign((machine.threads + kWarp - 1) / kWarp, Warp{});
  machine.ready.clear();
  machine.at_barrier.clear();
  machine.ready.reserve(machine.threads);  // now: to ThreadSanitizer the fibers would race for new memory
  machine.at_barrier.reserve(machine.threads);
  for (unsigned i = 0; i < machine.threads; ++i) {
    if (i == machine.team->size()) machine.team->push_back(make_thread(i));
    Thread& thread = *(*machine.team)[i];
    thread.index = {i % size.x, i / size.x % size.y, i / size.x / size.y};
    machine.warps[i / kWarp].live |= 1u << i % kWarp;
    make_ready(thread);
  }
  sanitizers::forget_shared_arrays();
  switch_to(draw());
}

}  // namespace

const uint3& thread_index() { return machine.running->index; }
const uint3& block_index() { return machine.block_index; }
const dim3& block_size() { return machine.block; }
const dim3& grid_size() { return machine.grid; }
unsigned lane() { return machine.running->number % kWarp; }

void sync_threads(const Site& site) {
  Thread& me = *machine.running;
  std::vector<Thread*>& waiting = machine.at_barrier;
  if (!waiting.empty() && waiting[0]->site != &site) {
    fail(me, "threads meet at different __syncthreads: " + text(waiting[0]->site) + " and " + text(&site));
  }
  me.state = State::kAtBarrier;
  me.site = &site;
  waiting.push_back(&me);
  if (waiting.size() == machine.threads) {
    order_memory(waiting);
    for (Thread* thread : waiting) make_ready(*thread);
    waiting.clear();
  }
  switch_to(draw());
}

void sync_warp(unsigned mask, const Site& site) { warp_operation(mask, 0, kVote, site, true); }

std::uint64_t shuffle(unsigned mask, std::uint64_t value, unsigned source, const Site& site) {
  return warp_operation(mask, value, static_cast<int>(source), site, false);
}

unsigned ballot(unsigned mask, bool vote, const Site& site) {
  return static_cast<unsigned>(warp_operation(mask, vote, kVote, site, false));
}

void fence() {
  machine.fences.give();
  machine.fences.take();
}

void set_seed(std::uint32_t seed) {
  const std::lock_guard<std::mutex> lock(machine.busy);
  machine.random.seed(seed);
}

void run_grid(const char* kernel, dim3 grid, dim3 block, const std::function<void()>& body) {
  const std::lock_guard<std::mutex> lock(machine.busy);
  machine.kernel = kernel;
  machine.body = &body;
  machine.grid = grid;
  machine.block = block;
  machine.launcher.sanitized = std::make_unique<sanitizers::Thread>(sanitizers::Thread::current());
  machine.launch_start.give();
  // All blocks, from a random one on, a random number of blocks further each time.
  const std::uint64_t blocks = std::uint64_t{grid.x} * grid.y * grid.z;
  std::uint64_t at = machine.random() % blocks, stride = 1 + machine.random() % blocks;
  while (std::gcd(stride, blocks) != 1) ++stride;
  for (std::uint64_t i = 0; i < blocks && !machine.error; ++i, at = (at + stride) % blocks) {
    machine.block_index = {static_cast<unsigned>(at % grid.x), static_cast<unsigned>(at / grid.x % grid.y),
                           static_cast<unsigned>(at / grid.x / grid.y)};
    run_block();
  }
  if (machine.error) abandon_threads();
  machine.launch_end.take();
  if (machine.error) std::rethrow_exception(std::exchange(machine.error, nullptr));
}

}  // namespace emulator
