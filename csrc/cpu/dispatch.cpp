#include "dispatch.h"

#include <atomic>
#include <stdexcept>

#if defined(FUSEDSTEP_X86)
#include "processor.h"
#endif

namespace fusedstep {

const Kernels& kernels_baseline();
#if defined(FUSEDSTEP_X86)
const Kernels& kernels_avx2();
const Kernels& kernels_avx512();
#endif

namespace cpu {
namespace {

struct Candidate {
  const char* name;
  const Kernels& (*get)();
  bool supported;
};

// Slowest first.
std::vector<Candidate> candidates() {
  std::vector<Candidate> list{{"baseline", &kernels_baseline, true}};
#if defined(FUSEDSTEP_X86)
  const Processor has = processor();
  list.push_back({"avx2", &kernels_avx2, has.avx2});
  list.push_back({"avx512", &kernels_avx512, has.avx512});
#endif
  return list;
}

const Kernels* best() {
  const Kernels* found = nullptr;
  for (const Candidate& c : candidates()) {
    if (c.supported) found = &c.get();
  }
  return found;
}

std::atomic<const Kernels*>& current() {
  static std::atomic<const Kernels*> table{best()};
  return table;
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

}  // namespace

const Kernels& kernels() { return *current().load(std::memory_order_relaxed); }

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Candidate& c : candidates()) {
    if (c.supported) names.emplace_back(c.name);
  }
  return names;
}

void set_isa(const std::string& name) {
  for (const Candidate& c : candidates()) {
    if (name != c.name) continue;
    if (!c.supported) {
      throw std::invalid_argument("this processor lacks the instruction set '" + name + "'; it has " +
                                  joined(available_isas()));
    }
    current().store(&c.get(), std::memory_order_relaxed);
    return;
  }
  throw std::invalid_argument("unknown instruction set '" + name + "'; this build and processor have " +
                              joined(available_isas()));
}

}  // namespace cpu
}  // namespace fusedstep
