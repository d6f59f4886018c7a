#include <cstdlib>
#include <cstring>

#include "cpu/simd/variants.h"

namespace dynamask::simd {
namespace {

InstructionSet best_of_this_machine() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return InstructionSet::avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return InstructionSet::avx2;
#endif
  return InstructionSet::baseline;
}

InstructionSet choose() {
  const auto best = best_of_this_machine();
  const char* wanted = std::getenv("DYNAMASK_SIMD");
  if (!wanted) return best;
  auto set = best;
  if (!std::strcmp(wanted, "baseline")) set = InstructionSet::baseline;
  if (!std::strcmp(wanted, "avx2")) set = InstructionSet::avx2;
  return set < best ? set : best;
}

const InstructionSet chosen = choose();

}  // namespace

InstructionSet instruction_set() { return chosen; }

}  // namespace dynamask::simd
